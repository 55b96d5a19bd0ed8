"""Exceptions of signal handlers, calls within calls and forks, at every bytecode of the public calls.

The position of a failure is in its label. Sweeps that would take longer than some seconds try each `stride`th of them,
from a random one on; `python -m stress interrupts` tries all.
"""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from hypotest.interrupts import let_through
from tests.faults.bytecodes import ASYNC, HOT, REENTRIES, UWSGI, Row, sweep
from tests.namespace import run_python
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


FEWEST = 40
"""Bytecodes that any public call has: with fewer, they are not counted as they should be."""


def sound(rows: list[Row], *functions: str) -> None:
    """Nothing hidden, doubled, stuck or swallowed, and as much was tried as was meant to be, in all those functions."""
    for row in rows:
        what = f"{row.call}, {row.state}, {row.act}"
        assert (row.swallowed, row.failed, row.hidden, row.doubled) == ([], [], [], []), what
        assert row.tried == row.reached + row.dying, what
        assert row.tried >= row.bytecodes // row.stride > 0, what
        assert row.bytecodes >= FEWEST or functions, what
        assert set(functions) <= set(row.functions), what


@pytest.mark.parametrize("call", HOT)
def test_an_exception_at_every_bytecode_of_the_hot_path(server: ServerProcess, tmp_path: Path, call: str) -> None:
    """Each kind reaches the host from each bytecode; all events of other calls arrive, once."""
    kinds = ("SoftTimeLimitExceeded", "TimeoutError", "KeyboardInterrupt", "SystemExit")
    rows = sweep(server, tmp_path / "state", f"[interrupted({call!r}, 'steady', kind) for kind in {kinds}]")
    sound(rows)
    assert [(row.tried, row.dying) for row in rows] == [(row.bytecodes, 0) for row in rows]


@pytest.mark.parametrize("exception", ["SoftTimeLimitExceeded", "TimeoutError", "RuntimeError"])
def test_an_exception_in_the_other_calls(server: ServerProcess, tmp_path: Path, exception: str) -> None:
    """One that our code has uses of its own for, too: a TimeoutError is an OSError."""
    calls = ("kpi_event, odd tags", "experiment, not defined", "match_user_visitor", "flush", "status", "config")
    stride, first = 7, random.randint(1, 7)
    rows = sweep(
        server,
        tmp_path / "state",
        f"[interrupted(call, 'steady', {exception!r}, first={first}, stride={stride})"
        f" for call in {(*calls, 'wait_until_ready')}]",
    )
    sound(rows)


@pytest.mark.parametrize(
    ("call", "state", "stride"),
    [("kpi_event", "rotates", 7), ("experiment", "new settings", 31), ("kpi_event", "first after a fork", 997)],
)
@pytest.mark.parametrize("exception", ["SoftTimeLimitExceeded", "TimeoutError"])
def test_an_exception_in_a_call_that_has_more_to_do(
    server: ServerProcess, tmp_path: Path, call: str, state: str, stride: int, exception: str
) -> None:
    """One that makes a segment, reads new settings, or builds the client anew."""
    first = random.randint(1, stride)
    rows = sweep(
        server, tmp_path / "state", f"[interrupted({call!r}, {state!r}, {exception!r}, first={first}, stride={stride})]"
    )
    sound(rows)


def test_an_exception_in_the_first_call(server: ServerProcess, tmp_path: Path) -> None:
    """Which imports, and builds everything: the second call works as if it were the first."""
    stride = 997
    first = random.randint(1, stride)
    rows = sweep(
        server,
        tmp_path / "state",
        f"[interrupted('kpi_event', 'first of the process', kind, first={first}, stride={stride})"
        " for kind in ('SoftTimeLimitExceeded', 'TimeoutError')]",
        first="",
    )
    sound(rows)


BEGINNING = ("start", "_open", "_build")
ENDING = ("retire", "close", "stop")
STEPPING_DOWN = ("step_down", "end", "close", "held", "release", "is_open_on")


