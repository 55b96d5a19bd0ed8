"""What the leader does while it leads: poll, send, beat, and keep house. Nothing here starts a thread."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable

import orjson

from hypotest import accounts, control, log, neighbours
from hypotest.backlog import Backlog
from hypotest.config import Config
from hypotest.control import HEARTBEAT, KICK, LAST_ERROR, LEADER_CONFIG, LEADER_PID, LEADER_SPACE, LIVED
from hypotest.errors import TransportError, Unauthorized
from hypotest.events import is_older
from hypotest.poller import Poller
from hypotest.post import Post
from hypotest.publisher import Publisher
from hypotest.sender import Sender
from hypotest.survey import survey
from hypotest.transport import HttpTransport
from hypotest.watch import pid_space

_RESCAN = 1.0  # s, while a backlog goes out
_NEIGHBOURS_EVERY = 60.0
_BACKOFF_FIRST, _BACKOFF_CAP = 0.5, 60.0
_UNAUTHORIZED_FACTOR, _UNAUTHORIZED_CAP = 5, 300.0
_MOST_CAUSES = 8
_PATIENCE = 1.0  # s, that a kick leaves between two attempts at a server in trouble
_MIB = 1 << 20


def backoff(failures: int, cap: float = _BACKOFF_CAP, at_least: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row: exponential, with full jitter.

    The jitter comes over and above `at_least`, and grows with it up to a minute: a server that tells all hosts to come
    back in 120 s must not see them all in that second.
    """
    spread = max(min(cap, _BACKOFF_FIRST * 2 ** min(failures, 16)), min(at_least, _BACKOFF_CAP))
    return at_least + _between(0, spread)


