"""Faults, what we do about each, and the test that fails when that is taken away.

Each module here has a list FAULTS; together they are the table of docs/reliability.md. `python -m stress defences`
takes each defence out of a copy of the source and runs its test, which has to fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

AREAS = ("processes", "kills", "files", "power", "interrupts", "server", "limits", "security", "settings")


class Removal(NamedTuple):
    """A defence taken away: `new` in place of `old`, which stands once in `file` (a path from the root)."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        fault: what goes wrong, in the words of an operator.
        happens: what the user, or the operator, sees.
        test: pytest's id of the test that shows it, such as "tests/faults/test_x.py::test_y".
        figure: what the test, or a longer run, measured: "3,000 kills, 0 lost".
        removals: what to change in the source so that the test fails; several if one defence stands behind another.
    """

    fault: str
    happens: str
    test: str
    figure: str
    removals: tuple[Removal, ...]


def title(area: str) -> str:
    """What an area is about."""
    return (import_module(f"{__name__}.{area}").__doc__ or area).rstrip(".")


def faults() -> dict[str, list[Fault]]:
    """All rows, by area."""
    return {area: import_module(f"{__name__}.{area}").FAULTS for area in AREAS}
