"""The visitors: each looks at the page once, and buys or subscribes with the true rate of the variant it was shown."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from typing import Any

import requests

from hypotest.demo.ledger import Ledger
from hypotest.demo.processes import DemoFailed
from hypotest.demo.workers import session

TRUE_RATES = {
    "buy_button": {"control": 0.10, "green": 0.14, "large": 0.20},
    "newsletter_box": {"top": 0.35, "bottom": 0.20},
}
_COUNTRIES = {"DE": 4, "AT": 2, "CH": 1, "FR": 3}
_SEED = 20
_TIMEOUT = 10.0
_ATTEMPTS = 4
_PRICE = 12.5
_OK = 200


class Visitors:
    """A number of visitors, a few at a time, from a number of threads.

    Attributes:
        total: how many there will be. seen: how many have come and gone.
        unanswered: requests that the killed worker did not answer; each was repeated.
        worker_was_killed: set by the demo; before, an unanswered request is a failure.
    """

    def __init__(self, url: str, ledger: Ledger, total: int, per_second: float, threads: int) -> None:
        """Starts nothing yet."""
        self.total = total
        self.seen = 0
        self.unanswered = 0
        self.worker_was_killed = False
        self._url = url
        self._ledger = ledger
        self._interval = 1 / per_second
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._started = 0.0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        """Lets them come."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raises what went wrong with any of them."""
        if self._failure is not None:
            raise DemoFailed(f"a visitor failed: {self._failure}") from self._failure

    def stop(self) -> None:
        """Sends no more of them; waits for those under way, bounded by their timeouts."""
        self._stopping.set()
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # an interrupt came while it was being started
                thread.join(_TIMEOUT)

    def _run(self) -> None:
        connection = session()
        try:
            while (number := next(self._numbers)) < self.total:
                early = self._started + number * self._interval - time.monotonic()
                if self._stopping.wait(max(0.0, early)):
                    return
                self._visit(connection, number)
                with self._lock:
                    self.seen += 1
        except Exception as error:  # noqa: BLE001 - handed to the demo's own thread
            self._failure = self._failure or error
        finally:
            connection.close()

    def _visit(self, connection: requests.Session, number: int) -> None:
        dice = random.Random(f"{_SEED}-{number}")  # noqa: S311 - no secret
        who = f"visitor-{number:04}"
        (country,) = dice.choices(list(_COUNTRIES), list(_COUNTRIES.values()))
        rolls = dice.random(), dice.random()
        page = self._request(connection, who, country, "GET", "/")
        if rolls[0] < TRUE_RATES["buy_button"].get(page["buy_button"], 0):
            self._request(connection, who, country, "POST", "/buy")
        if rolls[1] < TRUE_RATES["newsletter_box"].get(page["newsletter_box"], 0):
            self._request(connection, who, country, "POST", "/subscribe")

    def _request(self, connection: requests.Session, who: str, country: str, method: str, path: str) -> dict[str, Any]:
        for attempt in range(_ATTEMPTS):
            request_id = f"{who}{path}#{attempt}"
            self._ledger.send(request_id)
            try:
                response = connection.request(
                    method,
                    self._url + path,
                    headers={"X-Country": country, "X-Request-Id": request_id},
                    cookies={"visitor": who},
                    data={"price": _PRICE} if path == "/buy" else None,
                    timeout=_TIMEOUT,
                )
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if not self.worker_was_killed:
                    raise DemoFailed(f"{method} {path}: {error}") from error
                with self._lock:
                    self.unanswered += 1
                continue
            if response.status_code != _OK:
                raise DemoFailed(f"{method} {path} was answered with {response.status_code}")
            page: dict[str, Any] = response.json()
            self._ledger.acknowledge(request_id, _events(path, page))
            return page
        raise DemoFailed(f"{method} {path} was not answered {_ATTEMPTS} times in a row")


def _events(path: str, page: dict[str, Any]) -> list[tuple[str, str]]:
    """The events that the application has reported when it answers a request so."""
    if path == "/":
        return [("visit", name) for name in TRUE_RATES if page[name] is not None]
    return [("goal", {"/buy": "purchase", "/subscribe": "signup"}[path])]
