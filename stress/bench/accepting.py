"""A worker that does nothing but accept events: `python -m stress.bench.accepting` is one, beside a leader that sends.

Each exposure and event is in a mapped file before its call returns: what a worker has of those files is its own.
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import hypotest
from stress.bench.formats import name
from stress.bench.memory import answer, heard, memory_of, say, talking

if TYPE_CHECKING:
    import subprocess

RATES = (100, 1_000)
BURST = 60_000
SECONDS = 12
"""A worker's files grow as long as one of them is full within 10 s; at 1,000 events/s they have their size after 8."""
_TICK = 0.01
_LOOK, _CLOSE_LOOK = 0.25, 0.002
_AFTER = 2.0
_COMMAND = [sys.executable, "-m", "stress.bench.accepting"]


class Held(NamedTuple):
    """What accepting events adds to a process that has imported the SDK, in MiB of private memory.

    Attributes:
        usual: the median of the last third of the time; after a burst, what is left of it 2 s later.
        most: the most that was seen.
        peak: the most of resident memory that the kernel has noted, with files that others have mapped too.
    """

    usual: float
    most: float
    peak: float


def at_rates(env: dict[str, str]) -> dict[int, Held]:
    """By events per second: one worker each, all at once."""
    with ExitStack() as stack:
        workers = {rate: stack.enter_context(talking(_COMMAND, env)) for rate in RATES}
        before = {rate: _ready(worker) for rate, worker in workers.items()}
        for rate, worker in workers.items():
            say(worker, f"{int(SECONDS * rate)} {rate}")
        seen: dict[int, list[float]] = {rate: [] for rate in RATES}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(_LOOK)
            for rate, worker in workers.items():
                seen[rate].append(memory_of(worker.pid).private - before[rate][0])
        peaks = {rate: _peak(worker.pid) - before[rate][1] for rate, worker in workers.items()}
        for worker in workers.values():
            _accepted(worker)
    return {rate: Held(median(each[2 * len(each) // 3 :]), max(each), peaks[rate]) for rate, each in seen.items()}


def in_a_burst(env: dict[str, str]) -> Held:
    """Of so many events, one after the other, without a pause."""
    with talking(_COMMAND, env) as worker:
        private, resident = _ready(worker)
        say(worker, f"{BURST} 0")
        assert worker.stdout is not None
        seen = [0.0]
        while not select.select([worker.stdout], [], [], _CLOSE_LOOK)[0]:
            seen.append(memory_of(worker.pid).private - private)
        _accepted(worker)
        peak = _peak(worker.pid) - resident
        time.sleep(_AFTER)
        return Held(memory_of(worker.pid).private - private, max(seen), peak)


def _ready(worker: subprocess.Popen[str]) -> tuple[float, float]:
    """Waits until it has imported the SDK: its private and its resident memory then."""
    heard(worker)
    return memory_of(worker.pid).private, _peak(worker.pid)


def _accepted(worker: subprocess.Popen[str]) -> None:
    """Waits until it is done, and none was refused: that would cost no memory."""
    refused = heard(worker)
    assert refused == "{}", f"events were refused: {refused}"


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    """The process: says that it has imported, is told how many events to accept and how many a second, says when."""
    gc.collect()
    answer("imported")
    count, rate = map(int, sys.stdin.readline().split())
    if rate:
        _accept_evenly(count, rate)
    else:
        _accept(range(count))
    answer(json.dumps(dict(hypotest.status().refused)))
    sys.stdin.read()


def _accept_evenly(count: int, rate: int) -> None:
    began, done = time.monotonic(), 0
    while done < count:
        due = min(count, int((time.monotonic() - began) * rate))
        _accept(range(done, due))
        done = due
        time.sleep(_TICK)


def _accept(numbers: range) -> None:
    for number in numbers:
        hypotest.experiment(name(0), f"user-{number}")


if __name__ == "__main__":
    main()
