"""Processes that write to a spool and can be killed at any line of it, made quickly: forked off a small one.

A writer has to be a process: a POSIX lock is the process's, and only its end gives it back as a kill does.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from hypotest import control
from hypotest.errors import EventRefused
from hypotest.spool import Spool
from tests.server_process import DEADLINE, ROOT, clean_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SOURCE = f"{ROOT}/hypotest/"


@contextlib.contextmanager
def kill_at(at: tuple[str, int] | None, kill: Callable[[], object]) -> Iterator[None]:
    """Calls `kill` once so many lines have run in functions of the SDK of that name, or in any."""
    within, left = at or ("", None)

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal left
        if event == "line" and left is not None:
            left -= 1
            if left < 0:
                left = None
                kill()
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(SOURCE) or code.co_name == "__del__":  # what is raised there ends nothing
            return None
        return local if within in ("", code.co_name) else None

    if at is None:
        yield
        return
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Killed(BaseException):
    """Ends what stands in for a process, as far as one can be ended inside another."""


def killed_at(at: tuple[str, int], body: Callable[[], object]) -> bool:
    """Runs `body` until so many lines have run, as `kill_at` counts them; whether it was killed there."""

    def die() -> NoReturn:
        raise Killed

    def steps() -> Iterator[None]:
        # Hazard: what a trace function raises at the last line of a handler leaves the exception that was handled there
        # behind as the context of all that this thread raises later. A generator has a context of its own.
        with kill_at(at, die):
            body()
        yield

    try:
        next(iter(steps()))
    except Killed:
        return True
    return False


def payload(number: int, size: int) -> bytes:
    """An event of `size` bytes like no other: what is in it says which it is."""
    head = b'{"number": %d, "pad": "' % number
    return head + (b"%d." % number * size)[: max(0, size - len(head) - 2)] + b'"}'


class Writers:
    """Starts writers; the context's end kills them all."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from tests.faults import writers; writers.serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env=clean_env(),
        )
        theirs.close()

    def __enter__(self) -> Writers:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()  # each writer ends with its own
        self._process.wait(DEADLINE)

    def start(self, namespace: str, *, name: int, max_bytes: int) -> Writer:
        """Starts a writer in a namespace's directory; `name` makes its instance, for runs that repeat."""
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE)
        order = json.dumps({"namespace": namespace, "name": name, "max_bytes": max_bytes}).encode()
        socket.send_fds(self._socket, [order], [theirs.fileno()])
        theirs.close()
        return Writer(ours)


class Writer:
    """One writer. Its `unreported` refusals are lost when it is killed: they are in no file yet."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._replies = ours.makefile("rb")
        self._pid = int(self._replies.readline())
        self._ended = os.pidfd_open(self._pid)
        self.unreported = 0

    def tell(self, do: str, *, at: tuple[str, int] | None = None, **more: object) -> str | None:
        """Has it do something, and be killed at some line of it; what came of it, None if it was killed."""
        self._socket.sendall(json.dumps({"do": do, "at": at, **more}).encode() + b"\n")
        reply = self._replies.readline()
        if not reply:
            self._bury()
            return None
        outcome, self.unreported = json.loads(reply)
        assert not outcome.startswith("Traceback"), outcome
        return str(outcome)

    def kill(self) -> None:
        """SIGKILL; returns when its locks are free."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, signal.SIGKILL)
        self._bury()

    def _bury(self) -> None:
        ended = select.poll()  # select knows no descriptor over 1023, which a process that runs all tests may have
        ended.register(self._ended, select.POLLIN)
        assert ended.poll(DEADLINE * 1000), "a writer does not end"
        self._replies.close()
        self._socket.close()
        os.close(self._ended)


def serve(number: int) -> None:
    """The process that all writers are forked off."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    orders = socket.socket(fileno=number)
    while True:
        order, fds, _, _ = socket.recv_fds(orders, 1 << 16, 1)
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            try:
                _write(socket.socket(fileno=fds[0]), json.loads(order))
            finally:
                os._exit(0)
        os.close(fds[0])


def _write(commands: socket.socket, order: dict[str, Any]) -> None:
    commands.sendall(b"%d\n" % os.getpid())
    page = control.open_existing(order["namespace"])
    spool = Spool(order["namespace"] + "/spool", order["max_bytes"], lambda: page.words[control.SPOOL_BYTES])
    name(spool, order["name"])
    for line in commands.makefile("rb"):
        outcome = _do(spool, **json.loads(line))
        commands.sendall(json.dumps([outcome, sum(spool.unreported())]).encode() + b"\n")


def name(spool: Spool, number: int) -> None:
    """Gives a writer a known instance instead of a random one: files are found in the same order in each run."""
    spool.instance._drawn["id"] = number.to_bytes(16, "big")


def _do(spool: Spool, do: str, at: tuple[str, int] | None, **more: int) -> str:
    try:
        with kill_at(at, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            if do == "append":
                spool.append(payload(more["number"], more["size"]))
            elif do == "close":
                spool.close()
            else:
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard if more["limit"] < 0 else more["limit"], hard))
    except EventRefused as refusal:
        return refusal.reason
    except Exception:  # noqa: BLE001 - reported to who asked
        import traceback

        return traceback.format_exc()
    return ""
