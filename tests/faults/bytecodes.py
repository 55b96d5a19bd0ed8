"""Something happens at the Nth bytecode of our code: for scripts that use the SDK for real, see `tests.processes`.

A trace function (from 3.12 on, a callback of `sys.monitoring`) counts the bytecodes that our modules execute in this
thread. At the Nth it raises a real signal, whose real handler the interpreter runs inside of the trace function: what
it raises comes down at that bytecode, with the handler's frame in its traceback, as ever. The interpreter itself looks
for signals only after calls, at backward jumps and at the start of functions, so every place where it may interrupt us
is tried, and many more.

Of a call that is interrupted the event may be there, once, or not. Each call that returned is in `Row.kept`.
"""

from __future__ import annotations

import ctypes
import dis
import faulthandler
import gc
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import hypotest
from hypotest import runtime
from tests.processes import Script, run, said, sdk_env

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import CodeType, FrameType

    from tests.server_process import ServerProcess

    Act = Callable[[FrameType], None]

PATIENCE = 20.0
_CLEANUP_THROW = dis.opmap.get("CLEANUP_THROW", -1)
_PACKAGE = os.path.dirname(hypotest.__file__) + os.sep


class SoftTimeLimitExceeded(Exception):
    """An ordinary exception, as celery's is."""


EXCEPTIONS: dict[str, type[BaseException]] = {
    each.__name__: each for each in (SoftTimeLimitExceeded, TimeoutError, KeyboardInterrupt, SystemExit, RuntimeError)
}

ASYNC = "PyThreadState_SetAsyncExc"
"""As some libraries for timeouts raise in threads, instead of by a handler: nothing tells it from an error of ours."""
EXCEPTIONS[ASYNC] = SoftTimeLimitExceeded


class Bytecodes:
    """As a context, acts once, at bytecode `at` of our code in this thread, or `only` of functions with such names.

    Attributes:
        count: bytecodes so far, up to the act.
        where: that of the act; "" before. function: the name of the function there.
        dying: whether Python was taking an object down then: what is raised there, it swallows.
    """

    def __init__(self, at: int, act: Act, only: tuple[str, ...] = ()) -> None:
        self.at = at
        self.act = act
        self.only = only
        self.count = 0
        self.where = self.function = ""
        self.dying = False

    def __enter__(self) -> Bytecodes:  # noqa: PYI034 - Self needs Python 3.11
        self._thread = threading.get_ident()
        if _MONITORED:
            _monitor(self._monitored)
        else:
            sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        if _MONITORED:
            _monitor(None)
        else:
            sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._traced

    def _traced(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode":
            self._step(frame)
        return self._traced

    def _monitored(self, code: CodeType, _offset: int) -> Any:
        if not code.co_filename.startswith(_PACKAGE):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined]
        if threading.get_ident() == self._thread:
            self._step(sys._getframe(1))
        return None

    def _step(self, frame: FrameType) -> None:
        if self.where or (self.only and frame.f_code.co_name not in self.only):
            return
        if frame.f_lineno is None:
            return  # the interpreter's own, as it takes a generator down: it looks for no signal there
        self.count += 1
        if self.count == self.at:
            code = frame.f_code
            if code.co_code[frame.f_lasti] == _CLEANUP_THROW:  # likewise: where one ends that was in a `yield from`
                self.count -= 1
                return
            self.function = code.co_name
            self.where = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}+{frame.f_lasti}"
            self.dying = _is_dying(frame)
            self.act(frame)


_MONITORED = sys.version_info >= (3, 12)  # where a trace function is not told all bytecodes any more


def _monitor(callback: Callable[[CodeType, int], Any] | None) -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    if monitoring.get_tool(monitoring.DEBUGGER_ID) is None:
        monitoring.use_tool_id(monitoring.DEBUGGER_ID, "bytecodes")
    instruction = monitoring.events.INSTRUCTION
    monitoring.register_callback(monitoring.DEBUGGER_ID, instruction, callback)
    monitoring.set_events(monitoring.DEBUGGER_ID, instruction if callback else 0)


