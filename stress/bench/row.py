"""One figure of the benchmark, beside the one that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True)
class Row:
    """A measured figure.

    Attributes:
        section: the part of the benchmark that measured it.
        what: what was measured.
        value: the figure, in `unit`.
        unit: us, ms, s, MiB, 1/s, %, events or polls.
        to: the yardstick that `ratio` refers to, measured in the same run; "" if there is none.
        ratio: `value` divided by the yardstick's.
        bar: what has to hold, in words; "" if nothing has to.
        met: whether it does; None where there is no bar.
        curve: the scaling curve that the figure is a point of; "" if none.
        line: of which line of that curve.
        x: and where on it.
    """

    section: str
    what: str
    value: float
    unit: str
    to: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    curve: str = ""
    line: str = ""
    x: float | None = None


class Bar(TypedDict, total=False):
    """The fields of a row that say what has to hold, and whether it does; none where nothing has to."""

    bar: str
    met: bool


def at_most(value: float, bar: float, words: str) -> Bar:
    """Of a figure that must not be above `bar`."""
    return {"bar": words, "met": value <= bar}


def at_least(value: float, bar: float, words: str) -> Bar:
    """Of a figure that must not be below."""
    return {"bar": words, "met": value >= bar}
