"""One client in a process group of its own, which runs only while it is measured: `python -m stress.bench.contender`.

Reads a number of calls from standard input, makes them, and writes what they took: again and again.
"""

from __future__ import annotations

import contextlib
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

from stress.bench import children, conditional, ours, peers
from stress.bench.peer import Call, Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_WARM_UP = 2_000
_BURST, _EACH = 250, 0.0125
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
ALL = {peer.name: peer for peer in (FLOOR, *ours.OURS, *peers.PEERS, conditional.EPPO)}


class Contender:
    """The process, as a context manager; stopped but in `measure`."""

    def __init__(self, name: str, url: str) -> None:
        self._command = [sys.executable, "-m", "stress.bench.contender", name, url]

    def __enter__(self) -> Contender:  # noqa: PYI034 - Self needs Python 3.11
        self._process = children.start(self._command)
        try:
            children.answer(self._process)
        except BaseException:
            children.end(self._process)
            raise
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._signal(signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):  # all that was to be measured is
                    self._process.communicate(timeout=children.PATIENCE)
        finally:
            children.end(self._process)
            self._process.wait()

    def measure(self, calls: int, core: int | None = None) -> float:
        """Makes so many calls, on a core if one is given; returns what one took, in us."""
        if core is not None:  # its main thread; others of the client's stay where they like
            os.sched_setaffinity(self._process.pid, {core})
        self._signal(signal.SIGCONT)
        try:
            children.tell(self._process, str(calls))
            return float(children.answer(self._process))
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # all of it has ended
            return


def _time(call: Call, calls: int, peer: Peer) -> float:
    """What one call took, in us, less an empty one."""
    users = [f"user-{next(_numbers)}" for _ in range(calls)]  # all new: some clients report nobody twice
    gc.collect()
    took = _loop(call, users) if peer.works is None else _spread(call, users, peer.works)
    return (took - _loop(lambda _: None, users)) / calls / 1e3


def _loop(call: Call, users: list[str]) -> int:
    began = time.perf_counter_ns()
    for user in users:
        call(user)
    return time.perf_counter_ns() - began


def _spread(call: Call, users: list[str], works: Callable[[], tuple[int, ...]]) -> int:
    """The same for a client that works meanwhile: calls come in bursts, beside work of the application's own.

    Only the bursts are timed. What the client's threads take of them they take; that each of what it counts has grown
    meanwhile is made sure of.
    """
    before, took, due = works(), 0, time.perf_counter()
    for first in range(0, len(users), _BURST):
        took += _loop(call, users[first : first + _BURST])
        due += _EACH
        while time.perf_counter() < due:
            sum(range(100))
    after = works()
    assert all(now > then for now, then in zip(after, before, strict=True)), f"{before} is now {after}"
    return took


def main() -> None:
    """The process."""
    name, url = sys.argv[1:]
    out = os.dup(1)
    os.dup2(2, 1)  # what a client prints is no answer
    peer = ALL[name]
    call = peer.make(url, 1)
    _time(call, _WARM_UP, peer._replace(works=None))
    os.write(out, b"ready\n")
    for line in sys.stdin:
        took = _time(call, int(line), peer)
        if peer.settle is not None:
            peer.settle()
        os.write(out, f"{took}\n".encode())


if __name__ == "__main__":
    main()
