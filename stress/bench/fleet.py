"""Many experiments and many workers: what a worker has and waits for should go by what it uses, not by what exists.

Workers are forked from a small application beside an agent that leads, in one state directory. Each asks for an
experiment 200 times a second, and for ten others after each switch of the settings.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from hypotest.control import GENERATION, ControlPage, open_existing
from stress.bench.accepting import BURST, SECONDS, at_rates, in_a_burst
from stress.bench.formats import VARIANTS
from stress.bench.memory import OURS, Load, Start, loads, memory_of
from stress.bench.pages import copying
from stress.bench.peers import PEERS, missing
from stress.bench.row import Bar, Row, at_most, in_spite_of
from stress.bench.settings import Settings
from stress.bench.sink import Sink
from stress.bench.workers import Workers
from tests.server_process import ROOT, clean_env, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPERIMENTS = (100, 1_000, 10_000, 100_000)
WORKERS = (1, 8, 64)
COMPARED = {"growthbook": "growthbook", "eppo-server-sdk": "eppo", "UnleashClient": "unleash"}
_FEW, _MANY, _MOST, _USUAL = 100, 10_000, 100_000, 8
_OF_PEERS = (100, 1_000, 10_000)
_SWITCHES = 3
_INTERVAL = 0.5
_POLLS = 6
_STARTS = 11
_STARTS_OF_PEERS, _STARTS_OF_FEW = 5, 3
_PATIENCE = 60


class Found(NamedTuple):
    """What a fleet of so many workers with so many experiments showed.

    Private memory is without the pages of the settings' file, see `memory`.

    Attributes:
        private: MiB of a worker that has used some experiments, before and after switches, the median.
        leader: MiB of the leader.
        host: MiB of all processes, of the leader, the workers and the workers' parent. What they share is counted once.
        start: ms from a fork to the worker's first answer, the median.
        first: us of a worker's very first call, with its exposure, the median.
        slowest: the slowest of those.
        pages: that the kernel maps or copies during that call, in all threads, the median.
        copying: us that it takes for as many pages in a fresh child that does nothing else.
        others: us of the first calls of ten other experiments, the median.
        slowest_other: the slowest of those.
        refreshed: us of the first call after a refresh, the median.
        slowest_refreshed: the slowest of those.
        apart: ms from the first worker that has switched to the last, the worst of the switches.
        switched: ms from the moment the settings are in force until the last worker has switched, the worst likewise.
        polls: in an interval.
    """

    private: float
    leader: float
    host: float
    start: float
    first: float
    slowest: float
    pages: float
    copying: float
    others: float
    slowest_other: float
    refreshed: float
    slowest_refreshed: float
    apart: float
    switched: float
    polls: float


class Added(NamedTuple):
    """What fresh processes beside a fleet showed.

    Attributes:
        memory: MiB of private memory that the client adds to each, without the settings' file, the median.
        most: the most of those.
        settings: MiB of the settings' file that it maps, the median.
        took: ms from the import to the first answer, the median.
    """

    memory: float
    most: float
    settings: float
    took: float


class Shown(NamedTuple):
    """How a field of what was found is shown: in words, its unit, a curve and a line of it, its upper bar.

    The last one is the field that has what the machine takes by itself.
    """

    field: str
    what: str
    unit: str
    curve: str = ""
    line: str = ""
    bar: float | None = None
    machine: str = ""


class Point(NamedTuple):
    """Where on the curves a figure is: the axis, the value there, and what the line's name ends with."""

    axis: str
    x: int
    which: str = ""


