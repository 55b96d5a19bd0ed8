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
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from hypotest.control import GENERATION, ControlPage, open_existing
from stress.bench.formats import VARIANTS
from stress.bench.memory import OURS, load, memory_of
from stress.bench.peers import PEERS, missing
from stress.bench.row import Row, at_most
from stress.bench.settings import Settings
from stress.bench.sink import Sink
from stress.bench.workers import Workers
from tests.server_process import ROOT, clean_env, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPERIMENTS = (100, 1_000, 10_000, 100_000)
WORKERS = (1, 8, 64)
COMPARED = ("growthbook", "eppo-server-sdk", "UnleashClient")
_FEW, _MANY, _USUAL = 100, 10_000, 8
_OF_PEERS = (100, 1_000, 10_000)
_SWITCHES = 3
_INTERVAL = 0.5
_POLLS = 6
_STARTS = 3
_PATIENCE = 60


class Found(NamedTuple):
    """What a fleet of so many workers with so many experiments showed.

    Attributes:
        added: MiB that the first answer adds to a fresh process, the median.
        answer: ms that it takes there, without the import.
        private: MiB of a worker that has used some experiments, before and after switches, the median.
        leader: MiB of the leader.
        host: MiB of all processes, what they share counted once.
        start: ms from a fork to the worker's first answer, the median.
        first: us of the first call of an experiment, the median.
        refreshed: us of the first call after a refresh, the median.
        apart: ms from the first worker that has switched to the last, the worst.
        switched: ms from the moment the settings are in force until all workers have switched, the median.
        polls: in an interval.
    """

    added: float
    answer: float
    private: float
    leader: float
    host: float
    start: float
    first: float
    refreshed: float
    apart: float
    switched: float
    polls: float


class Shown(NamedTuple):
    """How a field of `Found` is shown: in words, its unit, a curve and a line of it, and what it must not be above."""

    field: str
    what: str
    unit: str
    curve: str
    line: str = "ours"
    bar: float | None = None


_MEMORY, _CALL, _START = "memory", "first call", "time to the first answer"
_BY_EXPERIMENTS = (
    Shown("added", "memory that the client adds to a process", "MiB", _MEMORY),
    Shown("private", "private memory of a worker", "MiB", _MEMORY, "ours, the whole worker"),
    Shown("leader", "private memory of the leader", "MiB", _MEMORY, "ours, the whole leader"),
    Shown("answer", "the first answer of a fresh process", "ms", _START, "a fresh process"),
    Shown("start", "from the fork of a worker to its first answer", "ms", _START, "a fork"),
    Shown("first", "first call of an experiment", "us", _CALL, "of an experiment", 1_000),
    Shown("refreshed", "first call after a refresh", "us", _CALL, "after a refresh", 1_000),
)
_SWITCH = "switch of the settings"
_BY_WORKERS = (
    Shown("private", "private memory of a worker", "MiB", _MEMORY, "a worker"),
    Shown("host", "memory of all processes", "MiB", _MEMORY, "all processes"),
    Shown("start", "from the fork of a worker to its first answer", "ms", _START),
    Shown("first", "first call of an experiment", "us", _CALL, "of an experiment", 1_000),
    Shown("refreshed", "first call after a refresh", "us", _CALL, "after a refresh", 1_000),
    Shown("apart", "from the first worker that has switched to the last", "ms", _SWITCH, "first to last", 50),
    Shown("switched", "until all workers have switched", "ms", _SWITCH, "in force to last"),
    Shown("polls", "polls in an interval", "polls", "polls", bar=1.05),
)
_PUBLISHING = {
    "read": "the leader reads the document",
    "write": "the leader writes the settings and puts them in force",
    "no news": "the leader checks the settings in force",
}


def measure() -> Iterator[Row]:
    """Ours by experiments, by workers, and what a leader does; then the peers."""
    found: dict[int, Found] = {}
    for experiments in EXPERIMENTS:
        found[experiments] = _fleet(experiments, _USUAL)
        name = f"{experiments:,} experiments"
        base = found[_FEW]
        yield from _rows(
            _BY_EXPERIMENTS, name, found[experiments], base, f"{_FEW} experiments", "experiments", experiments
        )
    above = found[_MANY].private - found[_FEW].private
    held = at_most(above, 0.5, "<= 0.5 MiB")
    yield Row("fleet", f"{_MANY:,} experiments: memory of a worker above that with {_FEW}", above, "MiB", **held)
    by_workers: dict[int, Found] = {}
    for count in WORKERS:
        by_workers[count] = found[_MANY] if count == _USUAL else _fleet(_MANY, count)
        name = f"{count} worker{'s' * (count > 1)}, {_MANY:,} experiments"
        yield from _rows(_BY_WORKERS, name, by_workers[count], by_workers[1], "1 worker", "workers", count)
    for experiments in EXPERIMENTS:
        yield from _publishing(experiments)
    yield from _peers(found[_MANY])


