"""The composition root: one `Runtime` per process and configuration, built at the first call, rebuilt after a fork.

The only module that starts threads, registers fork hooks or an exit handler. A `Runtime` is built without any lock: two
threads that come first at once both build one, `dict.setdefault` keeps the first, and the other is thrown away. So no
call ever waits for another's I/O, and a fork in the middle leaves no lock behind.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from hypotest import accounts, control, lazy, leader, log, settings, snapshot, statedir
from hypotest.config import Config, resolve
from hypotest.errors import EventRefused, StorageError
from hypotest.events import Encoder
from hypotest.lock import abandon_inherited
from hypotest.platform import ProcessGuard
from hypotest.post import Post
from hypotest.segment import Segment
from hypotest.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLL = 0.02
_THREAD_RETRY = 30.0
_SILENT = 2.0
_KICK_EVERY = 1.0
_DISK_RETRY = 10.0
_FORK_PATIENCE = 5.0


class Runtime:
    """What a process works with. Immutable after it is built, but for the campaign's thread.

    Attributes:
        config: the configuration in force.
        connected: False for `connect_to_server=False`: no thread, no file, no socket, ever.
        reader: the settings; None without a state directory.
        spool: the events; None without a state directory.
        encoder: makes events.
        state: the state directory; None if there is none.
        trouble: why there is no state directory; the reason of every refusal.
    """

    def __init__(
        self,
        settled: Config,
        carried: Sequence[int] = (0,) * accounts.SLOTS,
        segments: dict[str, Segment] | None = None,
    ) -> None:
        """Opens the state directory; starts nothing.

        Args:
            settled: the configuration.
            carried: counts that the runtime before it had not written down.
            segments: the open segments of this process, of this runtime and of the ones before it.
        """
        self.config = settled
        self.connected = settled.connect_to_server
        self.encoder = Encoder(settled.hash_ids)
        self.reader: snapshot.Reader | None = None
        self.spool: Spool | None = None
        self.state: statedir.StateDir | None = None
        self.page: control.ControlPage | None = None
        self.campaign: leader.Campaign | None = None
        self.trouble = ""
        self.refusals = list(carried)
        self._thread: threading.Thread | None = None
        self._thread_wanted_at = 0.0
        self._built_at = time.monotonic()
        if not self.connected:
            return
        if settled.token is None:
            self.trouble = "no_token"
            log.limited(
                log.WARNING,
                "token",
                "no token: every answer is control and events are refused;"
                " call hypotest.config(token=...) or set HT_TOKEN",
                every=600.0,
            )
            return
        self._segments = {} if segments is None else segments
        self._open_state(settled.token)

    def _open_state(self, token: str) -> None:
        namespace = statedir.namespace_of(self.config.server_url, token)
        for root in statedir.candidates(self.config.state_dir, os.environ):
            try:
                state = statedir.prepare(root, namespace)
                newest = snapshot.open_newest(state.path)
                page = control.open_control(state.path, newest.generation if newest else 0)
            except (StorageError, OSError) as error:
                level = log.WARNING if root == self.config.state_dir else log.INFO
                log.limited(level, f"state:{root}", "state directory not used: %s", error, every=600.0)
                continue
            self.state, self.page = state, page
            self.reader = snapshot.Reader(state.path, page, settings.decode)
            self.spool = Spool(
                state.spool, self.config.max_spool_bytes, self._spool_bytes, self.refusals, self._segments
            )
            self.campaign = leader.Campaign(
                Post(self.config, state, page, lambda: self._segments, start_thread),
                self._each_second,
            )
            return
        self.trouble = "disk"
        log.limited(
            log.ERROR,
            "state",
            "no usable state directory: every answer is control and events are"
            " refused; set HT_STATE_DIR to a directory of this user",
            every=600.0,
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
        if self.reader is not None and self.spool is not None and self.page is not None:
            self.reader.retry()
            lost = self.spool.check()
            if lost:
                log.limited(log.ERROR, "lost", "%d events were lost: their files were deleted", lost)
            if self.page.replaced():
                log.limited(log.WARNING, "replaced", "the state directory was deleted or replaced: starting anew")
                retire(self)

    def start(self) -> None:
        """Starts the campaign's thread, if it may run here and does not yet."""
        if self._thread is not None or self.campaign is None:
            return
        now = time.monotonic()
        if now < self._thread_wanted_at:
            return
        self._thread_wanted_at = now + _THREAD_RETRY
        if _in_uwsgi_master():
            return
        try:
            self._thread = start_thread("campaign", self.campaign.run)
        except RuntimeError as error:
            log.limited(
                log.WARNING,
                "thread",
                "no thread can be started here, events are kept for another process"
                " to send; run `hypotest agent` if there is none: %s",
                error,
                every=600.0,
            )

    def keep(self, payload: bytes) -> None:
        """Keeps one event; counts and reports a refusal."""
        if self._thread is None:
            self.start()
        if self.spool is None:
            self.refuse(self.trouble)
            if self.trouble == "disk" and time.monotonic() > self._built_at + _DISK_RETRY:
                retire(self)  # what was wrong with the directories may have passed: the next call looks again
            return
        try:
            self.spool.append(payload)
        except EventRefused as refusal:
            log.limited(log.ERROR, f"refused:{refusal.reason}", "event refused: %s", refusal)

    def refuse(self, reason: str) -> None:
        """Counts an event that cannot be kept."""
        if self.spool is not None:
            self.spool.refuse(reason)
        else:
            self.refusals[accounts.refusal_slot(reason)] += 1

    def flush(self, timeout: float, *, own_only: bool = False) -> int:
        """Asks the leader to send and waits until what was accepted so far is settled.

        Args:
            timeout: seconds.
            own_only: only what this process accepted.

        Returns:
            How many segments are not settled at the end of the time; 0 is success.
        """
        if self.spool is None or self.state is None or self.page is None:
            return 0
        backlog = lazy.load("hypotest.backlog")
        deadline = time.monotonic() + timeout
        marks = backlog.survey(self.state, self.spool.segments).marks
        if own_only:
            marks = {path: mark for path, mark in marks.items() if self.spool.instance in path}
        kick_at = 0.0
        while True:
            if time.monotonic() >= kick_at:  # again and again: a leader in trouble does not listen to every one
                self.page.kick()
                kick_at = time.monotonic() + _KICK_EVERY
            own = self.spool.segments
            marks = {path: mark for path, mark in marks.items() if not backlog.is_settled(path, mark, own)}
            if not marks or time.monotonic() >= deadline:
                return len(marks)
            time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))

    def close(self) -> None:
        """Finishes the segments and ends the campaign, without waiting."""
        if self.spool is not None:
            self.spool.close()
        if self.campaign is not None:
            self.campaign.stop()


