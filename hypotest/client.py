"""What one process works with, under one configuration: its settings, its events, its part in the election.

Starts no thread by itself: `runtime.py` passes that in, and keeps the one client that is in use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypotest import accounts, control, interrupts, lazy, leader, log, settings, snapshot, statedir
from hypotest.assignment import Experiment
from hypotest.config import Config
from hypotest.errors import EventRefused, StorageError, ThreadsStandStill
from hypotest.events import Encoder
from hypotest.instance import Instance
from hypotest.post import Post, StartThread
from hypotest.spool import Spool

_POLL = 0.02
_THREAD_RETRY = 30.0  # s, where none could be started
_LOOK_EVERY = 1.0  # s, in a process in which none moves
_SILENT = 2.0  # s without a heartbeat: what the leader has published of the spool is out of date
_DISK_RETRY = 10.0  # s, where no state directory could be used


class Client:
    """What a process works with, under one configuration.

    Attributes:
        config: the configuration in force.
        connected: False for `connect_to_server=False`: no thread, no file, no socket, ever.
        reader: the settings; None without a state directory.
        find: its `get`, or what finds nothing.
        spool: the events; None without a state directory.
        encoder: makes events.
        state: the state directory; None if there is none.
        page: its control page; None likewise.
        campaign: this process's part in the election; None for a client that only looks.
        instance: this process.
        trouble: why there is no state directory; the reason of every refusal.
    """

    def __init__(
        self,
        settled: Config,
        start_thread: StartThread | None = None,
        retire: Callable[[Client], None] | None = None,
        instance: Instance | None = None,
        former: snapshot.Reader | None = None,
    ) -> None:
        """Opens the state directory; starts nothing.

        Args:
            settled: the configuration.
            start_thread: starts a thread; None for a client that only looks.
            retire: takes this client out of use; by default it is only closed.
            instance: this process, of which there may be clients before this one.
            former: the settings of the client before it.
        """
        self.config = settled
        self.connected = settled.connect_to_server
        self.encoder = Encoder(settled.hash_ids)
        self.reader: snapshot.Reader | None = None
        self.find: Callable[[str], Experiment | None] = _find_nothing
        self.spool: Spool | None = None
        self.state: statedir.StateDir | None = None
        self.page: control.ControlPage | None = None
        self.campaign: leader.Campaign | None = None
        self.trouble = ""
        self.instance = instance or Instance()
        self._start_thread = start_thread
        self._retire = retire or Client.close
        self._thread: object = None
        self._thread_wanted_at = 0.0
        self._built_at = time.monotonic()
        if not self.connected:
            log.limited(
                log.INFO,
                "off",
                "switched off by connect_to_server: every answer is control or the override, no event is kept",
                every=log.RARELY,
            )
            return
        if settled.token is None:
            self.trouble = "no_token"
            log.limited(
                log.WARNING,
                "token",
                "no token: every answer is control and events are refused;"
                " call hypotest.config(token=...) or set HT_TOKEN",
                every=log.RARELY,
            )
            return
        if not settled.server_url:
            self.trouble = "no_server"
            log.limited(
                log.ERROR,
                "server_url",
                "no server: every answer is control and events are refused, since the server_url or HT_SERVER_URL that"
                " was given cannot be used",
                every=log.RARELY,
            )
            return
        self._former = former
        self._open_state(settled.token)

    def _open_state(self, token: str) -> None:
        namespace = statedir.namespace_of(self.config.server_url, token)
        passed: list[tuple[int, str, Exception]] = []
        for root in statedir.candidates(self.config.state_dir, os.environ):
            try:
                state = statedir.prepare(root, namespace)
                newest = snapshot.open_newest(state.path)
                page = control.open_control(state.path, newest.generation if newest else 0)
            except (StorageError, OSError) as error:
                interrupts.let_through(error)
                named = root in map(
                    statedir.canonical, filter(None, (self.config.state_dir, statedir.of_systemd(os.environ)))
                )
                passed.append((log.WARNING if named else log.INFO, root, error))
                continue
            _tell_passed(passed, f"; until this process ends, {root} is")
            self.state, self.page = state, page
            held = self._former.held(state.path) if self._former is not None else None
            self._former = None
            self.reader = snapshot.Reader(state.path, page, settings.decode, held)
            self.find = self.reader.get
            self.spool = Spool(state.spool, self.config.max_spool_bytes, self._spool_bytes, self.instance, page.mapped)
            if self._start_thread is not None:
                post = Post(self.config, state, page, self.instance, self._start_thread)
                self.campaign = leader.Campaign(post, self._each_second, self.spool.end)
            return
        _tell_passed(passed, "")
        self.trouble = "disk"
        log.limited(
            log.ERROR,
            "state",
            "no usable state directory: every answer is control and events are"
            " refused; set HT_STATE_DIR to a directory of this user",
            every=log.RARELY,
        )

    def _spool_bytes(self) -> int:
        """What the spool holds: as the leader says, or by looking where there is none that moves."""
        page, state, campaign = self.page, self.state, self.campaign
        if page is None or state is None:
            return 0
        if campaign is not None and page.words[control.LEADER_PID] and campaign.silence() < _SILENT:
            return page.words[control.SPOOL_BYTES]
        return state.spool_bytes()

    def _each_second(self) -> None:
        state = self.state
        if self.reader is not None and self.spool is not None and self.page is not None and state is not None:
            if not self.reader.retry():
                log.limited(
                    log.WARNING, "snapshot", "settings: what is in force cannot be read, others are", every=log.RARELY
                )
            lost, gone = self.spool.check(), self.page.replaced() or not state.whole()
            if gone:
                lost += self.spool.check()  # what it has given up just now: it is not asked again
            if lost:
                log.limited(log.ERROR, "lost", "%d events were lost: their files were deleted", lost)
            if gone:
                log.limited(log.WARNING, "replaced", "the state directory was deleted or replaced: starting anew")
                self._retire(self)
            else:
                self.spool.prepare()

    @property
    def watching(self) -> bool:
        """Whether the campaign's thread was started."""
        return self._thread is not None

    def start(self) -> bool:
        """Starts the campaign's thread, if it may run here and does not yet.

        Returns:
            False where it is too early for one: to be asked again at the next call.
        """
        if self._thread is not None or self.campaign is None or self._start_thread is None:
            return True
        now = time.monotonic()
        if now < self._thread_wanted_at:
            return True
        try:
            self._thread = self._start_thread("campaign", self.campaign.run)
        except ThreadsStandStill:
            self._thread_wanted_at = now + _LOOK_EVERY
            self.campaign.look_on()
        except RuntimeError as error:
            interrupts.let_through(error)
            self._thread_wanted_at = now + _THREAD_RETRY
            log.limited(
                log.WARNING,
                "thread",
                "no thread can be started here, events are kept for another process"
                " to send; run `hypotest agent` if there is none: %s",
                error,
                every=log.RARELY,
                turn=self.page.turn if self.page is not None else None,
            )
        else:
            return self._thread is not None
        return True

    def append(self, payload: bytes) -> None:
        """Keeps one event. As soon as nothing else is to be done at each one, this is the spool's.

        Raises:
            EventRefused: it cannot be kept; it has been counted. See `report_refusal`.
        """
        if self._thread is None:
            self.start()
        if self.spool is None:
            self.refuse(self.trouble)
            if self.trouble == "disk" and time.monotonic() > self._built_at + _DISK_RETRY:
                self._retire(self)  # what was wrong with the directories may have passed: the next call looks again
            return
        if self._thread is not None:
            self.append = self.spool.append  # type: ignore[method-assign]
        self.spool.append(payload)

    def report_refusal(self, refusal: EventRefused) -> None:
        """Logs that an event was refused."""
        # A host that is full is full for all its processes; a large event is one process's own.
        turn = None
        if self.page is not None and refusal.reason in ("spool_full", "disk"):
            turn = self.page.turn
            self.page.tell_refusal(refusal.reason)
        log.limited(log.ERROR, f"refused:{refusal.reason}", "event refused: %s", refusal, turn=turn)

    def refuse(self, reason: str) -> None:
        """Counts an event that cannot be kept."""
        if self.spool is not None:
            self.spool.refuse(reason)
        else:
            self.instance.unreported[accounts.refusal_slot(reason)] += 1

    def flush(self, timeout: float, *, own: bool = False) -> int:
        """Asks the leader to send and waits until what was accepted so far is settled.

        Args:
            timeout: seconds.
            own: whether to wait for the events of this process alone.

        Returns:
            How many segments are not settled at the end of the time; 0 is success.
        """
        if self.spool is None or self.state is None or self.page is None:
            return 0
        deadline = time.monotonic() + timeout
        look = lazy.load_within("hypotest.survey", timeout)
        if look is None:  # nobody knows
            return len(self.spool.segments) if own else 1
        marks = look.survey(self.state, self.spool.segments).marks
        if own:
            marks = {path: mark for path, mark in marks.items() if self.spool.instance.name in path}
        kick = control.Kicks(self.page)
        while True:
            kick()
            held = self.spool.segments
            marks = {path: mark for path, mark in marks.items() if not look.is_settled(path, mark, held)}
            if not marks or time.monotonic() >= deadline:
                return len(marks)
            time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        """Finishes the segments and ends the campaign, without waiting."""
        try:
            if self.spool is not None:
                self.spool.close()
        finally:
            if self.campaign is not None:
                self.campaign.stop()


def _tell_passed(passed: list[tuple[int, str, Exception]], instead: str) -> None:
    for level, root, error in passed:
        log.limited(level, f"state:{root}", "state directory not used: %s%s", error, instead, every=log.RARELY)


def _find_nothing(_name: str) -> None:
    """No settings, no experiment."""
