"""docs/security.md: every test that it names exists, and no threat is without one."""

from __future__ import annotations

import ast
import re

from tests.markdown import rows
from tests.server_process import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_is_named_exists() -> None:
    """Each `file::name` of the threat list is a test function of that file."""
    named = NAMED.findall(TEXT)
    assert len(named) > 50
    for file, name in named:
        source = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_no_threat_is_without_a_test() -> None:
    """Each row of the threat list names one."""
    threats = TEXT.split("\n## Threats\n")[1].split("\n## ")[0]
    found = [row for row in rows(threats) if row[-1] != "test"]
    assert len(found) > 25
    for row in found:
        assert NAMED.search(row[-1]), row