class _Process:
    """What belongs to one process and not to its children.

    Attributes:
        guard: tells whether this is still that process.
        page: the guard's page, read at every call.
        built: the runtime in use, in a dict for its atomic setdefault.
        carried: counts of the runtime before it that stand in no file yet.
        segments: the open segments by path. A runtime that was retired may still have one, in the hands of a thread.
    """

    __slots__ = ("built", "carried", "guard", "page", "segments")

    def __init__(self) -> None:
        self.guard = ProcessGuard()
        self.page = self.guard.page
        self.built: dict[str, Runtime] = {}
        self.carried = [0] * accounts.SLOTS
        self.segments: dict[str, Segment] = {}


_CURRENT = "current"
_overrides: dict[str, Any] = {}
_here = _Process()
_processes = {os.getpid(): _here}
"""This process, and its ancestors. What was inherited stays referenced: to close a descriptor by a number that a child
has reused would be worse than to hold it."""


def current() -> Runtime:
    """This process's runtime, built and started if need be."""
    here = _here
    runtime = here.built.get(_CURRENT)
    if runtime is not None and here.page[0] == 1:
        return runtime
    return _build()


def _build() -> Runtime:
    here = _here if _here.guard.alive else _enter_child()
    settled, warnings = resolve(_overrides, os.environ)
    if settled.connect_to_server:
        _hooks.register()
    log.configure(settled.log_level)
    for warning in warnings:
        log.limited(log.WARNING, f"env:{warning[:40]}", "%s", warning, every=600.0)
    candidate = Runtime(settled, here.carried, here.segments)
    runtime = here.built.setdefault(_CURRENT, candidate)
    if runtime is candidate and runtime.connected:
        if runtime.state is not None:
            log.line(log.DEBUG, "state directory: %s", runtime.state.path)
        runtime.start()
    return runtime


