"""The drain: how fast a backlog goes out, in how much memory, and what 1,000 events a second cost.

The leader is a process of its own on one core, with all that a leader does; the server, which only swallows, is on
another core. Where there is only one they share it, and the first row says so. The yardstick posts bodies of the
leader's by `requests.Session().post`, and again by `requests.post`, which makes a session for each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import requests

from hypotest import accounts, control, statedir
from hypotest.survey import survey
from stress.bench import children
from stress.bench.row import Bar, Row, at_least, at_most
from stress.bench.run import LONG

_EVENTS = 1_000_000
_ROUNDS = 5
_BACKLOGS = (100_000, 1_000_000)
_LONGEST = 10_000_000
_WRITERS = 2
_RATE, _SECONDS = 1000, 15.0
_TOKEN = "bench"
_DEADLINE = 900.0
_LOOK_EVERY = 0.02
_SURVEY_EVERY = 0.5
_MIB = 1 << 20
_CORES = sorted(os.sched_getaffinity(0))
_LEADERS, _SINKS = str(_CORES[0]), _CORES[-1]
_SHARED = "" if len(_CORES) > 1 else "; leader and server share the only core"


class _Drained(NamedTuple):
    """What became of a backlog.

    Attributes:
        rate: events for each second of wall time, from the leader's first call to the last answer.
        rate_of_cpu: for each second of its CPU time.
        posts: requests.
        speed: bytes of bodies for each second of wall time.
        private: what its private memory grew by, at its peak, in MiB.
        resident: the same of all its memory, the pages of mapped files included.
    """

    rate: float
    rate_of_cpu: float
    posts: int
    speed: float
    private: float
    resident: float


class _Sink(NamedTuple):
    """The server."""

    url: str

    def ask(self, path: str) -> requests.Response:
        """The answer to a GET."""
        return requests.get(self.url + path, timeout=10, proxies={"http": ""})


@contextmanager
def _sink() -> Iterator[_Sink]:
    process = _start(module="swallow")
    try:
        os.sched_setaffinity(process.pid, {_SINKS})
        yield _Sink(f"http://127.0.0.1:{int(children.answer(process))}")
    finally:
        children.end(process)
        process.communicate()


def measure() -> Iterator[Row]:
    """The rows of the section, in about two minutes."""
    with tempfile.TemporaryDirectory(prefix="hypotest-drain-", dir="/var/tmp") as directory, _sink() as sink:
        yield from _rates(Path(directory), sink)
        yield from _steady(Path(directory), sink)
        yield from _memory(Path(directory), sink)


def _rates(directory: Path, sink: _Sink) -> Iterator[Row]:
    written, home, bodies = directory / "written", directory / "home", directory / "bodies"
    _write(written, sink, _EVENTS)
    drains, ratios = [], []
    for _ in range(_ROUNDS):
        shutil.copytree(written, home)
        _sync(home)
        drains.append(_drain(home, sink, _EVENTS))
        shutil.rmtree(home)
        bodies.write_bytes(sink.ask("/bodies").content)
        bare = _child("post", _LEADERS, f"{sink.url}/v1/events", str(bodies), str(drains[-1].posts))
        ratios.append([drains[-1].speed / each for each in bare])
    shutil.rmtree(written)
    rate, speed = median(each.rate for each in drains), median(each.speed for each in drains) / _MIB
    what = f"a backlog goes out{_SHARED}"
    yield Row("drain", what, rate, "1/s", **at_least(rate, 150_000, ">= 150,000 events/s"))
    yield Row("drain", "the same for a second of CPU time", median(each.rate_of_cpu for each in drains), "1/s")
    for by, column in zip(("requests.Session().post", "requests.post"), zip(*ratios, strict=True), strict=True):
        ratio, to = median(column), f"{by} of the same bodies"
        words = f"the same in bytes of bodies, beside {by}"
        # A session saves what takes a bare post most of its time, and posts at memory speed: told, but no bar.
        held = at_least(ratio, 0.5, f">= 0.5 x bare {by}") if by == "requests.post" else {}
        yield Row("drain", words, speed, "MiB/s", to=to, ratio=ratio, **held)


def _steady(directory: Path, sink: _Sink) -> Iterator[Row]:
    for kind, where in (("busy", "a busy application"), ("idle", "an application that sleeps in between")):
        env = _env(directory / kind, sink)
        calls, threads, seconds, accepted = _child("trickle", _LEADERS, str(_RATE), str(_SECONDS), kind, env=env)
        assert accepted >= 0.99 * _RATE * _SECONDS, f"{accepted:,.0f} events"
        ours = 100 * (calls + threads) / seconds
        what = f"{_RATE:,} events/s in {where}, which leads"
        yield Row("drain", f"{what}: all that is ours", ours, "%", **at_most(ours, 2.0, "<= 2 % of a core"))
        yield Row("drain", f"{what}: the calls", 100 * calls / seconds, "%")
        yield Row("drain", f"{what}: the threads", 100 * threads / seconds, "%")


def _memory(directory: Path, sink: _Sink) -> Iterator[Row]:
    least = None
    for events in (*_BACKLOGS, *([_LONGEST] if os.environ.get(LONG) else [])):
        home = directory / f"backlog-{events}"
        _write(home, sink, events)
        done = _drain(home, sink, events)
        shutil.rmtree(home)
        flat = Bar()
        if least is not None:
            flat = at_most(done.private, least + 2, f"at most 2 MiB above that for {_BACKLOGS[0]:,}")
        least = done.private if least is None else least
        for what, value, unit, bar in (
            ("private memory", done.private, "MiB", flat),
            ("resident memory", done.resident, "MiB", Bar()),
            ("rate", done.rate, "1/s", Bar()),
        ):
            words = f"a backlog of {events:,} events: {what}"
            yield Row("drain", words, value, unit, curve="backlog", line=what, x=float(events), **bar)


def _write(home: Path, sink: _Sink, events: int) -> None:
    """Lets applications make events until there are so many; they are on disk when this returns."""
    env = _env(home, sink) | {"HT_LEADER": "off"}
    share = str(events // _WRITERS)
    writers = [_start("write", share, env=env) for _ in range(_WRITERS)]
    try:
        for writer in writers:
            writer.communicate(timeout=_DEADLINE)
            assert writer.returncode == 0
    finally:
        for writer in writers:
            children.end(writer)
    _sync(home)


def _sync(home: Path) -> None:
    for path in home.rglob("*.seg"):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _drain(home: Path, sink: _Sink, events: int) -> _Drained:
    """Lets a process lead until all of a backlog is delivered."""
    state = statedir.StateDir(str(home), statedir.namespace_of(sink.url, _TOKEN))
    posts, size, _ = sink.ask("/seen").json()
    leader = _start("lead", _LEADERS, env=_env(home, sink))
    try:
        assert children.answer(leader) == "ready"
        before, cpu = _memory_of(leader.pid), _cpu_of(leader.pid)
        children.tell(leader, "")
        began = float(children.answer(leader))
        peak, looked = before["RssAnon"], began
        while time.monotonic() - looked < _SURVEY_EVERY or accounts.pending(survey(state, {}).counters):
            if time.monotonic() - looked >= _SURVEY_EVERY:
                looked = time.monotonic()
            assert time.monotonic() - began < _DEADLINE, "it does not end"
            time.sleep(_LOOK_EVERY)
            peak = max(peak, _memory_of(leader.pid)["RssAnon"])
        assert _delivered(state) == events
        after, cpu = _memory_of(leader.pid), _cpu_of(leader.pid) - cpu
    finally:
        children.end(leader)
        leader.communicate()
    posts_now, size_now, ended = sink.ask("/seen").json()
    seconds = ended - began
    return _Drained(
        rate=events / seconds,
        rate_of_cpu=events / cpu,
        posts=posts_now - posts,
        speed=(size_now - size) / seconds,
        private=(peak - before["RssAnon"]) / _MIB,
        resident=(after["VmHWM"] - before["VmRSS"]) / _MIB,
    )


def _delivered(state: statedir.StateDir) -> int:
    page = control.open_existing(state.path)
    assert page is not None
    return accounts.add([page.accounts()[1], survey(state, {}).counters])[accounts.DELIVERED]


def _memory_of(pid: int) -> dict[str, int]:
    """The fields of a process's status that are amounts of memory, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}


def _cpu_of(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _env(home: Path, sink: _Sink) -> dict[str, str]:
    return {
        "HT_TOKEN": _TOKEN,
        "HT_SERVER_URL": sink.url,
        "HT_STATE_DIR": str(home),
        "HT_MAX_SPOOL_BYTES": str(1 << 40),
        "HT_LOG_LEVEL": "ERROR",
    }


def _start(*arguments: str, module: str = "draining", env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return children.start([sys.executable, "-m", f"stress.bench.{module}", *arguments], env)


def _child(*arguments: str, env: dict[str, str] | None = None) -> list[float]:
    """The numbers that a process prints."""
    child = _start(*arguments, env=env)
    try:
        said, _ = child.communicate(timeout=_DEADLINE)
    finally:
        children.end(child)
    assert child.returncode == 0
    return [float(number) for number in said.split()]
