"""docs/hosts.md has a row for every mode, and says what the runs measured."""

from __future__ import annotations

import importlib

import pytest

from tests.hosts import table


@pytest.mark.parametrize("host", ["asgi", "celery", "gunicorn", "multiprocessing", "scripts", "uwsgi"])
def test_every_mode_has_a_row(host: str) -> None:
    """No mode that is tried is missing from the table."""
    modes = importlib.import_module(f"tests.hosts.test_{host}").MODES
    missing = {(mode.name, mode.mode) for mode in modes} - table.cells().keys()
    assert not missing, "run `make hosts`"


def test_a_row_is_of_runs_in_which_nothing_was_lost() -> None:
    """Each row is of one run at least, and of none in which something was lost, doubled or stale."""
    rows = table.cells()
    assert len(rows) >= 40
    for mode, row in rows.items():
        assert int(row["runs"]) > 0, mode
        assert [row[column] for column in ("lost", "doubled", "stale")] == ["0", "0", "0"], mode
