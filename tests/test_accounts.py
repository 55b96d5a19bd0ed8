"""The accounts of events."""

from __future__ import annotations

import pytest

from hypotest import accounts
from hypotest.accounts import ACCEPTED, DELIVERED, DROPS, REFUSALS, SLOTS


def row(**counts: int) -> list[int]:
    counters = [0] * SLOTS
    for name, n in counts.items():
        slot = accounts.refusal_slot(name) if name in REFUSALS else accounts.drop_slot(name)
        counters[slot] = n
    return counters


def test_slots_are_pinned() -> None:
    """The slots are part of two file formats: a later version may append, never move."""
    assert (SLOTS, ACCEPTED, DELIVERED) == (16, 0, 1)
    refusals = {reason: accounts.refusal_slot(reason) for reason in REFUSALS}
    assert refusals == {"no_token": 2, "too_large": 3, "spool_full": 4, "disk": 5, "error": 6, "no_server": 7}
    assert {reason: accounts.drop_slot(reason) for reason in DROPS} == {
        "age": 10,
        "rejected": 11,
        "corrupt": 12,
        "lost": 13,
    }


def test_every_reason_has_a_slot_of_its_own() -> None:
    """No two counters share a slot, and none lies outside the row."""
    slots = [ACCEPTED, DELIVERED, *map(accounts.refusal_slot, REFUSALS), *map(accounts.drop_slot, DROPS)]
    assert len(set(slots)) == len(slots)
    assert max(slots) < SLOTS


def test_add_is_slot_by_slot() -> None:
    """The sum of accounts is that of each slot, and the sum of none is nothing."""
    assert accounts.add([]) == [0] * SLOTS
    assert accounts.add([range(SLOTS), range(SLOTS), [1] * SLOTS]) == [2 * slot + 1 for slot in range(SLOTS)]


def test_add_refuses_rows_of_another_length() -> None:
    """A row that does not fit is an error, not a sum of what happens to overlap."""
    with pytest.raises(ValueError, match="shorter"):
        accounts.add([[1] * (SLOTS - 1)])


def test_pending_is_what_is_neither_delivered_nor_dropped() -> None:
    """Refusals play no part in what waits."""
    counters = row(age=1, rejected=2, corrupt=3, lost=4, spool_full=1000)
    counters[ACCEPTED], counters[DELIVERED] = 100, 50
    assert accounts.pending(counters) == 40


def test_reports_leave_out_what_never_happened() -> None:
    """Refused and dropped name only the reasons that occurred."""
    counters = row(disk=3, error=1, age=2)
    assert accounts.refused(counters) == {"disk": 3, "error": 1}
    assert accounts.dropped(counters) == {"age": 2}
    assert accounts.refused(row()) == accounts.dropped(row()) == {}
