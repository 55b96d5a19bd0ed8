"""The processes of `tail.py`, which answer each line of their input with one of JSON: `python -m stress.bench.tailing`.

What they answer are times in ns, sorted into percentiles by whoever asked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from functools import partial
from statistics import median

import hypotest
from stress.bench import ours
from stress.bench.formats import name
from tests.server_process import wait_for

PERIOD = 10_000_000
"""ns from one request of a worker to the next."""
BURST = 52
"""Events that the source makes each 10 ms."""
_PATIENCE = 60
_LONGEST = 1 << 12
_SHORTER = 4

Call = Callable[[str], object]
Run = Callable[[Call, int, int], "list[array[int]]"]


def on_schedule(
    requests: int, serve: Callable[[int], object], clock: Callable[[], int], sleep: Callable[[float], object]
) -> array[int]:
    """What each request took, in ns, from the moment that it was due: one for each PERIOD, whatever the last one took.

    Whoever is late does not get its requests later: they wait, as those of visitors would, and each of them is late by
    what it waited. A worker that stands still for 100 ms has ten late requests, not one.
    """
    took = array("q", bytes(8 * requests))
    due = clock()
    for number in range(requests):
        due += PERIOD
        early = due - clock()
        if early > 0:
            sleep(early / 1e9)
        serve(number)
        took[number] = clock() - due
    return took


def spin(loops: int, _user: str = "") -> None:
    """Does nothing, so many times."""
    for _ in range(loops):
        pass


def loops_of(seconds: float) -> int:
    """How many loops of `spin` take so long when nothing else runs."""
    best = 1e9
    for _ in range(50):
        began = time.perf_counter()
        spin(10_000)
        best = min(best, time.perf_counter() - began)
    return max(1, round(10_000 * seconds / best))


def as_long_as(sought: float, usually: Callable[[int], float]) -> int:
    """The least number of loops that usually take so long; at most `_LONGEST`, whatever they take."""
    low, high = 0, _LONGEST
    while low < high:
        middle = (low + high) // 2
        if usually(middle) < sought:
            low = middle + 1
        else:
            high = middle
    return low


def _time(call: Call, users: list[str], took: array[int], between: Callable[[], object] | None = None) -> None:
    """Writes down what each call takes; allocates nothing that stays."""
    clock = time.perf_counter_ns
    for at, user in enumerate(users):
        began = clock()
        call(user)
        took[at] = clock() - began
        if between is not None:
            between()


def _in_threads(call: Call, number: int, count: int) -> list[array[int]]:
    each = [array("q", bytes(8 * count)) for _ in range(number)]
    users = [f"user-{n}" for n in range(count)]
    start = threading.Barrier(number)

    def one(took: array[int]) -> None:
        start.wait()
        _time(call, users, took)

    threads = [threading.Thread(target=one, args=(took,)) for took in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each


def _in_greenlets(call: Call, number: int, count: int) -> list[array[int]]:
    import gevent

    each = [array("q", bytes(8 * count)) for _ in range(number)]
    users = [f"user-{n}" for n in range(count)]
    gevent.joinall([gevent.spawn(_time, call, users, took, gevent.sleep) for took in each], raise_error=True)
    return each


def _answer(run: Run) -> None:
    """Takes turns: our calls, and then empty loops that usually take as long, where and among as many they are."""
    ours.begin(1)

    def call(user: str) -> None:
        hypotest.experiment("button", user)

    def all_of(what: Call, number: int, count: int) -> list[int]:
        return [took for each in run(what, number, count) for took in each]

    _say(None)
    for line in sys.stdin:
        number, count = json.loads(line)
        found = all_of(call, number, count)
        assert hypotest.flush(_PATIENCE)
        few = max(1, count // _SHORTER)
        loops = as_long_as(median(found), lambda loops: median(all_of(partial(spin, loops), number, few)))  # noqa: B023
        _say({"ours": found, "empty": all_of(partial(spin, loops), number, count)})


def _serve(leads: str) -> None:
    """A worker: serves so many requests each time it is told how many, and how many loops one has besides our calls."""
    os.environ["HT_LEADER"] = {"on": "auto"}.get(leads, leads)
    assert hypotest.wait_until_ready(_PATIENCE)
    wait_for(lambda: hypotest.status().is_leader == (leads == "on"), "the leader is the one that is meant to be")
    names = [name(number) for number in range(100)]

    def serve(number: int) -> None:
        hypotest.experiment(names[number % len(names)], "user")
        spin(loops)
        hypotest.kpi_event("purchase", "user")

    _say(None)
    for line in sys.stdin:
        requests, loops = json.loads(line)
        _say(on_schedule(requests, serve, time.perf_counter_ns, time.sleep).tolist())


def _accept() -> None:
    """A worker that does nothing but accept events, in bursts, until its standard input ends."""
    assert hypotest.wait_until_ready(_PATIENCE)
    threading.Thread(target=_flow, daemon=True).start()
    _say(None)
    sys.stdin.read()


def _flow() -> None:
    due = time.monotonic()
    while True:
        for number in range(BURST):
            hypotest.kpi_event("purchase", f"user-{number}")
        due += 0.01
        time.sleep(max(0.0, due - time.monotonic()))


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main(what: str, *more: str) -> None:
    """Is one of the processes: says that it is ready, and answers each line of its standard input."""
    kinds: dict[str, Callable[..., None]] = {
        "threads": partial(_answer, _in_threads),
        "greenlets": partial(_answer, _in_greenlets),
        "worker": _serve,
        "source": _accept,
    }
    kinds[what](*more)


if __name__ == "__main__":
    main(*sys.argv[1:])
