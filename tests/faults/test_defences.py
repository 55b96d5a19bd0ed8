"""The list of defences is about this source and these tests."""

from __future__ import annotations

import ast

import pytest

from tests.faults import table
from tests.faults.defences import Fault, faults
from tests.server_process import ROOT

ALL = [fault for area in faults().values() for fault in area]


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.fault)
def test_what_is_taken_away_stands_in_the_source_once(fault: Fault) -> None:
    """Each defence can be taken away, since its text stands in its file, and at one place only."""
    assert fault.removals
    for removal in fault.removals:
        assert (ROOT / removal.file).read_text().count(removal.old) == 1, removal
        assert removal.new != removal.old


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.fault)
def test_its_test_exists(fault: Fault) -> None:
    """The test that a fault names is a function of the file that it names."""
    file, _, name = fault.test.partition("::")
    source = ast.parse((ROOT / file).read_text())
    defined = {node.name for node in ast.walk(source) if isinstance(node, ast.FunctionDef)}
    assert name.partition("[")[0] in defined


def test_the_document_has_them_all() -> None:
    """The table of docs/reliability.md is what the lists of faults make."""
    assert table.written() == table.table(), "run `python -m tests.faults.table`"
