"""The README is true: its examples run, its tables are those of the code, its links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import hypotest
from hypotest import accounts, cli
from hypotest.config import OPTIONS
from hypotest.health import Status
from hypotest.server import experiments as server_experiments
from tests.differences import CALLS, DIFFERENCES, ENTRIES
from tests.markdown import rows
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "hypotest"
FUNCTIONS = [name for name in hypotest.__all__ if inspect.isfunction(getattr(hypotest, name))]
HEADINGS = re.compile(r"^#+ (.*)$", re.MULTILINE)
LOG_METHODS = ("log.line", "log.limited")
WHITESPACE = re.compile(r"\s+")


def blocks(language: str, text: str = README) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the number of its first line."""
    return [
        (text.count("\n", 0, found.start(1)) + 1, found[1])
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def section(title: str) -> str:
    """The text below a heading, down to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", README, re.MULTILINE)
    assert found, f"README has no heading {title!r}"
    rest = README[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def code(cell: str) -> str:
    """The first code span of a cell."""
    found = re.search(r"`([^`]*)`", cell)
    assert found, f"no code in {cell!r}"
    return found[1]


def experiments_file(directory: Path) -> Path:
    """The experiments file of the quick start."""
    ((_, text),) = blocks("yaml")
    path = directory / "experiments.yaml"
    path.write_text(text)
    return path


def test_the_first_thing_is_two_commands() -> None:
    """The first block of code has the two commands that show and prove the product, and nothing else."""
    first = re.search(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert first
    assert first[1].splitlines() == ["make demo", "make test"]
    before = [line for line in README[: first.start()].splitlines() if line]
    assert before[0].startswith("# ")
    assert " ".join(before[1:]).count(".") == 1, "one sentence stands before it"


def test_every_example_runs_and_says_the_truth(tmp_path: Path) -> None:
    """All python blocks, one after the other as one program, against a real server; prints give what stands beside."""
    found = blocks("python")
    assert len(found) >= len(FUNCTIONS)
    # Each keeps its line in the README, for the traceback of an assert that fails.
    program = (
        "hypotest.wait_until_ready.__defaults__ = hypotest.flush.__defaults__ = (60.0,)  # this machine may be busy\n"
    )
    program += "".join(f"exec(compile({chr(10) * (at - 1) + text!r}, 'README.md', 'exec'))\n" for at, text in found)
    options = ("--experiments", str(experiments_file(tmp_path)))
    with ServerProcess(tmp_path, experiments=None, options=options) as server:
        # Buffered: a line of the log may come between a text and its end of line.
        output = run(program, sdk_env(server, tmp_path / "state") | {"PYTHONUNBUFFERED": ""})
        stored = server.accounts()["by_type"]
        tests = server.results()["experiments"]
    expected = [said[1] for _, text in found for said in re.finditer(r"^print\(.*\)\s+# ([^:\n]*)", text, re.MULTILINE)]
    own = [line for line in output.splitlines() if " hypotest[" not in line]
    assert own == expected
    assert "pull_interval: expected a number" in output
    # The quick start's visit, and one for each call of `experiment` that says it reports an exposure.
    assert stored == {"visit": 3, "goal": 4, "match_user_visitor": 1}
    assert tests["checkout_button"]["variants"]["b"]["goals"]["purchase"]["sum"] == pytest.approx(
        49.90 + 19.99 + 1.0
    )  # 1001 is v-17
    assert tests["german_banner"]["variants"]["b"]["exposures"] == 1


def test_the_quick_start_has_six_lines() -> None:
    """The first python block has the six lines it is announced with."""
    assert "Six lines that work" in README
    assert len(blocks("python")[0][1].splitlines()) == 6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_documented(name: str) -> None:
    """The table below a function's heading has its parameters, in their order, with their defaults."""
    documented = {code(row[0]): row for row in rows(section(name)) if len(row) == 4 and row[0] != "parameter"}
    parameters = inspect.signature(getattr(hypotest, name)).parameters
    assert list(documented) == list(parameters)
    for parameter in parameters.values():
        default = documented[parameter.name][2]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert default == "none"
        elif parameter.default is inspect.Parameter.empty:
            assert default == "required"
        else:
            assert ast.literal_eval(code(default)) == parameter.default
    assert all(row[1] for row in documented.values()), "each has a type"


def test_every_public_name_is_documented() -> None:
    """Each name of the package, and each public attribute of a Variant, stands in the README."""
    for name in hypotest.__all__:
        assert name in ("__version__", "Status") or f"### {name}\n" in README
    for name in inspect.signature(hypotest.Variant).parameters:
        assert f"`{name}`" in section("Variant")
    for name in vars(hypotest.Variant):
        assert name.startswith("_") or f".{name}" in section("Variant")


def test_every_field_of_the_status_is_documented() -> None:
    """The fields of `status()`, and the reasons under which events are counted."""
    text = section("status")
    assert "`Status`" in text
    for name in Status().to_dict():
        assert f"`{name}`" in text
    for reason in (*accounts.REFUSALS, *accounts.DROPS):
        assert f"`{reason}`" in text


def test_the_table_of_configuration() -> None:
    """Names, environment variables and defaults are those of `hypotest.config.OPTIONS`, in its order."""
    table = [row for row in rows(section("Configuration")) if row[0] != "parameter"]
    assert [code(row[0]) for row in table] == list(OPTIONS)
    for name, env, default, meaning in table:
        option = OPTIONS[code(name)]
        assert code(env) == option.env
        assert ast.literal_eval(code(default)) == option.default
        assert meaning


def test_the_command_line() -> None:
    """Every command is in the table, with every option of its own, and every common option beside it."""
    text = section("Command line")
    documented = {code(row[0]).split()[1]: row[0] for row in rows(text) if row[0].startswith("`hypotest ")}
    assert set(documented) == set(cli._COMMANDS)
    for name, command in cli._COMMANDS.items():
        parser = cli._Parser(add_help=False)
        command.declare(parser)
        for action in parser._actions:
            for option in action.option_strings:
                assert option in documented[name], f"{name} {option}"
    for action in cli._common_options()._actions:
        for option in action.option_strings:
            assert option in text


def test_the_experiments_file() -> None:
    """The table of its fields is complete, and their defaults are those of an entry that has only variants."""
    table = {code(row[0]): row[1] for row in rows(section("Local server")) if len(row) == 3 and row[0].startswith("`")}
    documented = {name: default for name, default in table.items() if not name.startswith("--")}
    assert set(documented) == set(server_experiments._PLAIN_FIELDS)
    entry = server_experiments.load("shop: {variants: [control, b]}").tests["shop"]
    for name, default in documented.items():
        if name in ("variants", "override", "test_id"):
            continue
        value = "" if default == "empty" else code(default)
        actual = entry[server_experiments._WIRE[name]]
        assert value == (str(actual) if not isinstance(actual, bool) else str(actual).lower())


def log_messages() -> list[str]:
    """The formats of all lines that the package logs, read from the source."""
    found = []
    for path in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("integrations/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in LOG_METHODS:
                place = 2 if ast.unparse(node.func) == "log.limited" else 1
                if isinstance(node.args[place], ast.Constant):
                    found.append(str(node.args[place].value))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "self._complain":
                found.append(ast.unparse(node.args[0]).strip("f'\""))
    return found


def shape(message: str) -> str:
    """A format or a cell with `...` for whatever varies."""
    return WHITESPACE.sub(" ", re.sub(r"%[\d.]*[a-z]|\{[^}]*\}", "...", message))


def test_every_line_of_the_log_is_explained() -> None:
    """Each line that the package can log is in the table, and the table has no line that it cannot."""
    explained = [
        pattern
        for row in rows(section("Lines of the log"))
        if row[0] != "line"
        for pattern in re.findall(r"`([^`]*)`", row[0])
    ]
    without_words = {"...": "... is not used: ...", "...: ...": "'...': ..."}  # and how the table has them
    assert set(without_words.values()) <= set(explained)
    shapes = {shape(message) for message in log_messages()} - set(without_words)
    assert len(shapes) >= 25
    explained = [pattern for pattern in explained if pattern not in without_words.values()]
    regexes = {pattern: re.compile(".*".join(map(re.escape, pattern.split("...")))) for pattern in explained}
    for line in sorted(shapes):
        assert any(regex.fullmatch(line) for regex in regexes.values()), f"not in the README: {line}"
    for pattern, regex in regexes.items():
        assert any(regex.fullmatch(line) for line in shapes), f"never logged: {pattern}"


def test_the_differences_from_1_0_9_are_listed() -> None:
    """Each difference that the comparison with 1.0.9 permits stands in the migration notes, and no other."""
    table = README.split("they may differ by these ten rules")[1].split("Everything else that differs")[0]
    assert len(rows(table)) - 1 == len(DIFFERENCES) == 10
    for difference in DIFFERENCES:
        assert difference.name in table
    assert f"{ENTRIES * CALLS:,} random calls" in README


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as they are made on code hosts."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADINGS.findall(text)}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "docs/design.md", "docs/security.md", "SECURITY.md"])
def test_relative_links_resolve(name: str) -> None:
    """Every link without a scheme leads to a file of the project, and to a heading in it if it names one."""
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_the_map_of_modules_is_complete() -> None:
    """docs/design.md has a row for every module of the package, and for no other."""
    table = DESIGN.split("## Modules")[1].split("\n## ")[0]
    documented = [name for row in rows(table) for name in re.findall(r"`(\w+(?:\.py|/))`", row[0])]
    actual = {path.name for path in PACKAGE.glob("*.py")}
    actual |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(documented) == sorted(actual)


def test_the_changelog_has_this_version() -> None:
    """The newest entry of the changelog is the version of the package."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions: list[Any] = re.findall(r"^## \[(\d[^\]]*)\]", text, re.MULTILINE)
    assert versions[0] == hypotest.__version__
