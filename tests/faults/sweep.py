"""Cuts an operation at each of its system calls and bytecodes, and sees what is left: `python -m tests.faults.sweep`.

A process of its own, since it forks for each cut, and a test runner has threads. Kills and errors are strace's
injections: it counts the calls of each name apart, from the moment it is attached, so a first run tells which call of
which name the Nth one is, and each trace is held against the first. Killed at call N means: N - 1 calls were made.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import hypotest
from hypotest import lazy, pace
from tests.faults.operations import OPERATIONS, STEPS, Ledger, Operation
from tests.faults.recovery import recover
from tests.server_process import clean_env

UNTRACEABLE = 77
"""The exit status where no process may be traced."""

_BEGIN, _END = "/sweep/begin", "/sweep/end"
_SOURCE = os.path.dirname(hypotest.__file__)
_CALL = re.compile(r"(\w+)\(")
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, -1
_ALLOCATOR = "brk("
_ENVIRONMENT = {"PYTHONMALLOC": "malloc", "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "PYTHONHASHSEED": "0"}
"""Of a sweep's process: so that an allocator maps memory in one run as in the other."""
_DEADLINE = 20

_IO = ("EIO", "EINTR")
_ERRORS = {
    "openat": ("EMFILE", "ENOSPC", "EIO", "EINTR"),
    "open": ("EMFILE", "ENOSPC", "EIO", "EINTR"),
    "mmap": ("ENOMEM",),
    "write": ("ENOSPC", *_IO),
    "pwrite64": ("ENOSPC", *_IO),
    "pread64": _IO,
    "read": _IO,
    "fallocate": ("ENOSPC", "EOPNOTSUPP", *_IO),
    "fsync": _IO,
    "fdatasync": _IO,
    "fcntl": ("ENOLCK", "EINTR"),
    "flock": ("ENOLCK", "EINTR"),
    "rename": ("ENOSPC", "EIO"),
    "madvise": ("ENOMEM", "EINVAL"),
}
_VARIES = 100
_NEVER_FAIL = re.compile(r"get(pid|ppid|tid|euid|uid)|rt_sig|brk|munmap|exit|lseek|ioctl|futex|sched_")
_PACKAGE = "/__init__.py"
"""Spared: where its stat fails, Python takes the directory for a namespace package, as long as the process lives."""
_TRANSFERS = ("write", "pwrite64", "pread64")  # not read: a module that reads as empty is Python's affair


@dataclass
class Report:
    """What a sweep of one operation did and found."""

    operation: str
    calls: int = 0
    opcodes: int = 0
    cuts: int = 0
    failures: list[str] = field(default_factory=list)


class Trace(NamedTuple):
    """A run under strace: the names of the calls up to the first mark, and from there to the second, which counts."""

    before: list[str]
    within: list[str]
    lines: list[str]
    injected: bool
    status: int
    text: str


class Untraceable(Exception):
    """No process may be traced here."""


