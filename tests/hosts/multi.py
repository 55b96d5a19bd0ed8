"""A script with children by multiprocessing: `python -m tests.hosts.multi METHOD KIND [TASKS_PER_CHILD]`.

Names come as lines; a child does the work and answers. With HOSTS_EARLY the main process works, too: once before it has
children, and on every fifth name. It ends at the end of its input, or by SIGTERM.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.pool import AsyncResult
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from tests.hosts.script import do, lines
from tests.hosts.work import early

_CHILDREN = 2
_MAIN_TAKES = 5
_PATIENCE = 1.0


class Children(Protocol):
    """Two of them, whatever happens."""

    def hand(self, name: str) -> None:
        """Has one of them work on it."""

    def end(self) -> None:
        """Lets them finish."""


class Processes:
    """Each on a pipe of its own; who has died is replaced, who has done enough is told to end and replaced."""

    def __init__(self, context: BaseContext, tasks: int | None) -> None:
        self._context = context
        self._tasks = tasks or sys.maxsize
        self._children = [self._start() for _ in range(_CHILDREN)]
        self._handed = 0

    def _start(self) -> tuple[BaseProcess, Connection, list[str]]:
        theirs, ours = self._context.Pipe(duplex=False)
        process: BaseProcess = self._context.Process(target=_child, args=(theirs,))  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return process, ours, []

    def hand(self, name: str) -> None:
        self._handed += 1
        which = self._handed % _CHILDREN
        process, names, done = self._children[which]
        if not process.is_alive() or len(done) >= self._tasks:
            _finish(process, names)
            process, names, done = self._children[which] = self._start()
        done.append(name)
        with contextlib.suppress(BrokenPipeError):
            names.send(name)

    def end(self) -> None:
        for process, names, _ in self._children:
            _finish(process, names)


def _child(names: Connection) -> None:
    _reset()
    with contextlib.suppress(EOFError):  # the main process was killed
        while (name := names.recv()) is not None:
            do(name)


def _finish(process: BaseProcess, names: Connection) -> None:
    with contextlib.suppress(BrokenPipeError):
        names.send(None)
    process.join()
    names.close()


class Pool:
    """multiprocessing.Pool, which replaces a dead worker, and never completes what that one had begun."""

    def __init__(self, context: BaseContext, tasks: int | None) -> None:
        self._pool = context.Pool(_CHILDREN, _reset, maxtasksperchild=tasks)
        self._results: list[AsyncResult[None]] = []

    def hand(self, name: str) -> None:
        self._results = [result for result in self._results if not result.ready()]
        self._results.append(self._pool.apply_async(do, (name,)))

    def end(self) -> None:
        until = time.monotonic() + _PATIENCE
        for result in self._results:
            result.wait(until - time.monotonic())
        if all(result.ready() for result in self._results):
            self._pool.close()
        else:  # what a dead worker had begun: join() would wait for it for ever
            self._pool.terminate()
        self._pool.join()


class Executor:
    """ProcessPoolExecutor, which is of no more use once a worker died: then there is a new one.

    It never has more tasks than children. With more, it takes those that wait for idle children, does not replace who
    has done enough, and stands still with none (CPython's issue 115634).
    """

    def __init__(self, context: BaseContext, tasks: int | None) -> None:
        more: dict[str, Any] = {"max_tasks_per_child": tasks} if tasks else {}  # Python 3.11 and later, not with fork
        self._new = lambda: ProcessPoolExecutor(_CHILDREN, context, _reset, **more)
        self._executor = self._new()
        self._tasks: set[Future[None]] = set()

    def hand(self, name: str) -> None:
        if len(self._tasks) >= _CHILDREN:
            self._tasks = wait(self._tasks, return_when=FIRST_COMPLETED).not_done
        try:
            self._tasks.add(self._executor.submit(do, name))
        except BrokenProcessPool:
            self._executor.shutdown()
            self._executor = self._new()
            self._tasks = {self._executor.submit(do, name)}

    def end(self) -> None:
        self._executor.shutdown()


KINDS: dict[str, Callable[[BaseContext, int | None], Children]] = {
    "Process": Processes,
    "Pool": Pool,
    "ProcessPoolExecutor": Executor,
}


def _reset() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked child has its parent's handler


def main(method: str, kind: str, tasks: str = "") -> None:
    """Runs to the end."""
    early()
    children = KINDS[kind](multiprocessing.get_context(method), int(tasks or 0) or None)
    mine = _MAIN_TAKES if os.environ.get("HOSTS_EARLY") else 0
    for number, name in enumerate(lines()):
        if mine and number % mine == 0:
            do(name)
        else:
            children.hand(name)
    children.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
