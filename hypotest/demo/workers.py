"""Asks each of gunicorn's workers in person: a connection that is kept open stays with the worker that accepted it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from hypotest.demo.processes import Application, Clock

Answer = dict[str, Any]
_TIMEOUT = 5.0
_BURST = 8


def session() -> requests.Session:
    """A connection of its own, which the user's proxies and .netrc have no say in."""
    fresh = requests.Session()
    fresh.trust_env = False
    return fresh


class Workers:
    """One open connection to each worker, by pid."""

    def __init__(self, application: Application) -> None:
        """Connects to nobody yet."""
        self._application = application
        self._sessions: dict[int, requests.Session] = {}

    def ask(self, country: str) -> dict[int, Answer]:
        """What the workers answer that can be reached now, by pid, to a visitor of that country."""
        with ThreadPoolExecutor(_BURST) as pool:
            # At once: the kernel gives new connections to whoever is idle, so a burst reaches them all.
            missing = self._application.pids() - self._sessions.keys()
            new = [session() for _ in range(_BURST if missing else 0)]
            asked = [*self._sessions.values(), *new]
            answers = list(pool.map(lambda each: self._get(each, country), asked))
        self._sessions, kept = {}, {}
        for each, answer in zip(asked, answers, strict=True):
            if answer is None or answer["pid"] in kept:
                each.close()
            else:
                kept[answer["pid"]] = answer
                self._sessions[answer["pid"]] = each
        return kept

    def _get(self, each: requests.Session, country: str) -> Answer | None:
        try:
            response = each.get(f"{self._application.url}/worker", headers={"X-Country": country}, timeout=_TIMEOUT)
            response.raise_for_status()
            answer: Answer = response.json()
        except requests.RequestException:
            return None  # it was killed: its successor is asked next time
        return answer

    def all(self, clock: Clock, what: str, satisfied: Callable[[Answer], bool], country: str) -> dict[int, Answer]:
        """Asks until the answer of every worker there is satisfies; the set of workers may change meanwhile."""

        def complete() -> dict[int, Answer] | None:
            answers, pids = self.ask(country), self._application.pids()
            good = {pid: answer for pid, answer in answers.items() if pid in pids and satisfied(answer)}
            return good if pids and good.keys() == pids else None

        return clock.wait(complete, what, poll=0.05)

    def close(self) -> None:
        """Hangs up."""
        for each in self._sessions.values():
            each.close()
        self._sessions = {}
