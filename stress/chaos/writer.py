"""The processes that use the SDK, by its public functions: `python -m stress.chaos.writer KIND DIRECTORY SEED RATE`.

Each event has a name of its own as its visitor, `<label>.<counter>`. The clock that the SDK reads, `time.time`, is
stepped here: a namespace of the kernel has no wall clock of its own.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import hypotest
from hypotest import runtime
from hypotest.errors import EventRefused
from hypotest.spool import Spool
from stress.chaos.history import BEGAN, END, EXPERIMENTS, KINDS, STATUS, TIMER, History

_CHILDREN = 3
_LOOK = 40
_TIMER = 0.01
_YEAR = 365 * 86_400.0

_now = threading.local()
_stopped = False
_shift = 0.0
_real_time = time.time
_append = Spool.append


def _observed(spool: Spool, payload: bytes) -> None:
    """What the SDK itself says of each event: kept where this returns, refused where it raises."""
    _now.outcome = "error"
    try:
        _append(spool, payload)
    except EventRefused as refusal:
        _now.outcome = refusal.reason
        raise
    _now.outcome = None


def _stop(_number: int, _frame: object) -> None:
    global _stopped  # noqa: PLW0603 - one flag for the process
    _stopped = True


class Writer:
    """Makes calls, and writes down each before and after."""

    def __init__(self, directory: Path, rng: random.Random, rate: float, *, mortal: bool) -> None:
        """Begins a history.

        Args:
            directory: of the histories.
            rng: what to do.
            rate: calls a second.
            mortal: whether a timer may kill the process, in which nobody else works.
        """
        self._history = History(directory)
        self._rng = rng
        self._rate = rate
        self._number = 0
        self._mortal = mortal
        self._timed = False

    def work(self, calls: float, going: Callable[[], bool] = lambda: True) -> None:
        """Makes so many calls, in bursts, as long as it is `going` and nobody has stopped the process."""
        done = 0
        while done < calls and not _stopped and going():
            began = time.monotonic()
            burst = self._rng.randint(1, 30)
            if self._mortal and self._rng.random() < _TIMER:
                self._set_timer()
                burst *= 10
            for _ in range(burst):
                self._call()
            self._stop_timer()
            done += burst
            self._step_clock()
            time.sleep(max(0.0, began + burst / self._rate - time.monotonic()))
        self._history.write(END, 0)

    def _set_timer(self) -> None:
        """Has the kernel kill this process at any moment of the next calls: a killer from outside seldom hits one."""
        self._timed = True
        self._history.write(TIMER, 1)
        signal.setitimer(signal.ITIMER_REAL, self._rng.uniform(0, 0.01))

    def _stop_timer(self) -> None:
        if self._timed:
            self._timed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._history.write(TIMER, 0)

    def _call(self) -> None:
        number, self._number = self._number, self._number + 1
        name = f"{self._history.label}.{number}"
        version = 0
        _now.outcome = "untried"
        self._history.write(BEGAN, number)
        kind = KINDS[number % 3]
        if kind == "visit":
            said = hypotest.experiment(EXPERIMENTS[number % 2], visitor_id=name).variant
            version = int(said[1:]) if said[0] == "v" else 0
        elif kind == "goal":
            hypotest.kpi_event("purchase", visitor_id=name)
        else:
            hypotest.match_user_visitor("u", name)
        reason, unreported = self._outcome()
        self._history.ended(number, version, reason, unreported)
        if number % _LOOK == _LOOK - 1:
            status = hypotest.status()
            if status.is_leader:
                self._history.write(STATUS, status.leaders)

    def _outcome(self) -> tuple[str | None, int]:
        reason = _now.outcome
        client = runtime.current()
        if reason == "untried":  # it did not come as far as the spool
            reason = client.trouble or "error"
        return reason, sum(client.spool.unreported() if client.spool is not None else client.instance.unreported)

    def _step_clock(self) -> None:
        global _shift  # noqa: PLW0603 - one clock for the process
        if self._rng.random() < 0.01:
            _shift = self._rng.choice((0.0, 3600.0, -3600.0, _YEAR, -_YEAR))


class Process:
    """One process, and what it forks."""

    def __init__(self, directory: Path, seed: str, rate: float) -> None:
        self._directory = directory
        self._seed = seed
        self._rate = rate
        self._forks = 0
        self._fork = os.fork
        self.rng = random.Random(seed)

    def writer(self, *, mortal: bool = False) -> Writer:
        """A history of its own, for this process or thread."""
        return Writer(self._directory, random.Random(f"{self._seed}w"), self._rate, mortal=mortal)

    def fork(self, body: Callable[[], None]) -> int:
        """Runs `body` in a child, which ends with exit handlers or without."""
        self._forks += 1
        seed = f"{self._seed}.{self._forks}"
        pid = self._fork()
        if pid:
            return pid
        self._seed, self._forks, self.rng = seed, 0, random.Random(seed)
        body()
        if self.rng.random() < 0.5:
            os._exit(0)
        sys.exit(0)

    def plain(self) -> None:
        """A process that goes on until it is killed."""
        self.writer().work(float("inf"))

    def short(self) -> None:
        """A script, which ends in one of the ways in which scripts end."""
        self.writer(mortal=True).work(self.rng.randint(1, 300))
        end = self.rng.randrange(4)
        if end == 0:
            os._exit(0)
        if end == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if end == 2:
            os.execv("/bin/true", ["true"])

    def threads(self) -> None:
        """Two threads that write, and a third that forks."""
        writing = [threading.Thread(target=self.writer().work, args=(float("inf"),)) for _ in range(2)]
        for thread in writing:
            thread.start()
        while not _stopped:
            self._child_in_between()
        for thread in writing:
            thread.join()

    def middle(self) -> None:
        """A process that forks in the middle, whose children go on as it does."""
        mine = self.writer()
        while not _stopped:
            mine.work(self.rng.randint(1, 200))
            self._child_in_between()

    def _child_in_between(self) -> None:
        pid = self.fork(lambda: self.writer().work(self.rng.randint(1, 200)))
        time.sleep(self.rng.uniform(0, 0.5))
        os.waitpid(pid, 0)

    def prefork(self) -> None:
        """A server that keeps some workers, and replaces the ones that end. Some call the SDK before they fork."""
        if self.rng.random() < 0.5:
            hypotest.experiment(EXPERIMENTS[0], visitor_id="nobody", report_event=False)
        self._serve(self.writer() if self.rng.random() < 0.5 else None)

    def uwsgi(self) -> None:
        """The same in a master that forks as uWSGI does, behind the interpreter's back: no hook of a fork runs."""
        master = os.getpid()
        told = types.SimpleNamespace(worker_id=lambda: int(os.getpid() != master))
        sys.modules["uwsgi"] = told  # type: ignore[assignment]
        self._fork = ctypes.PyDLL(None).fork  # which keeps the GIL, held in the child as well
        self.prefork()

    def _serve(self, mine: Writer | None) -> None:
        children: set[int] = set()
        while not _stopped:
            while len(children) < _CHILDREN:
                children.add(self.fork(self._serve_as_worker(os.getpid())))
            if mine is not None:
                mine.work(5)
            time.sleep(0.02)
            children -= _ended()
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        while children:
            time.sleep(0.02)
            children -= _ended()

    def _serve_as_worker(self, parent: int) -> Callable[[], None]:
        def work() -> None:
            self.writer(mortal=True).work(self.rng.randint(100, 4000), lambda: os.getppid() == parent)

        return work


def _ended() -> set[int]:
    ended = set()
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    except ChildProcessError:
        pass
    return ended


def main(kind: str, directory: str, seed: str, rate: str) -> None:
    signal.signal(signal.SIGTERM, _stop)
    Spool.append = _observed  # type: ignore[method-assign, assignment]
    time.time = lambda: _real_time() + _shift
    getattr(Process(Path(directory), seed, float(rate)), kind)()


if __name__ == "__main__":
    main(*sys.argv[1:])
