"""Asks a host all the time, from several threads, and remembers every answer."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from types import TracebackType

from hypotest.demo.ledger import Ledger
from tests.hosts.doors import Answer, Door, Unanswered
from tests.hosts.work import EVENTS

_REST = 0.02
_REST_UNANSWERED = 0.05


class Load:
    """Asks from `threads` threads, within its context, and not while `paused`.

    Attributes:
        answers: all of them, as they came.
        ledger: what the server must have, and may have. asked: every name.
        unanswered: how often no answer came. trouble: the last reason.
    """

    def __init__(self, door: Door, threads: int) -> None:
        self.answers: list[Answer] = []
        self.ledger = Ledger()
        self.asked: set[str] = set()
        self.unanswered = 0
        self.trouble = ""
        self.door = door
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:  # noqa: PYI034 - Self needs Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Asks no more; returns when the last answer has come or not."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def ask(self, name: str, patience: float | None = None) -> Answer:
        """Asks once; `name` is followed by a number. Raises Unanswered, after `patience` seconds or the door's own."""
        name = f"{name}-{next(self._numbers)}"
        self.asked.add(name)
        self.ledger.send(name)
        try:
            answer = self.door.ask(name, patience)
        except Unanswered as error:
            self.unanswered += 1
            self.trouble = str(error)
            raise
        for done in answer.done:
            self.ledger.acknowledge(done, EVENTS)
        self.answers.append(answer)
        return answer

    def _run(self) -> None:
        while not self._over.wait(_REST):
            try:
                self.ask("work")
            except Unanswered:
                self._over.wait(_REST_UNANSWERED)

    def workers(self, *, since: float = 0.0, version: int = 0) -> set[int]:
        """The processes that answered something begun after `since`, with `version` or a later one."""
        return {answer.worker for answer in self._since(since) if min(answer.left, answer.right) >= version}

    def older(self, version: int, *, since: float) -> list[Answer]:
        """Answers begun after `since` with an older version."""
        return [answer for answer in self._since(since) if min(answer.left, answer.right) < version]

    def _since(self, since: float) -> list[Answer]:
        return [answer for answer in list(self.answers) if answer.begin >= since]

    def mixed(self) -> list[str]:
        """What no process may do: answer with an older version than it has answered with before."""
        by_worker: dict[int, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            by_worker[answer.worker].append(answer)
        return [found for answers in by_worker.values() for found in _steps_back(answers)]


def _steps_back(answers: list[Answer]) -> list[str]:
    """Of one process, whose threads may overlap: only what had ended before another began is before it."""
    ended = sorted(answers, key=lambda answer: answer.end)
    found, newest, done = [], 0, 0
    for answer in sorted(answers, key=lambda answer: answer.begin):
        while ended[done].end < answer.begin:
            newest = max(newest, ended[done].right)
            done += 1
        if answer.left < newest or answer.right < answer.left:
            found.append(f"process {answer.worker} answered {answer.left} and {answer.right} after {newest}")
    return found
