"""What the application acknowledged, against what the server has: the one book that HypoTest itself does not keep.

Every request to the application has an id of its own, also when it repeats one that was not answered, and the
application passes it on as a tag. So each event at the server can be traced to one request: an acknowledged one must be
there once, and one that a killed worker did not answer may be there once or not at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import orjson

Event = tuple[str, str, str]
"""Request id, event type, name."""


class Verdict(NamedTuple):
    """The comparison.

    Attributes:
        stored: events the server has.
        lost: acknowledged events it has not.
        duplicates: events it has more than once, each surplus one counted.
        strangers: events it has of requests that were never sent.
    """

    stored: int
    lost: int
    duplicates: int
    strangers: int


class Ledger:
    """What was sent and acknowledged; used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: set[str] = set()
        self._acknowledged: set[Event] = set()

    def send(self, request_id: str) -> None:
        """Notes a request, before it is sent."""
        with self._lock:
            self._sent.add(request_id)

    def acknowledge(self, request_id: str, events: Iterable[tuple[str, str]]) -> None:
        """Notes the events, as (type, name), that a request with the answer 200 must have made."""
        with self._lock:
            self._acknowledged.update((request_id, kind, name) for kind, name in events)

    def compare(self, stored: Iterable[Event]) -> Verdict:
        """Holds the events of the server against the book."""
        counts = Counter(stored)
        return Verdict(
            stored=counts.total(),
            lost=len(self._acknowledged - counts.keys()),
            duplicates=sum(count - 1 for count in counts.values()),
            strangers=sum(count for (request_id, _, _), count in counts.items() if request_id not in self._sent),
        )


def stored_events(db: Path) -> list[Event]:
    """Every event in the server's database, read from the file itself: the server is not asked to judge itself."""
    uri = f"{db.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        rows = connection.execute("SELECT tags, type, name FROM events").fetchall()
    return [(str(orjson.loads(tags or "{}").get("request", "")), kind, name or "") for tags, kind, name in rows]
