"""Where the time of a call with an exposure goes: each step alone, and the whole, in one process, in turns.

The steps add up to the whole with the last row: what the function itself does, and what the steps take more one after
the other than each alone, since code and data of all of them do not stay in the processor's nearest memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import hypotest
from hypotest import assignment, runtime
from stress.bench import ours
from stress.bench.row import Row
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS = 300
_CALLS = 300  # of each in turn: so few that no new segment is among most of them
_WHOLE = "experiment() with an exposure"
_USER = "user-1"


def measure() -> Iterator[Row]:
    """The steps, and their sum."""
    done = subprocess.run(
        [sys.executable, "-m", "stress.bench.breakdown"], check=True, env=clean_env(), stdout=subprocess.PIPE
    )
    took: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    whole = took.pop(_WHOLE)
    took["the function itself, and all of it in turn"] = whole - sum(took.values())
    for step, cost in took.items():
        yield Row("breakdown", step, cost, "us", _WHOLE, cost / whole)
    yield Row("breakdown", _WHOLE, whole, "us")


def _steps() -> dict[str, Callable[[], object]]:
    client = runtime.current()
    reader, spool, visit, decide = client.reader, client.spool, client.encoder.visit, assignment.decide
    assert reader is not None
    assert spool is not None
    found = reader.get("button")
    assert found is not None
    decision = decide(found, _USER, None, None, None)
    payload = visit("button", decision, _USER, None, None)
    return {
        "which process is this, and what is its client": runtime.current,
        "which settings are in force, and the experiment in them": lambda: reader.get("button"),
        "the decision: a key, its murmur3, the bucket": lambda: decide(found, _USER, None, None, None),
        "the event as JSON: clock, id, one join": lambda: visit("button", decision, _USER, None, None),
        "into the mapped file: checksum, copy, position": lambda: spool.append(payload),
        _WHOLE: lambda: hypotest.experiment("button", _USER),
    }


def _loop(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter_ns() - began) / _CALLS / 1e3


def main() -> None:
    """The process that is measured."""
    ours.begin(1)
    steps = _steps()
    took: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(_ROUNDS):
        empty = _loop(lambda: None)
        for step, call in steps.items():
            took[step].append(_loop(call) - empty)
    hypotest.flush(30)
    print(json.dumps({step: median(times) for step, times in took.items()}))


if __name__ == "__main__":
    main()