def _rows(shown: tuple[Shown, ...], name: str, found: Found, base: Found, to: str, axis: str, x: int) -> Iterator[Row]:
    for one in shown:
        value, yardstick = getattr(found, one.field), getattr(base, one.field)
        ratio = value / yardstick if found is not base and yardstick else None
        held = at_most(value, one.bar, f"<= {one.bar:,} {one.unit}") if one.bar else {}
        curve = f"{one.curve} by {axis}"
        what = f"{name}: {one.what}"
        yield Row("fleet", what, value, one.unit, to if ratio else "", ratio, curve=curve, line=one.line, x=x, **held)


def _fleet(experiments: int, workers: int) -> Found:
    """Makes a host, has it switch its settings a few times, and looks at its processes."""
    with ExitStack() as stack:
        settings = stack.enter_context(Settings(experiments))
        env = stack.enter_context(_environment(settings.url))
        agent, page = stack.enter_context(_agent(env))
        fleet = stack.enter_context(Workers(workers, env))
        switches = [_switch(settings, VARIANTS[number % 2], page, fleet) for number in range(1, 1 + _SWITCHES)]
        memory = [memory_of(worker["pid"]) for worker in fleet.started]
        leader = memory_of(agent)
        loads = [load(OURS, env=env) for _ in range(_STARTS)]
        polls = _polls(settings)
    return Found(
        added=median(one.memory for one in loads),
        answer=median(one.took for one in loads),
        private=median(one.private for one in memory),
        leader=leader.private,
        host=sum(one.share for one in (leader, *memory)),
        start=median(worker["start"] for worker in fleet.started),
        first=median(took for worker in fleet.started for took in worker["first"]),
        refreshed=median(told["took"] for _, each in switches for told in each),
        apart=max(_apart(each) for _, each in switches),
        switched=median((max(told["at"] for told in each) - since) * 1e3 for since, each in switches),
        polls=polls,
    )


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
    """Serves other settings: when they were in force, and what the workers tell of it."""
    before = page.words[GENERATION]
    settings.serve(variant)
    end = time.monotonic() + _PATIENCE
    while page.words[GENERATION] == before:
        assert time.monotonic() < end, "the settings are not published"
        time.sleep(0.0005)
    since = time.monotonic()
    return since, fleet.told()


def _apart(told: list[dict[str, float]]) -> float:
    at = [worker["at"] for worker in told]
    return (max(at) - min(at)) * 1e3


def _polls(settings: Settings) -> float:
    """How many in an interval, of the next few."""
    done = len(settings.polls)
    wait_for(lambda: len(settings.polls) > done + _POLLS, "the leader polls", _PATIENCE)
    spent = settings.polls[done + _POLLS] - settings.polls[done]
    return _POLLS * _INTERVAL / spent


def _publishing(experiments: int) -> Iterator[Row]:
    """What the settings cost the leader."""
    command = [sys.executable, "-m", "stress.bench.publishing", str(experiments)]
    done = subprocess.run(command, env=clean_env(), cwd=ROOT, check=True, capture_output=True, timeout=_PATIENCE)
    for part, took in json.loads(done.stdout).items():
        what = _PUBLISHING[part]
        curve = "publication by experiments"
        yield Row("fleet", f"{experiments:,} experiments: {what}", took, "ms", curve=curve, line=part, x=experiments)


def _peers(ours: Found) -> Iterator[Row]:
    """What the peers' clients add to a process, and ours beside them."""
    with Sink() as sink:
        for peer in PEERS:
            if peer.name not in COMPARED or missing(peer):
                continue
            for experiments in _OF_PEERS:
                cost = load(peer.name, sink.url, experiments)
                for own, value, unit, curve, what in (
                    (ours.added, cost.memory, "MiB", _MEMORY, "memory that the client adds to a process"),
                    (ours.answer, cost.took, "ms", "time to the first answer", "from the import to the first answer"),
                ):
                    same = experiments == _MANY
                    named = f"{experiments:,} experiments, {peer.name}: {what}"
                    to, ratio = ("ours", value / own) if same and own > 0 else ("", None)
                    over = f"{curve} by experiments"
                    yield Row("fleet", named, value, unit, to, ratio, curve=over, line=peer.name, x=experiments)
