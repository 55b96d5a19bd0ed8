"""No call and no import takes a tenth more than it did, in machine instructions, which a busy machine does not move.

A change that is meant to cost more, or that costs less: `python -m stress.bench.instructions` records it, under each
version of Python.
"""

from __future__ import annotations

import pytest

from stress.bench import instructions
from stress.bench.instructions import CALLS, IMPORT

SLACK = 1.06  # builds of one version differ by a hundredth or two
TENTH = 0.1

pytestmark = pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing() or "it is there")


def test_nothing_takes_a_tenth_more_than_it_did() -> None:
    """Neither the calls nor the import; and one that has a tenth added is seen."""
    before = instructions.recorded()
    assert before, f"nothing is recorded for Python {instructions.VERSION}"
    now = instructions.ratios((*CALLS, IMPORT, "longer"))
    assert {name: ratio for name, ratio in now.items() if name in before and ratio > before[name] * SLACK} == {}
    assert now["longer"] >= now["exposure"] * (1 + TENTH) * 0.97, "the added tenth was not added"
    assert now["longer"] > before["exposure"] * SLACK, "a tenth more is not seen"
