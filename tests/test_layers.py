"""Imports point only downwards, and the core needs nothing but its dependencies: read from the source.

Of the tests themselves: what several need stands in a module of its own.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import hypotest

PACKAGE = Path(hypotest.__file__).parent
LAYERS = [
    ["__main__"],
    ["cli"],
    ["demo"],
    ["commands"],
    ["report"],
    ["onlooker"],
    ["integrations"],
    ["__init__"],
    ["api"],
    ["health"],
    ["runtime"],
    ["client"],
    ["leader"],
    ["leadership"],
    ["neighbours", "poller", "sender"],
    ["backlog", "publisher", "spool", "survey", "transport", "validation"],
    ["retirement"],
    ["durability", "post", "quarantine", "source"],
    ["instance"],
    ["document", "events", "segment", "settings", "snapshot"],
    ["control", "explanation", "header", "lock", "statedir", "watch"],
    ["assignment", "conditions", "config"],
    ["condition_nodes", "variant"],
    ["condition_tokens"],
    ["accounts", "log", "platform"],
    ["errors", "handler"],
    ["interrupts", "lazy", "pace", "record"],
]
RANK = {module: -rank for rank, layer in enumerate(LAYERS) for module in layer}
CORE_DEPENDENCIES = {"mmh3", "orjson", "requests", "urllib3"}  # urllib3 is the part of requests that reads
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "ctypes"}


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_of(path: Path) -> str:
    """The first part of the name under the package: `server` for all of hypotest/server."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


LATE = ("lazy.load", "lazy.load_aside", "lazy.load_within")


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import or in lazy.load, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "hypotest" else {module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in LATE:
            assert isinstance(node.args[0], ast.Constant)
            found.add(str(node.args[0].value))
    return found


def own(name: str) -> str | None:
    """The module of this package that an import names."""
    parts = name.split(".")
    return None if parts[0] != "hypotest" else parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", [path for path in sources() if module_of(path) != "server"], ids=module_of)
def test_imports_point_downwards(path: Path) -> None:
    """A module imports only from layers below its own, also where it imports late, or for type checkers alone."""
    module = module_of(path)
    assert module in RANK, f"{module} has no layer"
    for name in imports(path):
        target = own(name)
        if target is not None and target not in (module, "server"):
            assert RANK.get(target, 1) < RANK[module], f"{module} imports {target}"


def test_the_core_does_not_know_the_server() -> None:
    """Nothing but the command line imports the local server."""
    users = {module_of(path) for path in sources() for name in imports(path) if own(name) == "server"}
    assert users == {"server", "cli"}


def test_the_core_needs_its_dependencies_only() -> None:
    """Outside server and demo, only the standard library and the core dependencies are imported."""
    allowed = CORE_DEPENDENCIES | set(sys.stdlib_module_names) | {"hypotest"}
    for path in sources():
        if module_of(path) not in ("server", "demo", "integrations"):
            assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_settings_are_data() -> None:
    """No eval, exec, compile or pickle anywhere in the package."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
        assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_MODULES, path


def test_threads_hooks_and_exits_live_in_runtime() -> None:
    """Only runtime.py starts threads and registers fork hooks and exit handlers."""
    marks = ("threading.Thread(", "register_at_fork(", "atexit.register(")
    core = [path for path in sources() if module_of(path) in RANK and module_of(path) != "demo"]
    assert {path.name for path in core if any(mark in path.read_text() for mark in marks)} == {"runtime.py"}


def test_no_test_module_serves_as_a_library() -> None:
    """Nothing imports from a test_*.py, nor does a script that a test runs in a process of its own."""
    root = Path(__file__).resolve().parent.parent
    for path in [*sources(root / "tests"), *sources(root / "stress")]:
        found = re.search(r"\b(from|import) tests(\.\w+)*\.test_\w+", path.read_text())
        assert not found, f"{path}: {found[0]}"


def test_the_public_names() -> None:
    """What the package exports is what the README documents, no more."""
    assert sorted(hypotest.__all__) == [
        "Status",
        "Variant",
        "__version__",
        "config",
        "experiment",
        "flush",
        "kpi_event",
        "match_user_visitor",
        "status",
        "wait_until_ready",
    ]
    assert all(hasattr(hypotest, name) for name in hypotest.__all__)
