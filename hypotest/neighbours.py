"""The namespaces of other tokens and servers: nothing of theirs is delivered, but it is reported, and it ages."""

from __future__ import annotations

import contextlib
import time

from hypotest import accounts, control, log
from hypotest.backlog import Backlog
from hypotest.control import LIVED
from hypotest.events import is_older
from hypotest.lock import LeaderLock
from hypotest.post import Post
from hypotest.statedir import StateDir
from hypotest.survey import server_of, survey

_TELL_EVERY = 3600.0


def visit(post: Post, passed: int) -> int:
    """Looks after every other namespace of this state directory that has no leader of its own.

    Args:
        post: our own namespace; events over its `max_event_age` are dropped by count there, too.
        passed: s since the last visit, which the clock of those namespaces has lived.

    Returns:
        The number of events that wait there.
    """
    waiting: dict[StateDir, int] = {}
    for other in post.state.others():
        lock = LeaderLock(other.lock)
        with contextlib.suppress(OSError):
            if not lock.acquire():
                continue
            try:
                if pending := _look_after(other, post, passed):
                    waiting[other] = pending
            finally:
                lock.release()
    if waiting and post.page.turn("neighbours", _TELL_EVERY):  # once for the host, however many leaders there are
        for other, pending in waiting.items():
            log.line(
                log.WARNING,
                "%d events of another token or server wait in %s; `hypotest drain --server-url %s`, with their token in"
                " HT_TOKEN, delivers them",
                pending,
                other.path,
                server_of(other) or "URL",
            )
    return sum(waiting.values())


def _look_after(other: StateDir, post: Post, passed: int) -> int:
    page = control.open_existing(other.path)
    if page is None:
        return 0
    page.add(LIVED, passed)
    max_age, cutoff = post.config.max_event_age, time.time() - post.config.max_event_age
    # With the open segments of this process: it may have worked there, before a config().
    backlog = Backlog(other, page, post.own, expired=lambda payload: is_older(payload, cutoff), max_age=max_age)
    backlog.expire()
    backlog.sweep_quarantine()
    return accounts.pending(survey(other, post.own()).counters)