def test_an_exception_where_the_first_call_begins_what_lasts(server: ServerProcess, tmp_path: Path) -> None:
    """The thread: the next call sees to it, wherever the first was interrupted."""
    rows = sweep(
        server,
        tmp_path / "state",
        f"[interrupted('wait_until_ready', 'first of the process', 'SoftTimeLimitExceeded', only={BEGINNING})]",
        first="",
    )
    sound(rows, *BEGINNING)


def test_an_exception_while_a_client_is_retired(server: ServerProcess, tmp_path: Path) -> None:
    """Its campaign ends all the same: two in one process would lead by two configurations."""
    rows = sweep(
        server,
        tmp_path / "state",
        f"[interrupted('config', 'steady', 'SoftTimeLimitExceeded', only={ENDING})]",
        last="until(lambda: campaigns() == 1, 'one campaign is left')",
    )
    sound(rows, *ENDING)


def test_an_exception_while_a_leader_steps_down(server: ServerProcess, tmp_path: Path) -> None:
    """It gives its lock back all the same: held by a process that does not lead, it would keep all others from it."""
    rows = sweep(
        server,
        tmp_path / "state",
        f"[interrupted('config', 'leading', 'SoftTimeLimitExceeded', first={random.randint(1, 3)}, stride=3,"
        f" only={STEPPING_DOWN})]",
        last="until(lambda: hypotest.status().is_leader, 'leads again')\n"
        "until(lambda: campaigns() == 1, 'one campaign is left')",
    )
    sound(rows, *STEPPING_DOWN)


def test_an_exception_while_a_client_is_retired_that_begins_to_lead(server: ServerProcess, tmp_path: Path) -> None:
    """Its thread gives back what it has just taken, also where `step_down` was cut off and left its own lock taken."""
    source = """
from tests.faults.bytecodes import *
from hypotest.lock import LeaderLock
assert hypotest.wait_until_ready(10)
hypotest.config(pull_interval=80_000)
until(lambda: not campaigns(), "the first campaign is over")
acquire = LeaderLock.acquire
taken, config_called = threading.Event(), threading.Event()
def acquired(lock):
    if acquire(lock):
        taken.set()
        assert config_called.wait(20)
        return True
LeaderLock.acquire = acquired
row = Row("config", "beginning to lead", "TimeoutError")
bytecodes = Bytecodes(0, raising(TimeoutError), ("step_down",))
while bytecodes.where or not bytecodes.at:
    taken.clear(), config_called.clear()
    hypotest.kpi_event(f"kpi_event/{bytecodes.at}", user_id="u")
    assert taken.wait(20), (row, hypotest.status())
    bytecodes = Bytecodes(bytecodes.at + 1, bytecodes.act, bytecodes.only)
    try:
        with bytecodes:
            CALLS["config"]("")
    except TimeoutError:
        row.reached += 1
    config_called.set()
    row.tell(bytecodes)
    until(lambda: not campaigns(), f"the campaign is over that was interrupted at {bytecodes.where}")
assert row.tried == row.reached == row.bytecodes >= 3, row
assert hypotest.flush(20), hypotest.status()
"""
    run(source, sdk_env(server, tmp_path / "state"), deadline=120)


def test_an_exception_while_a_lock_is_given_back(tmp_path: Path) -> None:
    """Free, it is not held: who thought so would erase the sign of the next leader."""
    source = f"""
import fcntl
from tests.faults.bytecodes import *
from hypotest.lock import LeaderLock
lock, act = LeaderLock({str(tmp_path / "leader.lock")!r}), raising(TimeoutError)
bytecodes, freed = Bytecodes(0, act), 0
while bytecodes.where or not bytecodes.at:
    assert lock.acquire() and lock.held()
    bytecodes = Bytecodes(bytecodes.at + 1, act)
    with suppress(TimeoutError), bytecodes:
        lock.release()
    other = os.open(lock.path, os.O_RDWR)
    with suppress(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        freed += 1
        assert not lock.held(), bytecodes.where
    os.close(other)
    lock.release()
assert bytecodes.at > freed > 1, (bytecodes.at, freed)
"""
    assert run_python(source) == ""