class Sweep:
    """Runs one operation again and again, and cuts each run at another place."""

    def __init__(self, operation: type[Operation], directory: Path) -> None:
        self.operation = operation
        self.report = Report(operation.name)
        self._ledger = Ledger()
        self._directory = directory
        self._log = directory / "stderr"

    @contextlib.contextmanager
    def _cut(self, where: str) -> Iterator[Path]:
        """A fresh directory for one run; what goes wrong is written down with the place of the cut."""
        root = self._directory / "root"
        root.mkdir()
        self._ledger.clear()
        self._log.write_bytes(b"")
        self.report.cuts += 1
        try:
            yield root
        except Untraceable:
            raise
        except Exception:  # noqa: BLE001 - whatever goes wrong is a finding
            said = self._log.read_text()
            self.report.failures.append(f"{self.operation.name}, {where}: {traceback.format_exc()}{said}")
        finally:
            shutil.rmtree(root)
            gc.collect()  # descriptors; at no other time, so that the runs are the same

    def _fork(self, root: Path, inner: Callable[[Operation], None]) -> tuple[int, int]:
        """Starts a process that prepares the operation, says so, waits for SIGUSR1, and goes on with `inner`."""
        ready, say = os.pipe()
        pid = os.fork()
        if pid:
            os.close(say)
            return pid, ready
        status = 1
        try:
            os.dup2(os.open(self._log, os.O_WRONLY | os.O_APPEND), 2)
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
            operation = self.operation(root, self._ledger)
            operation.start()
            os.write(say, b".")
            signal.sigwait({signal.SIGUSR1})
            inner(operation)
            status = 0
        except BaseException:  # noqa: BLE001 - no end of ours may run the parent's code
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def _prepared(self, root: Path, inner: Callable[[Operation], None]) -> int:
        """A process that waits for SIGUSR1. One that ends before is a finding, and not one that may not be traced."""
        pid, ready = self._fork(root, inner)
        said = os.read(ready, 1)
        os.close(ready)
        assert said, f"not even prepared: exit status {self._wait(pid)}"
        return pid

    def _wait(self, pid: int) -> int:
        end = time.monotonic() + _DEADLINE
        while not (found := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"no end within {_DEADLINE} s")
            time.sleep(0.0005)
        return os.waitstatus_to_exitcode(found[1])

    def _plain(self, root: Path, inner: Callable[[Operation], None]) -> int:
        pid = self._prepared(root, inner)
        os.kill(pid, signal.SIGUSR1)
        return self._wait(pid)

    def _traced(self, root: Path, inner: Callable[[Operation], None], inject: str = "") -> Trace:
        if shutil.which("strace") is None:
            raise Untraceable("it is not installed")
        pid = self._prepared(root, inner)
        output = self._directory / "trace"
        command = [
            "strace",
            "-o",
            str(output),
            "-s",
            "80",
            *(["-e", f"inject={inject}"] if inject else []),
            "-p",
            str(pid),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            first = strace.stderr.readline()
            os.kill(pid, signal.SIGUSR1)
            status = self._wait(pid)
            strace.wait(_DEADLINE)
            if "attached" not in first:
                raise Untraceable(first + strace.stderr.read())
        text = output.read_text()
        lines = [line for line in text.splitlines() if not line.startswith(_ALLOCATOR)]
        names = [found[1] for line in lines if (found := _CALL.match(line))]
        begin = next(i for i, line in enumerate(lines) if _BEGIN in line) + 1
        end = next((i for i, line in enumerate(lines) if _END in line), len(names)) + 1
        injected = "(INJECTED)" in "".join(lines[begin:end])
        return Trace(names[:begin], names[begin:end], lines[begin:end], injected, status, text)

    def _calls(self) -> list[tuple[str, int, str]]:
        """The calls of the operation, and the mark behind: name, which call of that name it is, and all of it."""
        with self._cut("without a cut") as root:
            trace = self._traced(root, _marked)
            assert trace.status == 0
            recover(root, self._ledger, self.operation, killed=False)
        if self.report.failures:
            return []
        self.report.cuts = 0
        self.report.calls = len(trace.within) - 1
        names = [*trace.before, *trace.within]
        start = len(trace.before)
        return [
            (name, names[: i + 1].count(name), line)
            for (i, name), line in zip(enumerate(trace.within, start), trace.lines, strict=True)
        ]

    def kill_at_calls(self, stride: int = 1, offset: int = 0) -> Report:
        """SIGKILL at each system call, and one right after the last; or at each `stride`th of them."""
        calls = self._calls()
        for n, (name, nth, _) in list(enumerate(calls, 1))[offset % stride :: stride]:
            with self._cut(f"killed at call {n} ({name})") as root:
                trace = self._traced(root, _marked, f"{name}:signal=KILL:when={nth}")
                assert trace.status == -signal.SIGKILL, f"exit status {trace.status}\n{trace.text}"
                assert trace.within == [name for name, *_ in calls[:n]], f"another call than that\n{trace.text}"
                recover(root, self._ledger, self.operation, killed=True)
        return self.report

    def fail_at_calls(self, stride: int = 1, offset: int = 0) -> Report:
        """Each error that a call may give, at each system call; the same process goes on."""
        for n, (name, nth, line) in list(enumerate(self._calls()[:-1], 1))[offset % stride :: stride]:
            for fault in _faults(name, line):
                with self._cut(f"{fault} at call {n} ({name})") as root:
                    trace = self._traced(root, _marked_and_on, f"{name}:{fault}:when={nth}")
                    assert trace.status == 0, f"exit status {trace.status}\n{trace.text}"
                    assert trace.injected, f"no error\n{trace.text}"
                    recover(root, self._ledger, self.operation, killed=False)
        return self.report

    def shorten(self) -> Report:
        """Half of what was asked for, at each read and write; the same process goes on."""
        with self._cut("counting") as root:
            assert self._plain(root, _shortening(0, self._ledger)) == 0
            self.report.calls = self._ledger.words[STEPS]
        self.report.cuts = 0
        for n in range(1, self.report.calls + 1):
            with self._cut(f"half of transfer {n}") as root:
                status = self._plain(root, _shortening(n, self._ledger))
                assert status == 0, f"exit status {status}"
                recover(root, self._ledger, self.operation, killed=False)
        return self.report

    def limit_file_size(self) -> Report:
        """A write that the kernel cuts short, and refuses to go on with: RLIMIT_FSIZE, in steps."""
        for limit in (0, 1, 100, 255, 256, 4096, 5000, 65_535):
            with self._cut(f"files of {limit} bytes at most") as root:
                self._within(root, resource.RLIMIT_FSIZE, lambda limit=limit: limit)
        return self.report

    def limit_descriptors(self) -> Report:
        """No more descriptors than so many: RLIMIT_NOFILE."""
        for spare in range(8):
            with self._cut(f"{spare} descriptors left") as root:
                self._within(root, resource.RLIMIT_NOFILE, lambda spare=spare: _free_descriptors()[spare])
        return self.report

    def _within(self, root: Path, kind: int, limit: Callable[[], int]) -> None:
        status = self._plain(root, _limiting(kind, limit))
        assert status == 0, f"exit status {status}"
        recover(root, self._ledger, self.operation, killed=False)

    def kill_at_opcodes(self, stride: int = 1, offset: int = 0) -> Report:
        """SIGKILL at each opcode of our modules; or at each `stride`th, from `offset` on."""
        with self._cut("counting") as root:
            assert self._plain(root, _stepping(0, self._ledger)) == 0
            self.report.opcodes = self._ledger.words[STEPS]
        self.report.cuts = 0
        for n in range(1 + offset % stride, self.report.opcodes + 1, stride):
            with self._cut(f"killed at opcode {n}") as root:
                status = self._plain(root, _stepping(n, self._ledger))
                # A few opcodes more or less: names are random, and so is the order of a directory.
                reached = self._ledger.words[STEPS] == n
                assert status == (-signal.SIGKILL if reached else 0), status
                assert reached or n > self.report.opcodes - _VARIES, f"{self._ledger.words[STEPS]} opcodes only"
                recover(root, self._ledger, self.operation, killed=reached)
        return self.report


def _faults(name: str, line: str) -> list[str]:
    """What may go wrong with a call, as strace injects it."""
    if _NEVER_FAIL.match(name) or ("stat" in name and _PACKAGE in line):
        return []
    nothing = ["retval=0"] if name in _TRANSFERS else []
    return [f"error={error}" for error in _ERRORS.get(name, ("EIO",))] + nothing


def _mark(path: str) -> None:
    os.access(path, os.F_OK)


def _marked(operation: Operation) -> None:
    _mark(_BEGIN)
    operation.run()
    _mark(_END)


def _failing(operation: Operation) -> None:
    """As the loops of a leader and the guard of the API run it: the next round begins anew."""
    with contextlib.suppress(Exception):
        operation.run()


def _marked_and_on(operation: Operation) -> None:
    _mark(_BEGIN)
    _failing(operation)
    _mark(_END)
    operation.go_on()


def _free_descriptors() -> list[int]:
    """The numbers that the next descriptors would have."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}
    spare = os.dup(0)  # the list's own, which is closed again
    os.close(spare)
    return [number for number in range(len(listed) + 64) if number == spare or number not in listed]


def _limiting(kind: int, limit: Callable[[], int]) -> Callable[[Operation], None]:
    def inner(operation: Operation) -> None:
        soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit(), hard))
        _failing(operation)
        resource.setrlimit(kind, (soft, hard))
        operation.go_on()

    return inner


def _shortening(which: int, ledger: Ledger) -> Callable[[Operation], None]:
    def half(real: Callable[..., Any], cut: Callable[[Any], Any]) -> Callable[..., Any]:
        def transfer(fd: int, what: Any, *more: int) -> Any:
            ledger.words[STEPS] += 1
            return real(fd, cut(what) if ledger.words[STEPS] == which else what, *more)

        return transfer

    def inner(operation: Operation) -> None:
        real = os.read, os.pread, os.write, os.pwrite
        os.read, os.pread = (half(call, lambda size: size // 2) for call in real[:2])
        os.write, os.pwrite = (half(call, lambda data: data[: len(data) // 2]) for call in real[2:])
        _failing(operation)
        os.read, os.pread, os.write, os.pwrite = real
        operation.go_on()

    return inner


def _stepping(which: int, ledger: Ledger) -> Callable[[Operation], None]:
    words = ledger.words

    def step(frame: FrameType, kind: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_SOURCE):
            return None
        if kind == "call":
            frame.f_trace = step  # Python 3.13 takes the next line only from a frame that has it
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif kind == "opcode":
            words[STEPS] += 1
            if words[STEPS] == which:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    def inner(operation: Operation) -> None:
        sys._getframe().f_trace_opcodes = True  # for Python 3.12, which looks at it in settrace
        sys.settrace(step)
        operation.run()
        sys.settrace(None)

    return inner


def sweep(operation: str, kind: str, *arguments: int) -> Report:
    """Runs one sweep in a process of its own.

    Raises:
        Untraceable: it needs strace, and that is not there or not permitted.
    """
    command = [sys.executable, "-m", __name__, operation, kind, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env() | _ENVIRONMENT, check=False)
    if done.returncode == UNTRACEABLE:
        raise Untraceable(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return Report(**json.loads(done.stdout))


def main(operation: str, kind: str, *arguments: str) -> int:
    """Runs one sweep and prints its report as JSON."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    logging.getLogger("hypotest").setLevel(logging.CRITICAL + 1)  # a line would be in the first run only
    for late in ("logging", "hypotest.leadership"):
        lazy.load(late)  # here, once for all runs
    time.strftime("%Y")  # the same: it reads the time zone
    pace.alone()  # a rest is a system call that comes when the clock says so
    gc.disable()
    gc.freeze()
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a kill is the same on any disk
    with tempfile.TemporaryDirectory(dir=in_memory) as directory:
        sweep = Sweep(OPERATIONS[operation], Path(directory))
        try:
            report = getattr(sweep, kind)(*map(int, arguments))
        except Untraceable as why:
            print(str(why).strip())
            return UNTRACEABLE
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
