"""One client in a process group of its own, which runs only while it is measured: `python -m stress.bench.contender`.

Reads a number of calls from standard input, makes them, and writes what they took: again and again.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import mmh3
import orjson

from stress.bench import ours, peers
from stress.bench.peer import Call, Peer

if TYPE_CHECKING:
    from types import TracebackType

_WARM_UP = 2_000
_PATIENCE = 60.0
_numbers = itertools.count()


def _floor(_: str, __: int) -> Call:
    """What a decision with an exposure needs at the least: one hash, one JSON object, one copy into a mapping."""
    import mmap

    memory = mmap.mmap(-1, 1 << 16)
    block = bytes(264)

    def call(user: str) -> None:
        mmh3.hash(user.encode(), 1, False)
        orjson.dumps(user)
        memory[4096 : 4096 + 264] = block

    return call


FLOOR = Peer("the floor in Python", "", "", "one mmh3, one orjson.dumps, one copy of 264 bytes into a mapping", _floor)
ALL = {peer.name: peer for peer in (FLOOR, *ours.OURS, *peers.PEERS)}


class Contender:
    """The process, as a context manager; stopped but in `measure`."""

    def __init__(self, name: str, url: str) -> None:
        self._command = [sys.executable, "-m", "stress.bench.contender", name, url]

    def __enter__(self) -> Contender:  # noqa: PYI034 - Self needs Python 3.11
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._answer()
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._signal(signal.SIGKILL)

    def measure(self, calls: int, core: int | None = None) -> float:
        """Makes so many calls, on a core if one is given; returns what one took, in us."""
        assert self._process.stdin is not None
        if core is not None:  # its main thread; others of the client's stay where they like
            os.sched_setaffinity(self._process.pid, {core})
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(f"{calls}\n")
            self._process.stdin.flush()
            return float(self._answer())
        finally:
            self._signal(signal.SIGSTOP)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended: {self._command}")
        return line

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # all of it has ended
            return


def _time(call: Call, calls: int) -> float:
    """What one call took, in us, less an empty one."""
    users = [f"user-{next(_numbers)}" for _ in range(calls)]  # all new: some clients report nobody twice
    gc.collect()
    return (_loop(call, users) - _loop(lambda _: None, users)) / calls / 1e3


def _loop(call: Call, users: list[str]) -> int:
    began = time.perf_counter_ns()
    for user in users:
        call(user)
    return time.perf_counter_ns() - began


def main() -> None:
    """The process."""
    name, url = sys.argv[1:]
    out = os.dup(1)
    os.dup2(2, 1)  # what a client prints is no answer
    peer = ALL[name]
    call = peer.make(url, 1)
    _time(call, _WARM_UP)
    os.write(out, b"ready\n")
    for line in sys.stdin:
        took = _time(call, int(line))
        if peer.settle is not None:
            peer.settle()
        os.write(out, f"{took}\n".encode())


if __name__ == "__main__":
    main()
