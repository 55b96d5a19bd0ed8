"""Where the time of a call with an exposure goes: each step alone, and the whole, in one process, in turns.

The steps add up to the whole with the last row: what the function itself does, and what the steps take more one after
the other than each alone, since code and data of all of them do not stay in the processor's nearest memory. Each call
has a user of its own. The part `calls` makes ten thousand in a row, new segments among them: the row after the sum says
what that is here.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import hypotest
from hypotest import assignment, runtime
from stress.bench import children, ours
from stress.bench.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stress.bench.peer import Call

_ROUNDS = 300
_PATIENCE = 300
_CALLS = 300  # of each in turn: so few that no new segment is among most of them
_IN_A_ROW, _ROWS = 10_000, 15
_WHOLE = "experiment() with an exposure"
_TABLE = f"the same, {_IN_A_ROW:,} in a row, as the part calls has them"
_numbers = itertools.count()


def measure() -> Iterator[Row]:
    """The steps, and their sum."""
    process = children.start([sys.executable, "-m", "stress.bench.breakdown"])
    try:
        took: dict[str, float] = json.loads(children.answer(process, _PATIENCE))
    finally:
        children.end(process)
        process.wait()
    whole, table = took.pop(_WHOLE), took.pop(_TABLE)
    took["the function itself, and all of it in turn"] = whole - sum(took.values())
    for step, cost in took.items():
        yield Row("breakdown", step, cost, "us", _WHOLE, cost / whole)
    yield Row("breakdown", _WHOLE, whole, "us")
    yield Row("breakdown", _TABLE, table, "us", _WHOLE, table / whole)


def _steps() -> dict[str, Call]:
    client = runtime.current()
    reader, spool, visit, decide = client.reader, client.spool, client.encoder.visit, assignment.decide
    assert reader is not None
    assert spool is not None
    found = reader.get("button")
    assert found is not None
    decision = decide(found, "user-1", None, None, None)
    payload = visit("button", decision, "user-1", None, None)
    return {
        "which process is this, and what is its client": lambda _: runtime.current(),
        "which settings are in force, and the experiment in them": lambda _: reader.get("button"),
        "the decision: a key, its murmur3, the bucket": lambda user: decide(found, user, None, None, None),
        "the event as JSON: clock, id, one join": lambda user: visit("button", decision, user, None, None),
        "into the mapped file: checksum, copy, position": lambda _: spool.append(payload),
        _WHOLE: lambda user: hypotest.experiment("button", user),
    }


def _loop(call: Call, users: list[str]) -> float:
    began = time.perf_counter_ns()
    for user in users:
        call(user)
    return (time.perf_counter_ns() - began) / len(users) / 1e3


def _users(count: int) -> list[str]:
    """All new."""
    return [f"user-{next(_numbers)}" for _ in range(count)]


def main() -> None:
    """The process that is measured."""
    ours.begin(1)
    steps = _steps()
    took: dict[str, list[float]] = {step: [] for step in (*steps, _TABLE)}
    for number in range(_ROUNDS):
        empty = _loop(lambda _: None, _users(_CALLS))
        for step, call in steps.items():
            took[step].append(_loop(call, _users(_CALLS)) - empty)
        if number % (_ROUNDS // _ROWS) == 0:
            took[_TABLE].append(_loop(steps[_WHOLE], _users(_IN_A_ROW)) - empty)
            assert hypotest.flush(30)
    hypotest.flush(30)
    print(json.dumps({step: median(times) for step, times in took.items()}))


if __name__ == "__main__":
    main()
