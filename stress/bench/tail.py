"""The slowest calls, and the slowest requests of the worker that leads.

Calls are timed one by one. A call into which another thread's turn at the GIL falls takes 5 ms and more, whatever it
does; so each figure stands beside that of an empty loop of the same length, in the same threads.

A request is a millisecond of Python with a decision, its exposure and a KPI event, and is due at a fixed moment: that
it waits for the GIL after that counts. Two workers serve the same requests at the same time; one of them leads, polls
10,000 experiments that have changed each `_POLL` seconds, and drains what a third process accepts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

from stress.bench.changing import Changing
from stress.bench.formats import name
from stress.bench.row import Row, at_least, at_most
from tests.server_process import ROOT, clean_env

_THREADS = (1, 2, 4, 8)
_GREENLETS = 100
_BARS = {"p99": 25.0, "p99.9": 100.0}
_ROUNDS = 3
_CALLS = 40_000
_PATIENCE = 60

_EXPERIMENTS = 10_000
_POLL = 2.0
_EVENTS = 5_000
_REQUESTS = 100
_SPELLS, _SPELL = 3, 8.0
_REQUEST = 1e-3

Figures = dict[str, float]
Call = Callable[[str], object]


def measure() -> Iterator[Row]:
    """The calls of 1, 2, 4 and 8 threads and of 100 greenlets; then the requests of a leader and of a follower."""
    yield from _threads()
    yield from _greenlets()
    yield from _requests()


def _threads() -> Iterator[Row]:
    with _child("threads") as ask:
        for number in _THREADS:
            bars = _BARS if number == _THREADS[-1] else {}
            yield from _rows(ask, number, f"{number} busy threads", bars, curve=True)


def _greenlets() -> Iterator[Row]:
    with _child("greenlets") as ask:
        yield from _rows(ask, _GREENLETS, f"gevent, {_GREENLETS} greenlets", _BARS, curve=False)


def _rows(
    ask: Callable[[object], Figures], number: int, where: str, bars: dict[str, float], *, curve: bool
) -> Iterator[Row]:
    took: dict[str, list[Figures]] = {"ours": [], "empty": []}
    for _ in range(_ROUNDS):
        for what, each in took.items():
            each.append(ask([what, number, _CALLS // number]))
    for percentile in ("p50", "p99", "p99.9", "max"):
        drawn = curve and percentile != "max"
        ours, empty = (median(each[percentile] for each in took[what]) for what in took)
        bar = bars.get(percentile, 0.0)
        yield Row(
            "tail",
            f"experiment() with its event, {where}: {percentile}",
            ours,
            "us",
            f"an empty loop of the same length: {empty:.1f} us",
            ours / empty,
            # On a machine that takes an empty loop longer than that, nothing shows but the machine.
            **(at_most(ours, max(bar, empty), f"<= {bar:g} us, or an empty loop's") if bar else {}),
            curve="tail by threads" if drawn else "",
            line=percentile if drawn else "",
            x=number if drawn else None,
        )


def _requests() -> Iterator[Row]:
    loops = _loops(_REQUEST)
    with Changing(_EXPERIMENTS) as server, tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        env = {
            "HT_TOKEN": "bench",
            "HT_SERVER_URL": server.url,
            "HT_STATE_DIR": f"{directory}/state",
            "HT_PULL_INTERVAL": str(_POLL),
            "HT_PULL_JITTER": "0",
            "HT_LOG_LEVEL": "WARNING",
        }
        leader = stack.enter_context(_process("worker", "on", **env))
        follower = stack.enter_context(_process("worker", "off", **env))
        stack.enter_context(_process("source", **env, HT_LEADER="off"))
        time.sleep(_POLL)
        before, began = server.served(), time.monotonic()
        spells = []
        for _ in range(_SPELLS):
            for worker in (leader, follower):
                _tell(worker, loops)
            spells.append((_answer(leader), _answer(follower)))
        after, lasted = server.served(), time.monotonic() - began
    where = f"{_EXPERIMENTS:,} experiments that change each {_POLL:g} s"
    for percentile in ("p50", "p99", "p99.9"):
        leads, follows = (median(spell[at][percentile] for spell in spells) / 1e3 for at in (0, 1))
        bar = at_most(leads / follows, 1.5, "<= 1.5 x another worker") if percentile == "p99" else {}
        yield Row(
            "tail",
            f"a request of 1 ms in the leader's worker, {where}: {percentile}",
            leads,
            "ms",
            f"the same in another worker: {follows:.2f} ms",
            leads / follows,
            **bar,
        )
    rate = (after.events - before.events) / lasted
    yield Row("tail", "drained meanwhile", rate, "1/s", **at_least(rate, _EVENTS, f">= {_EVENTS:,}/s"))
    yield Row("tail", f"polls in these {lasted:.0f} s", after.polls - before.polls, "polls")


@contextmanager
def _process(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """This module in a process of its own, which is ready, and ends with its standard input."""
    code = "import sys; from stress.bench import tail; tail.main(*sys.argv[1:])"
    if arguments[0] == "greenlets":
        code = f"from gevent import monkey; monkey.patch_all(); {code}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_env() | env,
    )
    try:
        assert _answer(process) == {}
        yield process
        process.communicate(timeout=_PATIENCE)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _child(*arguments: str) -> Iterator[Callable[[object], Figures]]:
    with _process(*arguments) as process:

        def ask(what: object) -> Figures:
            _tell(process, what)
            return _answer(process)

        yield ask


def _tell(process: subprocess.Popen[str], what: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> Figures:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            figures: Figures = json.loads(line)
            return figures
    raise RuntimeError(f"ended: {process.args!r}")


# --- in the processes


def main(what: str, *more: str) -> None:
    """Is one of the processes: says that it is ready, and answers each line of its standard input."""
    kinds: dict[str, Callable[..., None]] = {
        "threads": _call_in_threads,
        "greenlets": _call_in_greenlets,
        "worker": _serve,
        "source": _accept,
    }
    kinds[what](*more)


def _say(figures: Figures) -> None:
    print(json.dumps(figures), flush=True)


def _figures(took: Iterator[int]) -> Figures:
    """Percentiles in us."""
    each = sorted(took)
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {label: each[min(len(each) - 1, int(len(each) * share))] / 1e3 for label, share in at.items()}


def _time(call: Call, users: list[str], took: array[int], between: Callable[[], object] | None = None) -> None:
    """Writes down what each call takes; allocates nothing that stays."""
    clock = time.perf_counter_ns
    for at, user in enumerate(users):
        began = clock()
        call(user)
        took[at] = clock() - began
        if between is not None:
            between()


def _spin(loops: int, _user: str = "") -> None:
    for _ in range(loops):
        pass


def _loops(seconds: float) -> int:
    """How many loops of `_spin` take so long when nothing else runs."""
    best = 1e9
    for _ in range(50):
        began = time.perf_counter()
        _spin(10_000)
        best = min(best, time.perf_counter() - began)
    return max(1, round(10_000 * seconds / best))


def _contenders() -> dict[str, Call]:
    import hypotest
    from stress.bench import ours

    ours.begin(1)

    def call(user: str) -> None:
        hypotest.experiment("button", user)

    return {"ours": call, "empty": _empty(call)}


def _empty(call: Call) -> Call:
    """A loop that takes as long as `call`, mostly."""
    users = [f"user-{n}" for n in range(5_000)]
    took = array("q", bytes(8 * len(users)))

    def usually(what: Call) -> float:
        _time(what, users, took)
        return median(took)

    sought = usually(call)
    lengths = (partial(_spin, loops) for loops in range(1_000))
    return next(empty for empty in lengths if usually(empty) >= sought)


def _call_in_threads() -> None:
    calls = _contenders()

    def run(call: Call, users: list[str], each: list[array[int]]) -> None:
        start = threading.Barrier(len(each))

        def one(took: array[int]) -> None:
            start.wait()
            _time(call, users, took)

        threads = [threading.Thread(target=one, args=(took,)) for took in each]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    _answer_lines(calls, run)


def _call_in_greenlets() -> None:
    import gevent

    calls = _contenders()

    def run(call: Call, users: list[str], each: list[array[int]]) -> None:
        gevent.joinall([gevent.spawn(_time, call, users, took, gevent.sleep) for took in each], raise_error=True)

    _answer_lines(calls, run)


def _answer_lines(calls: dict[str, Call], run: Callable[[Call, list[str], list[array[int]]], None]) -> None:
    import hypotest

    _say({})
    for line in sys.stdin:
        what, number, count = json.loads(line)
        each = [array("q", bytes(8 * count)) for _ in range(number)]
        run(calls[what], [f"user-{n}" for n in range(count)], each)
        assert hypotest.flush(_PATIENCE)
        _say(_figures(one for took in each for one in took))


def _serve(leads: str) -> None:
    """A worker: serves requests for a spell each time it is told how long one is."""
    import os

    import hypotest
    from tests.server_process import wait_for

    os.environ["HT_LEADER"] = {"on": "auto"}.get(leads, leads)
    assert hypotest.wait_until_ready(_PATIENCE)
    wait_for(lambda: hypotest.status().is_leader == (leads == "on"), "the leader is the one that is meant to be")
    names = [name(number) for number in range(100)]
    _say({})
    for line in sys.stdin:
        loops = json.loads(line)
        took = array("q", bytes(8 * int(_SPELL * _REQUESTS)))
        due = time.perf_counter_ns()
        for at in range(len(took)):
            due = max(due + int(1e9 / _REQUESTS), time.perf_counter_ns())  # no queue: one late answer is one
            time.sleep(max(0, due - time.perf_counter_ns()) / 1e9)
            hypotest.experiment(names[at % len(names)], "user")
            _spin(loops)
            hypotest.kpi_event("purchase", "user")
            took[at] = time.perf_counter_ns() - due
        _say(_figures(iter(took)))


def _accept() -> None:
    """A worker that does nothing but accept events, in bursts, until its standard input ends."""
    import hypotest

    assert hypotest.wait_until_ready(_PATIENCE)
    threading.Thread(target=_flow, daemon=True).start()
    _say({})
    sys.stdin.read()


def _flow() -> None:
    import hypotest

    due = time.monotonic()
    while True:
        for number in range(_EVENTS // 100):
            hypotest.kpi_event("purchase", f"user-{number}")
        due += 0.01
        time.sleep(max(0.0, due - time.monotonic()))
