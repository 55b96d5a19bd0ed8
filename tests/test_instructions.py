"""No call and no import takes a twentieth more than it did, in machine instructions: a busy machine does not move them.

Nor less: a change that saves as much is recorded too, or the next one could take it back unseen. `python -m
stress.bench.instructions` records, under each version of Python.
"""

from __future__ import annotations

import pytest

from stress.bench import instructions
from stress.bench.instructions import CALLS, IMPORT, LONGER, SLACK, TENTH, verdict

NAMES = (*CALLS, IMPORT)

counted = pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing() or "it is there")


@counted
def test_nothing_takes_a_twentieth_more_or_less_than_it_did() -> None:
    """Neither the calls nor the import; and each of them is seen with a tenth added."""
    before = instructions.recorded()
    assert before.keys() >= set(NAMES), f"not all is recorded for Python {instructions.VERSION}"
    now = instructions.ratios((*NAMES, *(name + LONGER for name in NAMES)))
    assert {name: said for name in NAMES if (said := verdict(before[name], now[name]))} == {}
    added = {name: now[name + LONGER] / now[name] - 1 for name in NAMES}
    assert all(0.6 * TENTH < share < 1.4 * TENTH for share in added.values()), f"that is no tenth: {added}"
    assert all("more" in verdict(before[name], now[name + LONGER]) for name in NAMES), f"{before}, {now}"


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1 + SLACK - 0.001, ""),
        (1 - SLACK + 0.001, ""),
        (1 + SLACK + 0.001, "more"),
        (1 - SLACK - 0.001, "record it anew"),
    ],
)
def test_what_is_to_be_said_of_a_ratio(share: float, said: str) -> None:
    """Nothing within the slack; beyond it, by how much, and what is to be done."""
    found = verdict(0.5, 0.5 * share)
    assert said in found
    assert bool(found) == bool(said)