_MEMORY, _CALL, _START, _SWITCH = "memory", "first call", "time to the first answer", "switch of the settings"
_ADDED = "memory that the client adds to a process"
_ANSWER = "after the import, until the first answer"
_WORST = f"the worst of {_SWITCHES}"
_VERY_FIRST = "very first call of a worker, with its exposure"
_OTHER, _REFRESHED = "first call of another experiment", "first call after a refresh"
_CALLS = (
    Shown("first", _VERY_FIRST, "us", bar=1_000, machine="copying"),
    Shown("slowest", f"{_VERY_FIRST}: the slowest", "us"),
    Shown("pages", f"{_VERY_FIRST}: pages that the kernel maps or copies for it", "pages"),
    Shown("copying", "as many pages copied in a fresh child that does nothing else", "us"),
    Shown("others", _OTHER, "us", _CALL, "of an experiment", 1_000),
    Shown("slowest_other", f"{_OTHER}: the slowest", "us"),
    Shown("refreshed", _REFRESHED, "us", _CALL, "after a refresh", 1_000),
    Shown("slowest_refreshed", f"{_REFRESHED}: the slowest", "us"),
)
_OF_A_PROCESS = (
    Shown("memory", _ADDED, "MiB", _MEMORY, "ours", 0.5),
    Shown("most", f"{_ADDED}: the most of {_STARTS}", "MiB", bar=0.5),
    Shown("settings", "pages of the settings' file in it, which the host has once", "MiB"),
    Shown("took", _ANSWER, "ms", _START, "a fresh process"),
)
_BY_EXPERIMENTS = (
    Shown("private", "private memory of a worker", "MiB", _MEMORY, "ours, the whole worker"),
    Shown("leader", "private memory of the leader", "MiB", _MEMORY, "ours, the whole leader"),
    Shown("start", "from the fork of a worker to its first answer", "ms", _START, "a fork"),
    *_CALLS,
)
_BY_WORKERS = (
    Shown("private", "private memory of a worker", "MiB", _MEMORY, "a worker"),
    Shown("host", "memory of leader, workers and their parent", "MiB", _MEMORY, "all processes"),
    Shown("start", "from the fork of a worker to its first answer", "ms", _START, "ours"),
    *_CALLS,
    Shown("apart", f"from the first worker's switch to the last's, {_WORST}", "ms", _SWITCH, "first to last", 50),
    Shown("switched", f"from settings in force to the last's switch, {_WORST}", "ms", _SWITCH, "in force to last"),
    Shown("polls", "polls in an interval", "polls", "polls", "ours", 1.05),
)
_PUBLISHING = {
    "read": "reads the document",
    "write": "writes the settings and puts them in force",
    "no news": "checks the settings in force",
}
_LEADERS = {"": "an agent", "busy": "a leading worker with a busy thread"}
_ROUNDS = 4


def measure() -> Iterator[Row]:
    """Ours by experiments, by workers, by events, and what a leader does; then the peers."""
    found: dict[tuple[int, int], Found] = {}
    added: dict[int, Added] = {}
    for experiments in EXPERIMENTS:
        found[experiments, _USUAL], added[experiments] = _fleet(experiments, _USUAL, _STARTS)
        name, to, at = f"{experiments:,} experiments", f"{_FEW} experiments", Point("experiments", experiments)
        yield from _rows(_OF_A_PROCESS, name, added[experiments], added[_FEW], to, at)
        yield from _rows(_BY_EXPERIMENTS, name, found[experiments, _USUAL], found[_FEW, _USUAL], to, at)
    for experiments in (_MANY, _MOST):
        above = found[experiments, _USUAL].private - found[_FEW, _USUAL].private
        held = at_most(above, 0.5, "<= 0.5 MiB")
        yield Row(
            "fleet", f"{experiments:,} experiments: memory of a worker above that with {_FEW}", above, "MiB", **held
        )
    for experiments in (_MANY, _MOST):
        which = "" if experiments == _MANY else f", {experiments:,}"
        for count in WORKERS:
            if count != _USUAL:
                found[experiments, count], _ = _fleet(experiments, count)
            name = f"{count} worker{'s' * (count > 1)}, {experiments:,} experiments"
            base, at = found[experiments, WORKERS[0]], Point("workers", count, which)
            yield from _rows(_BY_WORKERS, name, found[experiments, count], base, "1 worker", at)
    for experiments in (_MANY, _MOST):
        yield from _told(experiments)
    yield from _accepting()
    for experiments in EXPERIMENTS:
        for where in _LEADERS:
            yield from _publishing(experiments, where)
    for experiments in _OF_PEERS:
        yield from _peers(experiments)


