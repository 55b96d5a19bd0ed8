"""The campaign by which every process follows the leader or becomes it.

A follower watches the heartbeat in the control page with its own monotonic clock. When it stands still, or the leader
signed off, the follower tries the lock, which alone decides; only then does it load what a leader needs. Nothing here
starts a thread: `runtime.py` passes that in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hypotest import interrupts, lazy, log
from hypotest.control import HEARTBEAT, LEADER_PID, LEADER_SPACE
from hypotest.lock import LeaderLock
from hypotest.post import Post
from hypotest.watch import Watch, may_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hypotest.leadership import Leadership

_TICK = 0.1
STALE = 0.35
_STUCK_AFTER = 5.0
_LOCK_BACKOFF = 1.0
_AFTER_YOU = 0.01
"""Whoever starts the campaign goes on first: under gevent, what a leader imports would stand in its way for 0.1 s."""


def _nothing() -> None:
    """In place of callbacks that are not to be called again."""


class Campaign:
    """Follows the leader, and becomes it when there is none."""

    def __init__(self, post: Post, each_second: Callable[[], None], at_end: Callable[[], None] = _nothing) -> None:
        """Does nothing yet.

        Args:
            post: where to campaign.
            each_second: housekeeping of this process, called about once a second.
            at_end: what is left to be given up when the campaign is over.
        """
        self._post = post
        self._each_second = each_second
        self._at_end = at_end
        self._lock = LeaderLock(post.state.lock)
        self._leadership: Leadership | None = None
        self._stopped = False
        self._pause = threading.Event()  # never set, see `stop`
        self._beat = post.page.words[HEARTBEAT]
        self._beat_at = time.monotonic()
        self._not_before = self._second = 0.0
        self._ending = threading.RLock()
        self._ended: Leadership | None = None
        self._watch = Watch()
        self._abandoned = self._looked = False
        self._turn = [True]
        if not may_live(post.page.words[LEADER_PID]):
            self._beat_at -= STALE

    @property
    def leading(self) -> bool:
        """Whether this process leads."""
        return self._leadership is not None

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called: the campaign's thread ends it if the caller does not come to it."""
        return self._stopped

    def silence(self) -> float:
        """Seconds since this process last saw the leader's heartbeat move; 0 for the leader itself."""
        return 0.0 if self.leading else time.monotonic() - self._beat_at

    def run(self) -> None:
        """Loops until `stop`; only once, however many threads are started for it.

        If an interrupt hits the caller right after it started this thread, nothing records that, and the next call
        starts another one: `_turn` lets one of them run.
        """
        try:
            self._turn.pop()
        except IndexError:
            return
        try:
            self._pause.wait(_AFTER_YOU)
            while not self._stopped and not self._abandoned:
                try:
                    self.tick()
                    self._rest()
                except Exception as error:  # noqa: BLE001 - the campaign must outlive everything
                    self._unexpected(error)
                    self._not_before = time.monotonic() + _LOCK_BACKOFF
                    self._pause.wait(_TICK)
        finally:  # also where the host kills all greenlets
            if not self._abandoned:
                self._end()

    def _end(self) -> None:
        self._watch.close()
        self.step_down()  # `stop` may have come while this thread became the leader, or been cut by an interrupt
        self._dismiss()
        self._at_end()
        self._each_second = self._at_end = _nothing  # they hold the client, which holds this

    def _rest(self) -> None:
        """Until the next look: a moment, or longer if the kernel tells this follower when the leader ends."""
        words = self._post.page.words
        if self.leading or not self._watch.on(words[LEADER_PID], words[LEADER_SPACE]):
            self._pause.wait(_TICK)
        elif self._watch.wait() and words[LEADER_PID] == self._watch.pid:  # nobody has followed it yet
            self._beat, self._beat_at = words[HEARTBEAT], time.monotonic() - STALE

    def tick(self) -> None:
        """One look at the heartbeat, or one heartbeat."""
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second = now
            try:
                self._each_second()
            except Exception as error:  # noqa: BLE001 - the lock is looked at all the same
                self._unexpected(error)
            leadership = None if self._stopped else self._leadership
            if leadership is not None and not self._lock.held():
                log.line(log.WARNING, "leader: %s is gone or replaced, stepping down", self._lock.path)
                self.step_down()
                self._dismiss()
            elif leadership is not None:
                leadership.housekeep()
        leadership = self._leadership
        if self._stopped:  # and the lock may be left taken, see `step_down`
            return
        if leadership is not None:
            with self._ending:
                if not self._stopped:
                    leadership.tick()
            leadership.work()
        elif self._vacant(now) and now >= self._not_before:
            self._try_to_lead(now)

    def _vacant(self, now: float) -> bool:
        beat = self._post.page.words[HEARTBEAT]
        if beat != self._beat:
            self._beat, self._beat_at = beat, now
        return beat == 0 or now - self._beat_at >= STALE

    def _try_to_lead(self, now: float) -> None:
        still = now - self._beat_at
        if self._post.config.leader == "off":
            if still > _STUCK_AFTER:
                self._complain("no leader: events are kept but not sent; is `hypotest agent` running?")
            return
        try:
            if self._lock.acquire():
                self._leadership = leadership = lazy.load_aside("hypotest.leadership").Leadership(self._post)
                leadership.begin()  # if `stop` came just now, with loops that end at once
                return
        except Exception as error:  # noqa: BLE001 - a lock or an import that fails: back off, and let others try
            self.step_down()
            self._dismiss()
            self._lock.release()
            log.limited(
                log.ERROR, "election", "this process cannot lead: %s", log.shown(error), turn=self._post.page.turn
            )
            self._not_before = now + _LOCK_BACKOFF
            return
        if still > _STUCK_AFTER:
            pid = self._post.page.words[LEADER_PID] or "unknown"
            self._complain(f"the leader (pid {pid}) holds its lock but does not move: is it stopped?")
            self._not_before = now + _LOCK_BACKOFF

    def look_on(self) -> None:
        """One look, and the housekeeping, for a process in which no thread of ours moves: it must never lead."""
        try:
            self._each_second()
            # By two looks: the pid of another container says nothing.
            vacant = self._vacant(time.monotonic()) and self._looked
            self._looked = True
            if vacant or not self._post.page.words[LEADER_PID]:
                self._complain(
                    "no thread of ours moves in uWSGI without enable-threads, and nobody leads: events are kept but not"
                    " sent; set enable-threads = true, or start `hypotest agent` by attach-daemon"
                )
        except Exception as error:  # noqa: BLE001 - it is on the way to keep an event
            interrupts.let_through(error)
            self._unexpected(error)

    def _complain(self, what: str) -> None:
        log.limited(log.WARNING, "vacant", "%s", what, every=log.RARELY, turn=self._post.page.turn)

    def _unexpected(self, error: Exception) -> None:
        key = f"campaign:{type(error).__name__}"
        log.limited(log.ERROR, key, "unexpected, trying again: %s", log.shown(error), turn=self._post.page.turn)

    def finish(self, timeout: float) -> None:
        """Leaves no batch half-way: ends sending after the one under way, while the heart beats on."""
        leadership = self._leadership
        if leadership is not None:
            leadership.finish(timeout)

    def step_down(self) -> None:
        """Ends this process's leadership, if any: signs off, so that another takes over at once, and unlocks.

        Hazard: an interrupt where a `with` ends, as under a debugger, leaves its lock taken for ever. So nobody waits
        for it who need not: what it guards is over by then.
        """
        if not self.leading:
            return
        with self._ending:
            leadership = self._leadership
            if leadership is None:
                return
            leadership.end()
            if self._lock.held():
                self._post.page.words[LEADER_PID] = 0
                self._post.page.words[HEARTBEAT] = 0
            self._lock.release()
            # Last: what an interrupt cuts off here, the campaign's thread does again.
            self._ended, self._leadership = leadership, None

    def _dismiss(self) -> None:
        """Lets the threads of a leadership that is over go."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.dismiss()

    def stop(self) -> None:
        """Ends the campaign without waiting for its threads.

        In a thread of the host, so by plain stores and locks of C: an exception of a signal handler in the midst of
        `Event.set`, which is Python, would leave its lock taken for ever. Our threads notice within a moment.
        """
        self._stopped = True
        self.step_down()

    def abandon(self) -> None:
        """In a child: lets go of what was inherited without touching the parent's."""
        self._abandoned = True
        if self._leadership is not None:  # gevent: the parent's greenlets go on in a child
            self._leadership.abandon()
        self._lock.forget()
        self._watch.forget()
