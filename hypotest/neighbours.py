"""The namespaces of other tokens and servers: nothing of theirs is delivered, but it is reported, and it ages."""

from __future__ import annotations

import contextlib
import time

import orjson

from hypotest import accounts, control, log
from hypotest.backlog import Backlog
from hypotest.control import LIVED
from hypotest.events import is_older
from hypotest.lock import LeaderLock
from hypotest.statedir import StateDir
from hypotest.survey import survey


def visit(state: StateDir, max_age: float, passed: int) -> int:
    """Looks after every other namespace of this state directory that has no leader of its own.

    Args:
        state: our own namespace.
        max_age: s; events over it are dropped by count, as in our own.
        passed: s since the last visit, which the clock of those namespaces has lived.

    Returns:
        The number of events that wait there.
    """
    waiting = 0
    for other in state.others():
        lock = LeaderLock(other.lock)
        with contextlib.suppress(OSError):
            if not lock.acquire():
                continue
            try:
                waiting += _look_after(other, max_age, passed)
            finally:
                lock.release()
    return waiting


def _server_of(page: control.ControlPage) -> str:
    """The server of a namespace, as its last leader wrote it."""
    with contextlib.suppress(ValueError, TypeError):
        return str(orjson.loads(page.text(control.LEADER_CONFIG))["server_url"])
    return ""


def _look_after(other: StateDir, max_age: float, passed: int) -> int:
    page = control.open_existing(other.path)
    if page is None:
        return 0
    page.add(LIVED, passed)
    cutoff = time.time() - max_age
    backlog = Backlog(other, page, dict, expired=lambda payload: is_older(payload, cutoff), max_age=max_age)
    backlog.expire()
    backlog.sweep_quarantine()
    pending = accounts.pending(survey(other, {}).counters)
    if pending:
        log.limited(
            log.WARNING,
            f"neighbour:{other.namespace}",
            "%d events of another token or server wait in %s; `hypotest drain --server-url %s`, with their token in"
            " HT_TOKEN, delivers them",
            pending,
            other.path,
            _server_of(page) or "URL",
            every=3600.0,
        )
    return pending