def _rows(
    shown: tuple[Shown, ...], name: str, found: NamedTuple, base: NamedTuple, to: str, at: Point
) -> Iterator[Row]:
    for one in shown:
        value, yardstick = getattr(found, one.field), getattr(base, one.field)
        ratio = value / yardstick if found is not base and yardstick else None
        held = at_most(value, one.bar, f"<= {one.bar:,} {one.unit}") if one.bar else Bar()
        if one.bar and one.machine:
            held = in_spite_of(held, machine=getattr(found, one.machine), limit=one.bar, unit=one.unit)
        row = Row("fleet", f"{name}: {one.what}", value, one.unit, to if ratio else "", ratio, **held)
        if one.curve:
            row = replace(row, curve=f"{one.curve} by {at.axis}", line=one.line + at.which, x=at.x)
        yield row


def _fleet(experiments: int, workers: int, starts: int = 0) -> tuple[Found, Added]:
    """Makes a host, has it switch its settings a few times, and looks at its processes and at so many fresh ones."""
    with ExitStack() as stack:
        settings = stack.enter_context(Settings(experiments))
        env = stack.enter_context(_environment(settings.url))
        agent, page = stack.enter_context(_agent(env))
        fleet = stack.enter_context(Workers(workers, env))
        switches = [_switch(settings, VARIANTS[number % 2], page, fleet) for number in range(1, 1 + _SWITCHES)]
        memory = [memory_of(worker["pid"]) for worker in fleet.started]
        leader, parent = memory_of(agent), memory_of(fleet.pid)
        done = len(settings.polls)
        added = _added(loads([Start(OURS, env=env)] * starts))
        polls = _polls(settings, done)
    others = [took for worker in fleet.started for took in worker["others"]]
    first = [worker["first"] for worker in fleet.started]
    pages = median(worker["pages"] for worker in fleet.started)
    refreshed = [told["took"] for _, each in switches for told in each]
    return Found(
        private=median(one.private for one in memory),
        leader=leader.private,
        host=sum(one.share for one in (leader, parent, *memory)),
        start=median(worker["start"] for worker in fleet.started),
        first=median(first),
        slowest=max(first),
        pages=pages,
        copying=copying(round(pages)),
        others=median(others),
        slowest_other=max(others),
        refreshed=median(refreshed),
        slowest_refreshed=max(refreshed),
        apart=max(_apart(each) for _, each in switches),
        switched=max((max(told["at"] for told in each) - since) * 1e3 for since, each in switches),
        polls=polls,
    ), added


def _told(experiments: int) -> Iterator[Row]:
    """The very first call of workers whose host has told the SDK that they start."""
    with ExitStack() as stack:
        env = stack.enter_context(_environment(stack.enter_context(Settings(experiments)).url))
        stack.enter_context(_agent(env))
        first = [worker["first"] for worker in stack.enter_context(Workers(_USUAL, env, told=True)).started]
    what = f"{experiments:,} experiments: {_VERY_FIRST}, if a hook of ours was called when it started"
    yield Row("fleet", what, median(first), "us")
    yield Row("fleet", f"{what}: the slowest", max(first), "us")


def _added(found: list[Load]) -> Added:
    if not found:
        return Added(0, 0, 0, 0)
    memory, settings, took = zip(*found, strict=True)
    return Added(median(memory), max(memory), median(settings), median(took))


@contextmanager
def _environment(url: str) -> Iterator[dict[str, str]]:
    """That of the processes of a host, with a state directory."""
    with tempfile.TemporaryDirectory(prefix="hypotest-bench-", ignore_cleanup_errors=True) as directory:
        yield clean_env() | {
            "HT_TOKEN": "bench",
            "HT_SERVER_URL": url,
            "HT_STATE_DIR": directory,
            "HT_PULL_INTERVAL": str(_INTERVAL),
            "HT_PULL_JITTER": "0",
            "HT_LOG_LEVEL": "ERROR",
        }


@contextmanager
def _agent(env: dict[str, str]) -> Iterator[tuple[int, ControlPage]]:
    """A leader that has put settings in force: its pid, and the host's control page."""
    process = subprocess.Popen([sys.executable, "-m", "hypotest", "agent"], stdin=subprocess.DEVNULL, env=env)
    try:

        def page() -> ControlPage | None:
            pages = (open_existing(str(path)) for path in Path(env["HT_STATE_DIR"]).glob("v1/*"))
            return next((page for page in pages if page is not None and page.words[GENERATION]), None)

        yield process.pid, wait_for(page, "there are settings", _PATIENCE)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


