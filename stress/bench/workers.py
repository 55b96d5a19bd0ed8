"""A preforking application whose workers ask for an experiment each few milliseconds, and tell what they see.

The application has imported and configured the SDK before it forks, and has not called it: a worker's first call is the
very first of its process, with all that this has to do once.

`python -m stress.bench.workers COUNT [told]` makes one worker after the other, prints a line of JSON for each when it
has answered first, and another for each switch of the settings that a worker sees. Ends with its standard input. With
`told`, the host tells the SDK that a worker starts, by its hook, before that first call.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import hypotest
from hypotest.integrations import worker_starts
from stress.bench.formats import name

if TYPE_CHECKING:
    from types import TracebackType

FIRST = name(0)
_OTHERS = [name(number) for number in range(1, 11)]
_PAUSE = 0.005
_LATER = 0.1
_PATIENCE = 60


class Workers:
    """The application's processes, as a context manager.

    Attributes:
        started: what each worker told first: its `pid`, `start` (ms from the fork to its first answer), `first` (us of
            its very first call, with its exposure), `pages` (which the kernel mapped or copied for that), and `others`
            (us of the first calls of ten more experiments).
    """

    def __init__(self, count: int, env: dict[str, str], *, told: bool = False) -> None:
        self._count = count
        self._env = env
        self._more = ["told"] * told

    def __enter__(self) -> Workers:  # noqa: PYI034 - Self needs Python 3.11
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stress.bench.workers", str(self._count), *self._more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
        )
        self.started = self.told()
        return self

    @property
    def pid(self) -> int:
        """The workers' parent."""
        return self._process.pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def told(self) -> list[dict[str, Any]]:
        """What each tells next, of a switch: `at` (when, by the monotonic clock), and `took` (us of the call)."""
        assert self._process.stdout is not None
        guard = threading.Timer(_PATIENCE, self._process.kill)  # its workers end with it
        guard.start()
        lines = [self._process.stdout.readline() for _ in range(self._count)]
        guard.cancel()
        assert all(lines), "a worker failed"
        return [json.loads(line) for line in lines]


def _fork(stop: int, alive: int, *, told: bool) -> None:
    """Makes a worker, and waits until it has answered."""
    ready, tell = os.pipe()
    forked = time.monotonic_ns()
    if os.fork():
        os.close(tell)
        assert os.read(ready, 1), "a worker failed"
        os.close(ready)
        return
    try:
        os.close(alive)
        if told:
            worker_starts()
        faults = _faults()
        variant, at, first = _ask(FIRST, report_event=True)
        pages = _faults() - faults
        others = [_ask(other)[2] for other in _OTHERS]
        hypotest.kpi_event("purchase", "user-1")
        _tell(pid=os.getpid(), start=(at - forked) / 1e6, first=first, pages=pages, others=others)
        os.write(tell, b".")
        os.close(tell)
        _work(variant, stop)
    finally:
        os._exit(0)


def _work(variant: str, stop: int) -> None:
    while not select.select([stop], [], [], _PAUSE)[0]:
        now, at, took = _ask(FIRST)
        if now != variant:
            variant = now
            _tell(at=at / 1e9, took=took)
            time.sleep(_LATER)
            for other in _OTHERS:
                _ask(other)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _ask(experiment: str, *, report_event: bool = False) -> tuple[str, int, float]:
    """The answer, when it was there, and what it took in us."""
    began = time.monotonic_ns()
    variant = hypotest.experiment(experiment, "user-1", report_event=report_event).variant
    end = time.monotonic_ns()
    return variant, end, (end - began) / 1e3


def _tell(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def main(count: str, *told: str) -> None:
    """The process."""
    hypotest.config(token=os.environ["HT_TOKEN"])
    stop, alive = os.pipe()
    for _ in range(int(count)):
        _fork(stop, alive, told=bool(told))
    sys.stdin.read()
    os.close(alive)
    for _ in range(int(count)):
        os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
