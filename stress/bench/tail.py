"""The slowest calls, and the slowest requests of the worker that leads.

Calls are timed one by one. A call into which another thread's turn at the GIL falls takes 5 ms and more, whatever it
does; so each figure stands beside that of an empty loop that usually takes as long as a call does in the same threads.
Rounds in which it does not have no part in the ratio. The bars are absolute: where one is missed and the empty loop is
above it too, the row says what the machine does to nothing at all, and is missed all the same.

A request is a millisecond of Python with a decision, its exposure and a KPI event, and is due at a fixed moment: that
it waits after that, for the GIL or for late ones before it, counts. Two workers serve the same requests at the same
time; one of them leads, polls 10,000 experiments that have changed each `_POLL` seconds, and drains what a third
process accepts.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

from stress.bench import children
from stress.bench.changing import Changing
from stress.bench.row import Bar, Row, at_least, at_most, in_spite_of, unmeasured
from stress.bench.tailing import BURST, PERIOD, loops_of

_THREADS = (1, 2, 4, 8)
_GREENLETS = 100
_BARS = {"p99": 25.0, "p99.9": 100.0}
_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_ROUNDS = 5
_CALLS = 40_000
_ALIKE = 0.15

_EXPERIMENTS = 10_000
_POLL = 2.0
_EVENTS = 5_000
_OF_A_REQUEST = 2
_SPELLS, _SPELL = 3, 20.0
_REQUEST = 1e-3
_REQUESTS = int(_SPELL * 1e9 / PERIOD)
_BAR = 1.5

Figures = dict[str, float]


def measure() -> Iterator[Row]:
    """The calls of 1, 2, 4 and 8 threads and of 100 greenlets; then the requests of a leader and of a follower."""
    with _process("threads") as process:
        for number in _THREADS:
            bars = _BARS if number == _THREADS[-1] else {}
            words = f"{number} busy thread{'s' * (number > 1)}"
            yield from _calls(process, number, words, bars, curve=True)
    words = f"gevent, {_GREENLETS} greenlets"
    if importlib.util.find_spec("gevent") is None:
        yield from (Row("tail", f"{_call(words)}: {at}", None, "us", **unmeasured(_words(_BARS[at]))) for at in _BARS)
    else:
        with _process("greenlets") as process:
            yield from _calls(process, _GREENLETS, words, _BARS, curve=False)
    yield from _requests()


def _calls(
    process: subprocess.Popen[str], number: int, where: str, bars: dict[str, float], *, curve: bool
) -> Iterator[Row]:
    rounds = []
    for _ in range(_ROUNDS):
        children.tell(process, json.dumps([number, _CALLS // number]))
        found = json.loads(children.answer(process))
        rounds.append((percentiles(found["ours"]), percentiles(found["empty"])))
    alike = [(ours, empty) for ours, empty in rounds if abs(empty["p50"] / ours["p50"] - 1) <= _ALIKE]
    for at in _SHARES:
        figure = median(ours[at] for ours, _ in rounds)
        empty = median(each[at] for _, each in alike) if alike else None
        to = f"an empty loop as long: {empty:.1f} us" if empty is not None else ""
        ratio = median(ours[at] / each[at] for ours, each in alike) if alike else None
        held = _held(figure, bars[at], empty) if at in bars else Bar()
        row = Row("tail", f"{_call(where)}: {at}", figure, "us", to, ratio, **held)
        yield replace(row, curve="tail by threads", line=at, x=number) if curve and at != "max" else row


def _call(where: str) -> str:
    return f"experiment() with its event, {where}"


def _words(bar: float) -> str:
    return f"<= {bar:g} us"


def _held(ours: float, bar: float, empty: float | None) -> Bar:
    return in_spite_of(at_most(ours, bar, _words(bar)), machine=empty, limit=bar, unit="us")


def _requests() -> Iterator[Row]:
    loops = loops_of(_REQUEST)
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
        took: dict[str, list[int]] = {"leads": [], "follows": []}
        for _ in range(_SPELLS):
            for worker in (leader, follower):
                children.tell(worker, json.dumps([_REQUESTS, loops]))
            for worker, each in zip((leader, follower), took.values(), strict=True):
                each.extend(json.loads(children.answer(worker)))
        after, lasted = server.served(), time.monotonic() - began
    figures = {who: percentiles(each) for who, each in took.items()}
    where = f"{_EXPERIMENTS:,} experiments that change each {_POLL:g} s"
    for at in _SHARES:
        leads, follows = (figures[who][at] / 1e3 for who in took)
        bar = at_most(leads / follows, _BAR, f"<= {_BAR} x another worker") if at == "p99" else Bar()
        what = f"a request of 1 ms in the leader's worker, {where}: {at}"
        yield Row("tail", what, leads, "ms", f"the same in another worker: {follows:.2f} ms", leads / follows, **bar)
    theirs = _OF_A_REQUEST * sum(map(len, took.values()))
    rate = (after.events - before.events - theirs) / lasted
    what = f"drained meanwhile, of a process that makes {100 * BURST:,}/s"
    yield Row("tail", what, rate, "1/s", **at_least(rate, _EVENTS, f">= {_EVENTS:,}/s"))
    polls, due = after.polls - before.polls, lasted / _POLL
    what = f"polls in these {lasted:.0f} s, of {due:.0f} that are due"
    yield Row("tail", what, polls, "polls", **at_least(polls, due / 2, "half of them, or no poll was seen"))


def percentiles(took: list[int]) -> Figures:
    """Of times in ns, in us."""
    each = sorted(took)
    return {at: each[min(len(each) - 1, int(len(each) * share))] / 1e3 for at, share in _SHARES.items()}


@contextmanager
def _process(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """One of `tailing`, which is ready, and ends with its standard input."""
    command = [sys.executable, "-m", "stress.bench.tailing", *arguments]
    if arguments[0] == "greenlets":
        patched = "from gevent import monkey; monkey.patch_all(); from stress.bench import tailing; tailing.main"
        command = [sys.executable, "-c", f"{patched}({arguments[0]!r})"]
    process = children.start(command, env)
    try:
        children.answer(process)
        yield process
        process.communicate(timeout=children.PATIENCE)
    finally:
        children.end(process)
        process.wait()
