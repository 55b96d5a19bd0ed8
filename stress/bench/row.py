"""One figure of the benchmark, beside the one that it is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

HOLDS, MISSED, UNMEASURED = "holds", "missed", "not measured"


@dataclass(frozen=True)
class Row:
    """A measured figure.

    Attributes:
        section: the part of the benchmark that measured it.
        what: what was measured.
        value: the figure, in `unit`; None where it could not be measured.
        unit: us, ms, s, MiB, 1/s, %, events, polls or pages.
        to: the yardstick that `ratio` refers to, measured in the same run; "" if there is none.
        ratio: `value` divided by the yardstick's.
        bar: what has to hold, in words; "" if nothing has to.
        met: whether it does; None where there is no bar, or no yardstick to judge by.
        machine: what the machine takes for nothing but a loop, where that is above a missed bar as well; or "".
        curve: the scaling curve that the figure is a point of; "" if none.
        line: of which line of that curve.
        x: and where on it.
    """

    section: str
    what: str
    value: float | None
    unit: str
    to: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    machine: str = ""
    curve: str = ""
    line: str = ""
    x: float | None = None

    @property
    def outcome(self) -> str:
        """What became of the bar, in words; "" if there is none."""
        if not self.bar:
            return ""
        if self.met is None:
            return UNMEASURED
        if self.met:
            return HOLDS
        return f"{MISSED}; the machine's own: {self.machine}" if self.machine else MISSED

    def as_json(self) -> dict[str, Any]:
        """The fields, and the outcome for whoever reads only that."""
        return asdict(self) | {"outcome": self.outcome}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Row:
        """The inverse of `as_json`."""
        return cls(**{field.name: kept[field.name] for field in fields(cls) if field.name in kept})


class Bar(TypedDict, total=False):
    """The fields of a row that say what has to hold, and whether it does; none where nothing has to."""

    bar: str
    met: bool | None
    machine: str


def at_most(value: float, bar: float, words: str) -> Bar:
    """Of a figure that must not be above `bar`."""
    return {"bar": words, "met": value <= bar}


def at_least(value: float, bar: float, words: str) -> Bar:
    """Of a figure that must not be below."""
    return {"bar": words, "met": value >= bar}


def unmeasured(words: str) -> Bar:
    """Of a figure whose yardstick is not there."""
    return {"bar": words, "met": None}


def in_spite_of(bar: Bar, *, machine: float | None, limit: float, unit: str) -> Bar:
    """The same bar; a missed one says what the machine takes for nothing at all, if that is above the limit too."""
    if bar["met"] is False and machine is not None and machine > limit:
        return bar | {"machine": f"{machine:,.1f} {unit}"}
    return bar
