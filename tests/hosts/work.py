"""What an application does for one request or task, and what it tells of it. Runs in the host's workers."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import hypotest

EVENTS = (("visit", "left"), ("visit", "right"), ("goal", "done"))
"""What each answered piece of work has at the server, as (type, name)."""

_WORKING = 0.003


def work(ask: str) -> dict[str, Any]:
    """Two exposures and a KPI event, traced by the tag `request`; `ask` names the piece of work.

    Both experiments give their settings' version as the variant: whoever asks `left` first must not see a newer one
    there than at `right`. Times are of CLOCK_MONOTONIC, which Linux processes share.
    """
    tags = {"request": ask}
    begin = time.monotonic()
    left = hypotest.experiment("left", visitor_id=ask, tags=tags)
    time.sleep(_WORKING)  # work takes time, in which settings may change
    right = hypotest.experiment("right", visitor_id=ask, tags=tags)
    hypotest.kpi_event("done", visitor_id=ask, tags=tags)
    return {
        "pid": os.getpid(),
        "begin": begin,
        "end": time.monotonic(),
        "left": version_of(str(left)),
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