def _switch(
    settings: Settings, variant: str, page: ControlPage, fleet: Workers
) -> tuple[float, list[dict[str, float]]]:
    """Serves other settings: when they were in force, as far as anybody saw, and what the workers tell of it."""
    before = page.words[GENERATION]
    settings.serve(variant)
    end = time.monotonic() + _PATIENCE
    while page.words[GENERATION] == before:
        assert time.monotonic() < end, "the settings are not published"
        time.sleep(0.0005)
    seen = time.monotonic()
    told = fleet.told()
    return min(seen, *(worker["at"] for worker in told)), told  # a worker may see it before we do


def _apart(told: list[dict[str, float]]) -> float:
    at = [worker["at"] for worker in told]
    return (max(at) - min(at)) * 1e3


def _polls(settings: Settings, done: int) -> float:
    """How many in an interval, of those after the first `done`; of the next few at least."""
    wait_for(lambda: len(settings.polls) > done + _POLLS, "the leader polls", _PATIENCE)
    seen = settings.polls[done:]
    return (len(seen) - 1) * _INTERVAL / (seen[-1] - seen[0])


def _accepting() -> Iterator[Row]:
    """What a worker has in memory while it accepts events."""
    with ExitStack() as stack:
        settings = stack.enter_context(Settings(_MANY))
        env = stack.enter_context(_environment(settings.url))
        stack.enter_context(_agent(env))
        for rate, held in at_rates(env).items():
            name = f"{rate:,} events/s for {SECONDS} s"
            yield Row("fleet", f"{name}: {_ADDED}", held.usual, "MiB")
            yield Row("fleet", f"{name}: the most of it", held.most, "MiB")
            yield Row("fleet", f"{name}: the most of resident memory, shared files as well", held.peak, "MiB")
        held = in_a_burst(env)
        name = f"{BURST:,} events without a pause"
        yield Row("fleet", f"{name}: the most that the client adds to a process", held.most, "MiB")
        yield Row("fleet", f"{name}: the most of resident memory, shared files as well", held.peak, "MiB")
        yield Row("fleet", f"{name}: what is left of it 2 s later", held.usual, "MiB")


def _publishing(experiments: int, where: str) -> Iterator[Row]:
    """What the settings cost the leader."""
    rounds = (1 if where else 2) if experiments == _MOST else _ROUNDS  # beside a busy thread one takes 10 s
    command = [sys.executable, "-m", "stress.bench.publishing", str(experiments), str(rounds), where]
    done = subprocess.run(command, env=clean_env(), cwd=ROOT, check=True, capture_output=True, timeout=_PATIENCE)
    for part, took in json.loads(done.stdout).items():
        what = f"{experiments:,} experiments: {_LEADERS[where]} {_PUBLISHING[part]}"
        line = f"{part}, {where}" if where else part
        yield Row("fleet", what, took, "ms", curve="publication by experiments", line=line, x=experiments)


def _peers(experiments: int) -> Iterator[Row]:
    """What the peers' clients add to a process, and ours that take turns with them: medians, and their ratios.

    The documents are made before. A peer fetches its own from loopback; ours are on the host, as the leader left them.
    """
    peers = [peer.name for peer in PEERS if peer.name in COMPARED and not missing(peer)]
    with ExitStack() as stack:
        sink = stack.enter_context(Sink())
        for peer in peers:
            sink.build(COMPARED[peer], experiments)
        settings = stack.enter_context(Settings(experiments))
        env = stack.enter_context(_environment(settings.url))
        stack.enter_context(_agent(env))
        starts = [Start(OURS, env=env), *(Start(peer, sink.url, experiments) for peer in peers)]
        rounds = [loads(starts) for _ in range(_STARTS_OF_PEERS if experiments == _MANY else _STARTS_OF_FEW)]
    cost = {start.client: _added(list(each)) for start, each in zip(starts, zip(*rounds, strict=True), strict=True)}
    for peer in peers:
        for own, value, unit, curve, what in (
            (cost[OURS].memory, cost[peer].memory, "MiB", _MEMORY, _ADDED),
            (cost[OURS].took, cost[peer].took, "ms", _START, _ANSWER),
        ):
            named = f"{experiments:,} experiments, {peer}: {what}"
            to, over = f"ours: {own:.3g} {unit}", f"{curve} by experiments"
            yield Row(
                "fleet", named, value, unit, to, value / own if own > 0 else None, curve=over, line=peer, x=experiments
            )
