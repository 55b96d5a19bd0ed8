"""The accounts of events: which counters there are, in which order they stand in files, and how they add up.

    offered = accepted + refused        accepted = delivered + dropped + pending

The order is part of the file formats of `segment.py` and `control.py`: append, never reorder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

REFUSALS = ("no_token", "too_large", "spool_full", "disk", "error", "no_server")
"""Why an event was not accepted: no token; over 64 KiB; the cap; the disk or a limit; a fault of ours; the server that
was named cannot be one."""

DROPS = ("age", "rejected", "corrupt", "lost")
"""Why an accepted event was given up: over max_event_age; refused by the server for good; damaged; file deleted."""

SLOTS = 16
"""Counters in a file, some of them for later versions: accepted, delivered, eight refusals, six drops."""
ACCEPTED, DELIVERED, FIRST_REFUSAL, FIRST_DROP = 0, 1, 2, 10


def refusal_slot(reason: str) -> int:
    """The slot of a reason of REFUSALS."""
    return FIRST_REFUSAL + REFUSALS.index(reason)


def drop_slot(reason: str) -> int:
    """The slot of a reason of DROPS."""
    return FIRST_DROP + DROPS.index(reason)


def add(rows: Iterable[Sequence[int]]) -> list[int]:
    """The sum of several accounts, slot by slot."""
    return [sum(column) for column in zip([0] * SLOTS, *rows, strict=True)]


def pending(counters: Sequence[int]) -> int:
    """What was accepted and is neither delivered nor dropped yet."""
    return counters[ACCEPTED] - counters[DELIVERED] - sum(counters[FIRST_DROP:])


def refused(counters: Sequence[int]) -> dict[str, int]:
    """What was refused, by reason; reasons that never occurred are left out."""
    return {reason: n for reason in REFUSALS if (n := counters[refusal_slot(reason)])}


def dropped(counters: Sequence[int]) -> dict[str, int]:
    """What was dropped after it had been accepted, by reason; reasons that never occurred are left out."""
    return {reason: n for reason in DROPS if (n := counters[drop_slot(reason)])}