def _enter_child() -> _Process:
    """The first call in a child: turns from everything inherited, without unlocking what is the parent's."""
    global _here  # noqa: PLW0603 - one process at a time
    pid, fresh = os.getpid(), _Process()
    mine = _processes.setdefault(pid, fresh)
    if not mine.guard.alive:  # an ancestor, now dead, had the same pid
        _processes[pid] = mine = fresh
    if mine is fresh:
        for process in list(_processes.values()):
            if process is not fresh:
                _abandon(process)
        if not _hooks.ran:
            lazy.reset()
            log.reset_after_fork_without_hooks()
        _hooks.ran = False
    _here = mine
    return mine


def _abandon(inherited: _Process) -> None:
    abandon_inherited()
    for runtime in inherited.built.values():
        if runtime.campaign is not None:
            runtime.campaign.abandon()


def configure(values: Mapping[str, Any]) -> None:
    """Puts parsed values in force from the next call on. Touches no disk and starts nothing."""
    _overrides.update(values)
    settled, _ = resolve(_overrides, os.environ)
    _hooks.register()
    log.configure(settled.log_level)
    runtime = _here.built.get(_CURRENT)
    if runtime is not None and runtime.config != settled and _here.guard.alive:
        retire(runtime)


def retire(runtime: Runtime) -> None:
    """Takes a runtime out of use: the next call builds another."""
    if _here.built.get(_CURRENT) is runtime:
        del _here.built[_CURRENT]
        _here.carried = runtime.spool.unreported() if runtime.spool is not None else runtime.refusals
    runtime.close()


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """Starts a daemon thread `hypotest-<name>`.

    Raises:
        RuntimeError: no thread can be started: a limit, or the interpreter is going down.
    """
    thread = threading.Thread(target=run, name=f"hypotest-{name}", daemon=True)
    thread.start()
    return thread


def _in_uwsgi_master() -> bool:
    """Whether this is uWSGI's master, whose fork runs no hooks: a thread here would hang the workers."""
    if "uwsgi" not in sys.modules and "uwsgi" not in sys.builtin_module_names:
        return False
    try:
        return bool(importlib.import_module("uwsgi").worker_id() == 0)
    except Exception:  # noqa: BLE001 - some other module of that name
        return False


class _ForkHooks:
    """Keeps a fork from happening while a thread of ours imports: the module lock would stay locked in the child.

    Attributes:
        ran: whether the hooks ran at the fork that made this process.
    """

    def __init__(self) -> None:
        self.ran = False
        self._registered = False

    def register(self) -> None:
        """Registers the hooks and the exit handler; children inherit both."""
        if not self._registered:
            self._registered = True
            # After logging's, and so run before them: they take a lock that the import we wait for may need.
            with contextlib.suppress(ImportError, OSError):
                lazy.load("logging")
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._after_in_parent,
                after_in_child=self._after_in_child,
            )
            atexit.register(_at_exit)

    def _before(self) -> None:
        lazy.importing.acquire(timeout=_FORK_PATIENCE)

    def _after_in_parent(self) -> None:
        with contextlib.suppress(RuntimeError):  # not acquired in time: it is another thread's, which an RLock knows
            lazy.importing.release()

    def _after_in_child(self) -> None:
        lazy.reset()
        self.ran = True
        _abandon(_here)


_hooks = _ForkHooks()


def _at_exit() -> None:
    """An orderly exit: a bonus, since most workers never get here. Bounded by flush_timeout."""
    runtime = _here.built.get(_CURRENT)
    if runtime is None or not _here.guard.alive:
        return
    with contextlib.suppress(Exception):
        if runtime.config.flush_events:
            left = runtime.flush(runtime.config.flush_timeout, own_only=True)
            if left:
                log.line(log.WARNING, "exit: events of this process are not delivered yet; they are kept on disk")
        runtime.close()