def test_an_exception_while_totals_are_closed(tmp_path: Path) -> None:
    """Whoever is about to fold, as the sender may be, is told that they are closed, and does not wait for ever."""
    source = f"""
from tests.faults.bytecodes import *
from hypotest import control
from hypotest.retirement import Totals
page, act = control.open_control({str(tmp_path)!r}), raising(TimeoutError)
bytecodes, closed = Bytecodes(0, act), 0
while bytecodes.where or not bytecodes.at:
    totals = Totals(page)
    bytecodes = Bytecodes(bytecodes.at + 1, act)
    with suppress(TimeoutError), bytecodes:
        totals.close()
    closed += totals.closed()
    folded = []
    thread = threading.Thread(target=lambda: folded.append(totals.fold("", [0] * 16)), daemon=True)
    thread.start()
    thread.join(20)
    assert folded == [not totals.closed()], bytecodes.where
assert bytecodes.at > closed > 1, (bytecodes.at, closed)
"""
    assert run_python(source) == ""


def test_an_exception_at_the_cap(server: ServerProcess, tmp_path: Path) -> None:
    """The exception reaches the host where the event is refused, and afterwards events are refused and counted."""
    full = """
server_away = hypotest.flush(0.1)
while not hypotest.status().refused.get("spool_full"):
    hypotest.kpi_event("filler", user_id="u" * 60_000)
before = hypotest.status()
"""
    after = """
status = hypotest.status()
offered = rows[0].tried + 1
refused = sum(status.refused.values()) - sum(before.refused.values())
accepted = status.accepted - before.accepted
assert offered - rows[0].reached <= refused + accepted <= offered, (offered, refused, accepted)
"""
    source = f"""
from tests.faults.bytecodes import *
assert hypotest.wait_until_ready(10)
os.kill({server.pid}, signal.SIGSTOP)
{full}
rows = [interrupted("kpi_event", "at the cap", "TimeoutError", first={random.randint(1, 7)}, stride=7)]
{after}
os.kill({server.pid}, signal.SIGCONT)
assert rows[0].swallowed == [] and rows[0].tried >= rows[0].bytecodes // 7 > 0, rows
"""
    run(source, sdk_env(server, tmp_path / "state", max_spool_bytes=1 << 20), deadline=60)


def test_ten_thousand_exceptions_leave_nothing_open(server: ServerProcess, tmp_path: Path) -> None:
    """No segment is lost to the process, and no descriptor, wherever an append is interrupted."""
    rows = sweep(
        server,
        tmp_path / "state",
        "[interrupted('kpi_event', 'steady', 'SoftTimeLimitExceeded') for _ in range(48)]",
        first="assert hypotest.wait_until_ready(10)\nhypotest.kpi_event('x', user_id='u')\nbefore = descriptors()",
        last="until(lambda: descriptors() <= before + 8, 'descriptors are closed')\n"
        "assert len(runtime.current().spool.segments) <= 4, runtime.current().spool.segments",
        deadline=240,
    )
    assert sum(row.tried for row in rows) >= 10_000


def test_an_exception_where_a_segment_is_made_leaves_no_descriptor(server: ServerProcess, tmp_path: Path) -> None:
    """Those that are interrupted half-way are closed."""
    rows = sweep(
        server,
        tmp_path / "state",
        "[interrupted('kpi_event', 'rotates', 'SoftTimeLimitExceeded')]",
        last="until(lambda: not any('/.' in path for path in open_paths()), 'drafts are closed')",
    )
    sound(rows)


@pytest.mark.parametrize("way", REENTRIES)
def test_a_call_at_every_bytecode_of_a_call(server: ServerProcess, tmp_path: Path, way: str) -> None:
    """Calls by a signal handler, a destructor or a callback of the collector inside of ours: all events are kept."""
    rows = sweep(
        server,
        tmp_path / "state",
        f"[reentered(call, 'steady', {way!r}) for call in ('experiment', 'kpi_event')]"
        f" + [reentered('kpi_event', 'rotates', {way!r}, first={random.randint(1, 13)}, stride=13)]",
    )
    sound(rows)


