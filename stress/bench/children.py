"""The processes that the benchmark starts: each group of them ends with it, however it ends.

A child is in a process group of its own: Ctrl-C reaches the benchmark alone. When that ends, by Ctrl-C, SIGTERM or an
error, its descendants get a SIGKILL first, stopped ones too, and only then the contexts are left: nobody is waited for.
Orphans among them come to us (PR_SET_CHILD_SUBREAPER), so none is out of reach.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from tests.server_process import ROOT, clean_env

PATIENCE = 60.0
"""Seconds within which a child has to answer."""
_PR_SET_CHILD_SUBREAPER = 36
_ENDED = b"ZX"
_AT_MOST, _LOOK_EVERY = 5.0, 0.005


class Stopped:
    """Whether the benchmark is told to end."""

    by = 0


def start(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a child that is talked to by lines: it reads them from its standard input, and answers by its output."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_env() | dict(env or {}),
        start_new_session=True,
    )


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Writes a line to a child.

    Raises:
        RuntimeError: it has ended.
    """
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except OSError as error:
        raise RuntimeError(f"ended: {process.args!r}") from error


def answer(process: subprocess.Popen[str], patience: float = PATIENCE) -> str:
    """The next line that a child writes.

    Raises:
        RuntimeError: it ended, or wrote none in time and was killed.
    """
    assert process.stdout is not None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        end(process)

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        why = f"no answer within {patience:g} s" if late.is_set() else "ended"
        raise RuntimeError(f"{why}: {process.args!r}")
    return line.rstrip("\n")


def end(process: subprocess.Popen[str]) -> None:
    """SIGKILLs a child and its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def ending_with_us() -> Iterator[None]:
    """What is started in this context ends with it, at SIGINT and SIGTERM too; and so do the files it left behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kept = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before, scratch = os.environ.get("TMPDIR"), tempfile.mkdtemp(prefix="hypotest-bench-")
    os.environ["TMPDIR"], tempfile.tempdir = scratch, None
    try:
        yield
    finally:
        kill_all()
        shutil.rmtree(scratch, ignore_errors=True)
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None
        for number, handler in kept.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    Stopped.by = number
    kill_all()
    raise SystemExit(128 + number)


def kill_all() -> None:
    """SIGKILLs all descendants, until there are none: one may have forked meanwhile."""
    give_up = time.monotonic() + _AT_MOST
    while (found := descendants()) and time.monotonic() < give_up:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_EVERY)


def descendants() -> set[int]:
    """The pids of those that live."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            state, parent, *_ = stat.read_bytes().rpartition(b")")[2].split()
            if state not in _ENDED:
                parents[int(stat.parent.name)] = int(parent)
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {os.getpid()}} - found:
        found |= more
    return found
