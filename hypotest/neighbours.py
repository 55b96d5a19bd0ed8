"""The namespaces that nobody leads: nothing of theirs is delivered here, but it is reported, and it ages.

Those of other tokens and servers; and our own in another state directory, which was in use while this one could not be.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator

from hypotest import accounts, control, log, statedir
from hypotest.backlog import Backlog
from hypotest.control import LIVED
from hypotest.events import is_older
from hypotest.lock import LeaderLock
from hypotest.post import Post
from hypotest.statedir import StateDir
from hypotest.survey import leaders_own, server_of, survey

_TELL_EVERY = 3600.0
_BRIEFLY = 0.1  # s a visit, at the leader's heartbeat


def visit(post: Post, passed: int) -> int:
    """Looks after every other namespace of this user that has no leader of its own.

    Args:
        post: our own namespace; events over its `max_event_age`, and over their last leader's, are dropped by count.
        passed: s since the last visit, which the clock of those namespaces has lived.

    Returns:
        The number of events that wait there.
    """
    waiting: dict[StateDir, int] = {}
    for other in (*post.state.others(), *_elsewhere(post)):
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
            _tell(other, pending, ours=other.namespace == post.state.namespace)
    return sum(waiting.values())


def _tell(other: StateDir, pending: int, *, ours: bool) -> None:
    whose = "of this token and server" if ours else "of another token or server"
    command = drain_command(other.root, "" if ours else server_of(other), ours=ours)
    log.line(log.WARNING, "%d events %s wait in %s; to deliver them: %s", pending, whose, other.path, command)


def drain_command(root: str, server_url: str, *, ours: bool) -> str:
    """What delivers the events of a namespace without a leader.

    Args:
        root: its state directory.
        server_url: of its last leader, "" if it had none.
        ours: whether it is of the token and server that the environment names.
    """
    where = f"--state-dir {shlex.quote(root)}"
    if ours:
        return f"hypotest drain {where}"
    server = shlex.quote(server_url) if server_url else "THEIR_SERVER"
    return f"HT_TOKEN=THEIR_TOKEN hypotest drain --server-url {server} {where}"


def _elsewhere(post: Post) -> Iterator[StateDir]:
    """The state of our own token and server in the other directories that would be used if ours could not be."""
    for root in statedir.candidates(post.config.state_dir, os.environ):
        with contextlib.suppress(OSError):
            found = statedir.examine(root, post.state.namespace) if root != post.state.root else None
            if found is not None:
                yield found


def _look_after(other: StateDir, post: Post, passed: int) -> int:
    page = control.open_existing(other.path)
    if page is None:
        return 0
    page.add(LIVED, passed)
    max_age = max(post.config.max_event_age, leaders_own(page, "max_event_age") or 0.0)
    cutoff = time.time() - max_age
    own = post.instance.segments  # this process may have worked there, before a config()
    backlog = Backlog(other, page, own, expired=lambda payload: is_older(payload, cutoff), max_age=max_age)
    backlog.expire(_BRIEFLY)
    backlog.sweep_quarantine()
    return accounts.pending(survey(other, own).counters)