def _is_dying(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def raising(exception: type[BaseException]) -> Act:
    """The act that interrupts: the signal's handler raises."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise exception

    def act(_: FrameType) -> None:
        signal.raise_signal(signal.SIGALRM)

    signal.signal(signal.SIGALRM, handler)
    return act


def _set_asynchronously(_: FrameType) -> None:
    error = ctypes.py_object(SoftTimeLimitExceeded)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), error)


def _by_a_signal_handler(call: Callable[[], object]) -> Act:
    def act(_: FrameType) -> None:
        signal.signal(signal.SIGALRM, lambda *_: call())
        signal.raise_signal(signal.SIGALRM)

    return act


def _by_a_destructor(call: Callable[[], object]) -> Act:
    class Dying:
        def __del__(self) -> None:
            call()

    return lambda _: Dying() and None


def _by_the_collector(call: Callable[[], object]) -> Act:
    def called(phase: str, _: object) -> None:
        if phase == "stop":
            gc.callbacks.remove(called)
            call()

    def act(_: FrameType) -> None:
        gc.callbacks.append(called)
        gc.collect(0)
        if called in gc.callbacks:  # another thread is collecting
            called("stop", None)

    return act


REENTRIES: dict[str, Callable[[Callable[[], object]], Act]] = {
    "a signal handler": _by_a_signal_handler,
    "__del__": _by_a_destructor,
    "gc.callbacks": _by_the_collector,
}
"""How the host comes in again, in the middle of our call."""

_intervals = iter(range(10, 1 << 60))

CALLS: dict[str, Callable[[str], object]] = {
    "experiment": lambda label: hypotest.experiment("button", visitor_id=label),
    "experiment, condition and tags": lambda label: hypotest.experiment(
        "germans", visitor_id=label, tags={"country": "DE"}
    ),
    "experiment, override": lambda label: hypotest.experiment("button", visitor_id=label, override="b"),
    "experiment, not defined": lambda label: hypotest.experiment("none", visitor_id=label),
    "kpi_event": lambda label: hypotest.kpi_event(label, user_id="u", value=1.5, tags={"country": "DE"}),
    "kpi_event, odd tags": lambda label: hypotest.kpi_event(label, user_id="u", tags={"n": 2**70}),
    "match_user_visitor": lambda label: hypotest.match_user_visitor("u", label, "login"),
    "flush": lambda _: hypotest.flush(0.0),
    "status": lambda _: hypotest.status(),
    "config": lambda _: hypotest.config(pull_interval=next(_intervals) % 80_000),
    "wait_until_ready": lambda _: hypotest.wait_until_ready(1.0),
}
"""The public calls; the label is in the event, if one comes of it."""

SILENT = ("flush", "status", "config", "wait_until_ready")
"""Those of which no event comes."""

HOT = ("experiment", "experiment, condition and tags", "experiment, override", "kpi_event")


@dataclass
class Row:
    """What came of the bytecodes of one call in one state.

    Attributes:
        stride: every how many of them one is tried.
        bytecodes: how many the call has.
        tried: how many were interrupted. functions: those that they are of.
        reached: how often the exception reached the host.
        dying: how often it could not, since Python was taking an object down.
        swallowed: where it did not, though it could.
        failed: what did not work afterwards, deadlocks among it.
        kept: labels of the calls that returned.
        cut: labels of those that did not.
        hidden: those of `kept` that the server does not have. doubled: those that it has too often. See `sweep`.
    """

    call: str
    state: str
    act: str
    stride: int = 1
    bytecodes: int = 0
    tried: int = 0
    reached: int = 0
    dying: int = 0
    functions: list[str] = field(default_factory=list)
    swallowed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def add(self, other: Row) -> None:
        """Takes in what another process found."""
        for name, value in asdict(other).items():
            if name == "bytecodes":
                self.bytecodes = max(self.bytecodes, value)
            elif name not in ("call", "state", "act", "stride"):
                setattr(self, name, getattr(self, name) + value)

    def tell(self, bytecodes: Bytecodes) -> None:
        """Takes in one bytecode of this process."""
        self.bytecodes = max(self.bytecodes, bytecodes.count)
        self.tried += bool(bytecodes.where)
        if bytecodes.where and bytecodes.function not in self.functions:
            self.functions.append(bytecodes.function)


def _steady() -> None:
    """Nothing special about this call."""


def _rotates() -> None:
    # As if the segments were full, after half a minute: neither so quick that the next one doubles, nor so slow.
    for held in list(runtime.current().spool.segments.values()):  # type: ignore[union-attr]
        writer = held.writer and held.writer()
        if writer:
            writer.limit = 0
        held.opened -= 30.0


def _at_the_cap() -> None:
    _rotates()
    runtime.current().spool._refuse_until = (0.0, "")  # type: ignore[union-attr]


class _OldSettings:
    """Before each call, settings that are not the newest: those of the first time."""

    def __init__(self) -> None:
        self._view: Any = None

    def __call__(self) -> None:
        reader: Any = runtime.current().reader
        self._view = self._view or type(reader._view)(0, None)
        reader._view = self._view


def _leading() -> None:
    _steady()
    end = time.monotonic() + PATIENCE
    while not hypotest.status().is_leader:
        assert time.monotonic() < end, "nobody leads"
        time.sleep(0.005)


STATES: dict[str, Callable[[], None]] = {
    "steady": _steady,
    "leading": _leading,
    "new settings": _OldSettings(),
    "rotates": _rotates,
    "at the cap": _at_the_cap,
}
FORKED = ("first of the process", "first after a fork")


def interrupted(
    call: str, state: str, exception: str, *, first: int = 1, stride: int = 1, only: tuple[str, ...] = ()
) -> Row:
    """Raises at each bytecode of a call, or at each `stride`th from `first` on, until the call completes without.

    With `only`, at those of functions with such names.
    """
    row = Row(call, state, exception, stride)
    act = raising(EXCEPTIONS[exception])
    if exception == ASYNC:
        act = _set_asynchronously
    at = first
    while True:
        label = f"{call}/{state}/{exception}/{at}"
        done = (
            _in_a_child(label, row, lambda at=at, label=label: _interrupt(at, label, row, act, only))
            if state in FORKED
            else _interrupt(at, label, row, act, only)
        )
        if done:
            return row
        at += stride


def _interrupt(at: int, label: str, row: Row, act: Act, only: tuple[str, ...]) -> bool:
    """One bytecode; returns whether the call has no such one."""
    STATES.get(row.state, _steady)()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    bytecodes = Bytecodes(at, act, only)
    try:
        with bytecodes:
            CALLS[row.call](label)
    except EXCEPTIONS[row.act]:
        row.reached += 1
        row.cut.append(label)
    else:
        row.kept.append(label)
    row.tell(bytecodes)
    faulthandler.cancel_dump_traceback_later()
    if not bytecodes.where:
        return True
    if row.cut[-1:] != [label]:
        if bytecodes.dying:
            row.dying += 1
        else:
            row.swallowed.append(bytecodes.where)
        row.kept.remove(label)
        row.cut.append(label)  # it returned, perhaps without its event
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    check_on(f"{label}+", row, bytecodes.where)
    faulthandler.cancel_dump_traceback_later()
    return False


def reentered(call: str, state: str, way: str, *, first: int = 1, stride: int = 1, only: tuple[str, ...] = ()) -> Row:
    """Calls the SDK at each bytecode of a call, in one of REENTRIES."""
    row = Row(call, state, way, stride)
    at = first
    while True:
        label = f"{call}/{state}/{way}/{at}"
        done = (
            _in_a_child(label, row, lambda at=at, label=label: _reenter(at, label, row, only))
            if state in FORKED
            else _reenter(at, label, row, only)
        )
        if done:
            return row
        at += stride


def _reenter(at: int, label: str, row: Row, only: tuple[str, ...]) -> bool:
    STATES.get(row.state, _steady)()
    others = ("flush", "status", "config") if row.state in FORKED else ("flush", "status", "wait_until_ready")

    def call() -> None:
        for inner in ("kpi_event", "experiment", others[at % 3]):
            CALLS[inner](f"{label}~{inner}")
        row.kept += [f"{label}~kpi_event", f"{label}~experiment"]
        row.reached += 1

    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    with Bytecodes(at, REENTRIES[row.act](call), only) as bytecodes:
        CALLS[row.call](label)
    row.kept.append(label)
    row.tell(bytecodes)
    if bytecodes.where:
        check_on(f"{label}+", row, bytecodes.where)
    faulthandler.cancel_dump_traceback_later()
    return not bytecodes.where


def forked(call: str, *, raw: bool = False, first: int = 1, stride: int = 1) -> Row:
    """Forks at each bytecode of a call; both processes go on with it.

    The child of `os.fork` goes on when its parent has kept three more events. One of a fork without hooks, `raw`, goes
    on first: it cannot know of the fork before its next call, which is not promised to work in the other order.
    """
    row = Row(call, "steady", "a fork without hooks" if raw else "os.fork", stride)
    at = first
    while not _fork(at, f"{call}/{row.act}/{at}", row, raw=raw):
        at += stride
    return row


def _fork(at: int, label: str, row: Row, *, raw: bool) -> bool:
    waiting, going = os.pipe()
    pids: list[int] = []

    def act(_: FrameType) -> None:
        faulthandler.cancel_dump_traceback_later()  # its thread is not in the child, which would wait for it
        pids.append(ctypes.PyDLL(None).fork() if raw else os.fork())
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        if not pids[0]:
            os.close(going)
            if not raw:
                os.read(waiting, 1)  # until the parent has closed its end
        elif raw:
            _reap(pids[0], label, row)

    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        with Bytecodes(at, act) as bytecodes:
            CALLS[row.call](label)
        if pids == [0]:
            for n in range(3):
                hypotest.kpi_event(f"{label}/child/{n}", user_id="u")
            os._exit(0)
    finally:
        if pids == [0]:
            os._exit(1)
    row.kept.append(label)
    for n in range(3):
        row.kept += [f"{label}/{n}"] + [f"{label}/child/{n}"] * bool(pids)
        hypotest.kpi_event(f"{label}/{n}", user_id="u")
    os.close(going)
    os.close(waiting)
    if pids and not raw:
        _reap(pids[0], label, row)
    faulthandler.cancel_dump_traceback_later()
    row.tell(bytecodes)
    row.reached += bool(pids)
    return not pids


def _reap(pid: int, label: str, row: Row) -> None:
    if os.waitpid(pid, 0)[1]:
        row.failed.append(f"the child of {label} failed")


def check_on(label: str, row: Row, where: str) -> None:
    """The process works: an event is kept, the settings are there, and a client built anew has all it needs."""
    if row.state == "at the cap":
        return
    if row.state in FORKED:
        hypotest.status()
        if not campaigns():
            row.failed.append(f"no campaign after {where}")
        pid = os.fork()
        if not pid:
            os._exit(not runtime._hooks.ran)
        if os.waitpid(pid, 0)[1]:
            row.failed.append(f"no hooks of a fork after {where}")
    hypotest.kpi_event(label, user_id="u")
    row.kept.append(label)
    if "experiment" in row.call and not hypotest.experiment("button", visitor_id="v-2", report_event=False).is_b:
        row.failed.append(f"no settings after {where}")


def _in_a_child(label: str, row: Row, body: Callable[[], bool]) -> bool:
    """The same in a child of its own, whose findings are added to the row's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for name in ("functions", "kept", "cut", "failed", "swallowed"):
                setattr(row, name, [])
            row.tried = row.reached = row.dying = 0
            done = body()
            os.write(writing, json.dumps([done, asdict(row)]).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = b""
        while select.select([pipe], [], [], 2 * PATIENCE)[0] and (part := os.read(reading, 1 << 16)):
            found += part
    if not found:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not found:
        row.failed.append(f"no answer: {label}")
        return len(row.failed) > 3
    done, values = json.loads(found)
    row.add(Row(**values))
    return bool(done)


def campaigns() -> int:
    """How many threads of this process follow the leader, or lead."""
    return sum(thread.name == "hypotest-campaign" for thread in threading.enumerate())


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def open_paths() -> list[str]:
    """What they are of; one that another thread closes meanwhile may be left out."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


_SWEEP = """
from tests.faults import bytecodes
from tests.faults.bytecodes import *
{first}
rows = {rows}
until(lambda: hypotest.wait_until_ready(1), "ready")
assert hypotest.flush(60), hypotest.status()
{last}
for row in rows:
    say("row", json.dumps(asdict(row)))
status = hypotest.status()
say("accounts", json.dumps([status.accepted, status.delivered, status.pending, dict(status.dropped)]))
"""
_AGENT = """
until(lambda: hypotest.status().is_leader, "leads")
say("leads")
sys.stdin.readline()
"""

UWSGI = """
import os, sys, types
master = os.getpid()
sys.modules["uwsgi"] = types.SimpleNamespace(worker_id=lambda: 0 if os.getpid() == master else 1)
"""
"""A parent without a thread of ours: forked without hooks while one waits for the interpreter, Python itself hangs."""


def sweep(
    server: ServerProcess,
    state: Path,
    rows: str,
    *,
    first: str = "assert hypotest.wait_until_ready(10)",
    last: str = "",
    uwsgi: str = "",
    deadline: float = 120.0,
    **options: object,
) -> list[Row]:
    """Runs an expression for rows in a script, and checks what the server has of their events.

    Args:
        server: a running one.
        state: the state directory.
        rows: the expression, in the names of this module.
        first: what the script does before; "" for a process that has not called yet. Then another one leads.
        last: what it does when all events are delivered.
        uwsgi: what makes the script believe that it is uWSGI's.
        deadline: s.
        options: of the SDK.
    """
    env = sdk_env(server, state, **options)
    with ExitStack() as stack:
        if uwsgi or not first:
            leading = stack.enter_context(Script(_AGENT, env))
            leading.wait_for("leads")
        output = run(_SWEEP.format(first=first, rows=rows, last=last), env, first=uwsgi, deadline=deadline)
    found = [Row(**json.loads(line[4:])) for line in output.splitlines() if line.startswith("row ")]
    counts = dict(server.query("SELECT coalesce(visitor_id, name), count(*) FROM events GROUP BY 1"))
    for row in found:
        row.hidden = [label for label in row.kept if label not in counts and _has_event(label)]
        most = 2 if "fork" in row.act else 1  # both processes made the call
        row.doubled = [label for label in {*row.kept, *row.cut} if counts.get(label, 0) > most]
    accepted, delivered, pending, dropped = json.loads(said(output, "accounts"))
    there = sum(counts.values())
    assert (accepted, delivered, pending, dropped) == (there, there, 0, {}), (
        accepted,
        delivered,
        pending,
        dropped,
        there,
    )
    return found


def _has_event(label: str) -> bool:
    return label.partition("/")[0] not in SILENT or label[-1] == "+"
