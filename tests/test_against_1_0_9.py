"""The same answers as client 1.0.9, but for the listed differences.

`HT_TEST_SEED` repeats a run; the seed and the number of cases under each difference are printed.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
from collections import Counter
from random import Random
from typing import Any

import pytest

from tests import oracle
from tests.differences import CALLS, DIFFERENCES, ENTRIES, compare
from tests.oracle import Outcome
from tests.record_vectors import NAME, VECTORS, Case, random_case, random_entry


def test_random_cases(capsys: pytest.CaptureFixture[str]) -> None:
    """Over 20,000 random calls differ from 1.0.9 in nothing but the documented differences."""
    client = oracle.load()
    seed = int(os.environ.get("HT_TEST_SEED") or secrets.randbits(32))
    rng = Random(seed)
    counts: Counter[str | None] = Counter()
    with capsys.disabled():
        print(f"\nagainst client 1.0.9, HT_TEST_SEED={seed}")
        for _ in range(ENTRIES):
            entry = random_entry(rng)
            client.publish({NAME: entry})
            for _ in range(CALLS):
                case = random_case(rng, entry)
                theirs = client.ask(*case[1:4], copy.deepcopy(case.tags), case.override)
                counts[compare(case, theirs)] += 1
        print(f"  {counts[None]:6} equal")
        for difference in DIFFERENCES:
            never = "" if counts[difference.name] else "  <- never"
            print(f"  {counts[difference.name]:6} {difference.name}{never}")
    assert counts.total() >= 20_000
    assert counts[None] > counts.total() // 2


def _vectors() -> list[tuple[Case, Outcome, str | None]]:
    groups: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="ascii"))
    return [
        (
            Case(group["entry"], *call["call"]),
            Outcome(call["answer"][0], call["answer"][1] and tuple(call["answer"][1])),
            call["difference"],
        )
        for group in groups
        for call in group["calls"]
    ]


def test_recorded_cases() -> None:
    """The recorded answers of 1.0.9 are given still, and each difference is the one that was recorded."""
    vectors = _vectors()
    assert len(vectors) == 500
    for case, theirs, difference in vectors:
        assert compare(case, theirs) == difference


def test_an_unnamed_difference_fails() -> None:
    """The comparison itself notices a wrong variant, a missing event and another error."""
    case, theirs, _ = next(vector for vector in _vectors() if vector[2] is None and vector[1].event)
    assert theirs.event is not None
    for wrong in (
        theirs._replace(variant="zzz"),
        theirs._replace(event=None),
        theirs._replace(event=(theirs.event[0], "zzz", theirs.event[2])),
    ):
        with pytest.raises(AssertionError):
            compare(case, wrong)
