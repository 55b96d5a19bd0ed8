"""What an application does for one request or task, and what it tells of it. Runs in the host's workers."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import hypotest

EVENTS = (("visit", "left"), ("visit", "right"), ("goal", "done"))
"""What each answered piece of work has at the server, as (type, name)."""

WORKING = 0.003
"""Seconds that work takes, in which settings may change."""


def work(ask: str) -> dict[str, Any]:
    """Two exposures and a KPI event, traced by the tag `request`; `ask` names the piece of work."""
    piece = Piece(ask)
    time.sleep(WORKING)
    return piece.done()


class Piece:
    """One piece of work, for applications that wait in a way of their own between its beginning and `done`.

    Both experiments give their settings' version as the variant: whoever asks `left` first must not see a newer one
    there than at `right`. Times are of CLOCK_MONOTONIC, which Linux processes share.
    """

    def __init__(self, ask: str) -> None:
        self._ask = ask
        self._tags = {"request": ask}
        self._begin = time.monotonic()
        self._left = hypotest.experiment("left", visitor_id=ask, tags=self._tags)

    def done(self) -> dict[str, Any]:
        """The second half; returns what is told of it."""
        right = hypotest.experiment("right", visitor_id=self._ask, tags=self._tags)
        hypotest.kpi_event("done", visitor_id=self._ask, tags=self._tags)
        return {
            "pid": os.getpid(),
            "begin": self._begin,
            "end": time.monotonic(),
            "left": version_of(str(self._left)),
            "right": version_of(str(right)),
            "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("hypotest-")),
        }


def version_of(variant: str) -> int:
    """The number in a variant `v7`; 0 for control, before any settings."""
    return 0 if variant == "control" else int(variant.removeprefix("v"))


def early() -> None:
    """Work while the application is loaded, in whichever process does that, if the mode wants it."""
    if os.environ.get("HOSTS_EARLY"):
        work(f"early-{os.getpid()}-{time.monotonic_ns()}")