def test_a_call_while_a_segment_gets_its_number(server: ServerProcess, tmp_path: Path) -> None:
    """Both make a segment: of one name, the later one would replace the other and its events."""
    rows = sweep(
        server, tmp_path / "state", "[reentered('kpi_event', 'rotates', 'a signal handler', only=('create',))]"
    )
    sound(rows, "create")


def test_a_call_within_the_first_call(server: ServerProcess, tmp_path: Path) -> None:
    """Both build a client, of which one stays."""
    stride = 997
    rows = sweep(
        server,
        tmp_path / "state",
        f"[reentered('kpi_event', 'first of the process', 'a signal handler', first={random.randint(1, stride)},"
        f" stride={stride})]",
        first="",
    )
    sound(rows)


def test_a_fork_in_the_middle_of_a_call(server: ServerProcess, tmp_path: Path) -> None:
    """Parent and child both go on, the parent first: what the child writes does not hide what its parent appended."""
    stride = 5
    rows = sweep(
        server,
        tmp_path / "state",
        f"[forked(call, first={random.randint(1, stride)}, stride={stride}) for call in ('experiment', 'kpi_event')]",
    )
    sound(rows)


def test_a_fork_without_hooks_in_the_middle_of_a_call(server: ServerProcess, tmp_path: Path) -> None:
    """Both go on, the child first."""
    stride = 11
    rows = sweep(
        server,
        tmp_path / "state",
        f"[forked(call, raw=True, first={random.randint(1, stride)}, stride={stride}) for call in"
        " ('experiment', 'kpi_event')]",
        uwsgi=UWSGI,
    )
    sound(rows)


def test_an_exception_that_is_set_in_the_thread(server: ServerProcess, tmp_path: Path) -> None:
    """By PyThreadState_SetAsyncExc: it may be taken for an error of ours, but no event is hidden and all goes on."""
    (row,) = sweep(server, tmp_path / "state", f"[interrupted('kpi_event', 'steady', {ASYNC!r})]")
    assert (row.failed, row.hidden, row.doubled) == ([], [], [])
    assert row.tried == row.bytecodes > FEWEST


def test_the_callers_objects_call_us(server: ServerProcess, tmp_path: Path) -> None:
    """An id, a tag and a handler of `logging` that call the SDK themselves, and a handler that raises."""
    source = """
import logging
class Id:
    def __str__(self):
        hypotest.kpi_event("by the id", user_id="u")
        return "id"
class Tag:
    def __str__(self):
        hypotest.experiment("button", visitor_id="by the tag")
        return "tag"
class Calling(logging.Handler):
    def emit(self, record):
        hypotest.kpi_event("by the handler")  # without an id: it logs, too
class Raising(logging.Handler):
    def emit(self, record):
        raise ValueError(record)
assert hypotest.wait_until_ready(10)
logging.getLogger("hypotest").addHandler(Calling())
logging.getLogger("hypotest").addHandler(Raising())
hypotest.kpi_event("by the caller", user_id=Id(), tags={"tag": Tag()})
hypotest.kpi_event("logged")
assert hypotest.experiment("button", visitor_id=Id()).variant in ("control", "b")
assert hypotest.flush(20)
"""
    run(source, sdk_env(server, tmp_path / "state"))
    counts = dict(server.query("SELECT coalesce(visitor_id, name), count(*) FROM events GROUP BY 1"))
    assert counts["by the handler"] >= 1
    assert (counts["by the id"], counts["by the tag"], counts["by the caller"]) == (2, 1, 1)
    assert (counts["logged"], counts["id"]) == (1, 1)


def test_a_handler_that_is_not_installed_any_more() -> None:
    """One for a single use puts the former back before it raises; it is known by the frame that it was given."""

    def once(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGUSR1, before)
        raise TimeoutError

    def once_too(*_: object) -> None:
        signal.signal(signal.SIGUSR1, before)
        raise TimeoutError

    for handler in (once, once_too):
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            signal.raise_signal(signal.SIGUSR1)
        except TimeoutError as interrupt:
            with pytest.raises(TimeoutError):
                let_through(interrupt)