def _between(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 - not a secret


class Loop:
    """Calls `work` again and again, each time after as many seconds as it returned; `wake` cuts the wait short."""

    def __init__(
        self, work: Callable[[], float], close: Callable[[], None], turn: Callable[[str, float], bool]
    ) -> None:
        """`close` gives up what `work` uses; called by whoever made the last call of it."""
        self._work = work
        self._turn = turn
        self.close = close
        self._wake = threading.Event()
        self.stopped = False
        self.ended = threading.Event()
        self._due = 0.0

    def run(self) -> None:
        """Loops until `stop`."""
        try:
            while not self.stopped:
                self._wake.wait(self._call())
                self._wake.clear()
        finally:
            self.ended.set()
            self.close()

    def step(self) -> None:
        """Makes the next call if it is due: for a loop that no thread could be started for."""
        if not self.stopped and (self._wake.is_set() or time.monotonic() >= self._due):
            self._wake.clear()
            self._due = time.monotonic() + self._call()

    def _call(self) -> float:
        try:
            return self._work()
        except Exception as error:  # noqa: BLE001 - a loop that dies would freeze settings or delivery silently
            key = f"loop:{type(error).__name__}"
            log.limited(log.ERROR, key, "unexpected, trying again: %s", log.shown(error), turn=self._turn)
            return backoff(4)

    def wake(self) -> None:
        """Makes the next call happen now."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the loop after the call that is under way."""
        self.stopped = True
        self._wake.set()


class Leadership:
    """What the leader does while it holds the lock: two loops, and a tick from the campaign's own."""

    def __init__(self, post: Post) -> None:
        """Signs on, and starts nothing yet. The caller holds the lock."""
        config, page = post.config, post.page
        self._post = post
        self._backlog = Backlog(
            post.state,
            page,
            post.instance.segments,
            expired=lambda payload: is_older(payload, time.time() - config.max_event_age),
            max_age=config.max_event_age,
        )
        self._publisher = Publisher(post.state.path, page)
        polls, sends = HttpTransport(config), HttpTransport(config)
        self._poller = Poller(polls, self._publisher, page)
        self._sends = sends
        self._sender = Sender(sends, self._backlog)
        self._poll_failures = self._send_failures = 0
        self._kick = page.words[KICK]
        self._last_attempt = self._send_not_before = self._poll_not_before = 0.0
        self._begun = self._parted = False
        self._trouble = {"poll": "", "send": ""}
        self._trouble_since: float | None = None
        self._told = False
        self._causes: set[str] = set()
        now = time.monotonic()
        self._lived_from = self._neighbours_from = now
        self._neighbours_due = now
        self._loops = (Loop(self._poll, polls.close, page.turn), Loop(self._send, self._end_sending, page.turn))
        self._threadless: list[Loop] = []
        page.unsaid("server")
        page.add(control.EPOCH)
        page.set_text(LEADER_CONFIG, orjson.dumps(_public(config)).decode())
        page.words[LEADER_SPACE] = pid_space()
        page.words[LEADER_PID] = os.getpid()  # last: who sees it sees the rest

    def begin(self) -> None:
        """Starts the loops. Whoever sees what they do, or the line about it, finds that this process has signed on."""
        post = self._post
        log.line(log.INFO, "leader: pid %d polls and sends for this host, state in %s", os.getpid(), post.state.path)
        for name, loop in zip(("poller", "sender"), self._loops, strict=True):
            try:
                post.start(name, loop.run)
            except RuntimeError:  # a limit; and Python 3.12 starts none while the interpreter goes down, as for a flush
                self._threadless.append(loop)

    def tick(self) -> None:
        """One heartbeat; never waits."""
        words = self._post.page.words
        words[HEARTBEAT] = words[HEARTBEAT] % (1 << 62) + 1  # never 0, which says that nobody leads
        if words[KICK] != self._kick:
            self._kick = words[KICK]
            self.wake_sender()

    def work(self) -> None:
        """Does what no thread could be started for."""
        for loop in self._threadless:
            loop.step()

    def housekeep(self) -> None:
        """What is due about once a second: the leaders' clock, the disk, the neighbours."""
        now = time.monotonic()
        passed = int(now - self._lived_from)
        self._lived_from += passed
        self._post.page.add(LIVED, min(passed, 5))  # a suspended machine has not lived
        with contextlib.suppress(OSError, ValueError):
            self._backlog.sync()
        self._backlog.publish_size()
        if now >= self._neighbours_due:
            lived, self._neighbours_from = int(now - self._neighbours_from), now
            self._neighbours_due = now + _NEIGHBOURS_EVERY
            self._backlog.sweep_quarantine()
            neighbours.visit(self._post, lived)
            control.sweep_drafts(self._post.state.path)

    def wake_sender(self) -> None:
        """Sends now, unless the server asked for patience or was tried a moment ago."""
        now = time.monotonic()
        rested = now >= self._send_not_before and now - self._last_attempt >= _PATIENCE
        if rested or not self._send_failures:
            self._loops[1].wake()

    def finish(self, timeout: float) -> None:
        """Stops the loops and waits until the batch under way is settled, `timeout` seconds at most.

        Without it, the next leader sends that batch again. A poll under way is not waited for: it loses nothing.
        """
        for loop in self._loops:
            loop.stop()
        if self._loops[1] not in self._threadless:
            self._loops[1].ended.wait(timeout)

    def end(self) -> None:
        """What is under way changes nothing on disk any more, and is the loops' last; `dismiss` wakes them."""
        self._backlog.close()
        self._publisher.close()
        for loop in self._loops:
            loop.stopped = True

    def dismiss(self) -> None:
        """Lets the loops' threads go, once this has ended, and gives up what loops without one have open."""
        for loop in self._loops:
            loop.stop()
        for loop in self._threadless:
            loop.close()

    def abandon(self) -> None:
        """In a child: as `end`, by plain stores only, since a lock may be a dead thread's."""
        self._backlog.abandon()
        self._publisher.close()
        for loop in self._loops:
            loop.stopped = True

    def _poll(self) -> float:
        config = self._post.config
        begun, self._begun = self._begun, True
        if not begun and (rest := self._fresh_for()) > 0:
            # Hosts are started together, too: what was confirmed an interval ago at most will do for a moment. Not
            # longer: where no leader lived for as long as the jitter, none would ever poll.
            return _between(0, min(config.pull_jitter, rest))
        try:
            self._poller.poll_once()
        except TransportError as error:
            self._poll_failures += 1
            delay = self._troubled("poll", error, self._poll_failures, config.pull_interval)
            self._poll_not_before = time.monotonic() + (delay if error.retry_after else 0.0)
            return delay
        failed, self._poll_failures = self._poll_failures, 0
        self._untroubled("poll")
        if failed and self._send_failures and time.monotonic() >= self._send_not_before:
            self._loops[1].wake()  # it serves again
        longest = config.pull_interval + config.pull_jitter
        parted, self._parted = self._parted, True
        # The first interval ends anywhere: by the jitter alone, hosts that begin together would part within the hour.
        return _between(config.pull_interval if parted or not config.pull_jitter else 0, longest)

    def _fresh_for(self) -> float:
        """Seconds until the settings on disk are as old as they may be between two polls; 0 if there are none."""
        interval = self._post.config.pull_interval
        age = max(0.0, time.time() - self._post.page.words[control.SETTINGS_TIME])
        return interval - age if age < interval and self._publisher.in_force() else 0.0

    def _drain(self) -> int:
        """Sends what there is; returns how many events were settled."""
        self._last_attempt = time.monotonic()
        self._backlog.scan()
        settled = 0
        while not self._loops[1].stopped and (sent := self._sender.drain_once()):
            settled += sent
            self._post.page.add(control.SENDS)
            if self._send_failures:
                self._send_failures = 0
                self._untroubled("send")
                if self._poll_failures and time.monotonic() >= self._poll_not_before:
                    self._loops[0].wake()
            if not self._sender.full:  # what has come since is for the next round: else a busy host is asked for ever
                break
            if time.monotonic() - self._last_attempt > _RESCAN:
                self._last_attempt = time.monotonic()
                self._backlog.scan()
        return settled

    def _send(self) -> float:
        try:
            settled = self._drain()
            left_out = set(self._backlog.waiting)
            while settled and left_out:  # they are next, each once: busy writers are left out again and again
                settled = self._drain()
                left_out &= self._backlog.waiting.keys()
        except TransportError as error:
            self._send_failures += 1
            delay = self._troubled("send", error, self._send_failures, _BACKOFF_CAP)
            self._send_not_before = time.monotonic() + (delay if error.retry_after else 0.0)
            return max(delay, self._post.config.send_interval)
        except FileNotFoundError:  # deleted under us: this process finds that out within a second, and says so
            if self._post.state.whole():
                raise
        return self._post.config.send_interval

    def _end_sending(self) -> None:
        self._sends.close()
        self._backlog.release()

    def _troubled(self, flow: str, error: TransportError, failures: int, cap: float) -> float:
        """Reports the trouble of a flow, poll or send, and returns the seconds to wait."""
        at_least = error.retry_after or 0.0
        if isinstance(error, Unauthorized):
            at_least = max(at_least, min(_UNAUTHORIZED_CAP, _UNAUTHORIZED_FACTOR * self._post.config.pull_interval))
        delay = backoff(failures, cap, at_least)
        told = f"{error}{_patience(delay, asked=error.retry_after is not None) if at_least else ''}"
        self._trouble[flow] = told
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
        # Without what the server says, as the id of a request.
        cause = str(error)[: len("HTTP 503")] if str(error).startswith("HTTP ") else ":".join(str(error).split(":")[:2])
        if cause not in self._causes and len(self._causes) < _MOST_CAUSES:  # a token that is refused later is news
            self._causes.add(cause)
            self._post.page.unsaid("server")
        self._told |= log.limited(
            log.WARNING,
            "server",
            "%s does not serve, events are kept and settings stay: %s%s",
            self._post.config.server_url,
            told,
            _Meanwhile(self._post),
            about=cause,
            turn=self._post.page.turn,
        )
        self._post.page.set_text(LAST_ERROR, told)  # last: who sees it in the status finds the line in the log
        return delay

    def _untroubled(self, flow: str) -> None:
        """Reports that the server answers a flow again."""
        self._trouble[flow] = ""
        left = self._trouble["send"] or self._trouble["poll"]
        if self._trouble_since is not None and not left:
            lasted = time.monotonic() - self._trouble_since
            self._trouble_since = None
            if self._told:  # who has read that it does not serve reads the end of that, too
                log.line(log.INFO, "the server serves again, after %.0f s", lasted)
            self._told = False
        self._post.page.set_text(LAST_ERROR, left or self._poller.error)


def _patience(delay: float, *, asked: bool) -> str:
    """When the next attempt is, for an operator who has mended the server in the meantime."""
    when = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + delay))
    return f"; next try at {when}{', since the server asked for patience' if asked else ''}"


class _Meanwhile:
    """What an operator asks next, for the line about an outage: looked up only where that line is written."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def __str__(self) -> str:
        page, state, cap = self._post.page, self._post.state, self._post.config.max_spool_bytes
        with contextlib.suppress(OSError):
            found = survey(state, self._post.instance.segments)
            counters = accounts.add([page.accounts()[1], found.counters])
            waiting = f"{accounts.pending(counters):,} events wait in {found.size / _MIB:,.1f} of {cap / _MIB:,.0f} MiB"
            refused = ", ".join(f"{reason} {n:,}" for reason, n in accounts.refused(counters).items())
            return f"; {waiting}{f', refused so far: {refused}' if refused else ''}"
        return ""


def _public(config: Config) -> dict[str, object]:
    """The leader's configuration that concerns the whole host, for `status`."""
    names = ("pull_interval", "pull_jitter", "send_interval", "connection_timeout", "max_event_age")
    return {"server_url": config.server_url, **{name: getattr(config, name) for name in names}}
