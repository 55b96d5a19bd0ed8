"""The composition root: one `Client` per process and configuration, built at the first call, rebuilt after a fork.

The only module that starts threads, registers fork hooks or an exit handler. A `Client` is built without any lock: two
threads that come first at once both build one, `dict.setdefault` keeps the first, and the other is thrown away. So no
call ever waits for another's I/O, and a fork in the middle leaves no lock behind.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping

from hypotest import interrupts, lazy, lock, log
from hypotest.client import Client
from hypotest.config import NOWHERE, OPTIONS, resolve
from hypotest.errors import ThreadsStandStill
from hypotest.instance import Instance
from hypotest.platform import PidPage, ProcessGuard
from hypotest.snapshot import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORK_PATIENCE = 5.0


class _Process:
    """What belongs to one process and not to its children.

    Attributes:
        guard: tells whether this is still that process.
        page: the guard's page, read at every call; while it is too early for a thread, one that sends each call to
            `_build`, which asks again.
        built: the client in use, in a dict for its atomic setdefault; its key is what `page` reads.
        former: the settings of the client before it.
        instance: in whose name its clients write. One that was retired may still have a segment, in a thread's hands.
    """

    __slots__ = ("built", "former", "guard", "instance", "page")

    def __init__(self) -> None:
        self.guard = ProcessGuard()
        self.page: memoryview | PidPage | tuple[int] = self.guard.page
        self.built: dict[int, Client] = {}
        self.former: Reader | None = None
        self.instance = Instance()


_CURRENT = 1
_TOO_EARLY = (0,)
_overrides: dict[str, Any] = {}
_here = _Process()
_processes = {os.getpid(): _here}
"""This process, and its ancestors. What was inherited stays referenced: to close a descriptor by a number that a child
has reused would be worse than to hold it."""


_NEVER_DROPPED = ("HT_TOKEN", "HT_SERVER_URL", "HT_HASH_IDS")
_kept: dict[str, str] = {}


def _environment() -> Mapping[str, str]:
    """The environment, and what it had before of those whose default is no stand-in.

    A host may take secrets out of it, so that no subprocess sees them. Ids would be sent as they are from its next
    `config()` or fork on, and the token go to the default's server.
    """
    _kept.update((name, os.environ[name]) for name in _NEVER_DROPPED if os.environ.get(name))
    return ChainMap(os.environ, _kept)


def current() -> Client:
    """This process's client, built and started if need be."""
    here = _here
    try:
        return here.built[here.page[0]]
    except KeyError:
        return _build()


def _build() -> Client:
    here = _here if _here.guard.alive else _enter_child()
    client = here.built.get(_CURRENT) or _open(here)
    here.page = here.guard.page if client.start() else _TOO_EARLY
    return client


def _open(here: _Process) -> Client:
    given = dict(_overrides)
    settled, warnings = resolve(given, _environment())
    log.configure(settled.log_level)
    for warning in warnings:
        log.limited(log.WARNING, f"env:{warning[:40]}", "%s", warning, every=log.RARELY)
    candidate = Client(settled, start_thread, retire, here.instance, here.former)
    here.page = _TOO_EARLY  # until the campaign is started, which an interrupt may come before
    client = here.built.setdefault(_CURRENT, candidate)
    if client is candidate and given != _overrides:  # a config() meanwhile, which found no client to retire
        retire(client)
        return _open(here)
    if client is candidate and client.state is not None:
        log.line(log.DEBUG, "state directory: %s", client.state.path)
    return client


def _enter_child() -> _Process:
    """The first call in a child: turns from everything inherited, without unlocking what is the parent's."""
    global _here  # noqa: PLW0603 - one process at a time
    pid, fresh = os.getpid(), _Process()
    try:
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
    except BaseException:  # an interrupt: the next call has all to do again
        if _processes.get(pid) is fresh:
            del _processes[pid]
        raise
    return mine


def _abandon(inherited: _Process) -> None:
    lock.abandon_inherited()
    for client in inherited.built.values():
        if client.campaign is not None:
            client.campaign.abandon()
        if client.spool is not None:
            client.spool.abandon()


def configure(values: Mapping[str, Any], unusable: Collection[str] = ()) -> None:
    """Puts parsed values in force from the next call on. Touches no disk and starts nothing.

    Args:
        values: by parameter.
        unusable: parameters that were given a value nobody can use: what is in force stays. But no id is sent as it is
            where a salt was meant, and no token to the default's server where another one was.
    """
    _overrides.update(values)
    settled, _ = resolve(_overrides, _environment())
    if "hash_ids" in unusable and settled.hash_ids is None:
        _overrides["hash_ids"] = os.urandom(16).hex()
    if "server_url" in unusable and settled.server_url == OPTIONS["server_url"].default:
        _overrides["server_url"] = NOWHERE
    settled, _ = resolve(_overrides, _environment())
    log.configure(settled.log_level)
    client = _here.built.get(_CURRENT)
    if client is not None and client.config != settled and _here.guard.alive:
        retire(client)


def retire(client: Client) -> None:
    """Takes a client out of use: the next call builds another."""
    try:
        taken = _here.built.pop(_CURRENT, None)
        if taken is client:
            _here.former = client.reader or _here.former
        elif taken is not None and _here.built.setdefault(_CURRENT, taken) is not taken:
            taken.close()  # another thread was quicker, and there is a next one already, and one after that
        client.close()
    except BaseException:  # an interrupt, maybe before the campaign was told
        if client.campaign is not None and not client.campaign.stopping:
            client.close()
        raise


def begin() -> None:
    """Does what the first call would, with settings and campaign; nothing as long as there is no token."""
    settled, _ = resolve(_overrides, _environment())
    if settled.token is not None and settled.server_url and settled.connect_to_server:
        reader = current().reader
        if reader is not None:
            reader.ready()


def finish() -> None:
    """What an orderly exit does, for a host that tells of it. The process may go on: the next call starts anew."""
    client = _last_flush()
    if client is not None:
        retire(client)


def _last_flush() -> Client | None:
    """This process's own client, None if it has none; with `flush_events`, after a wait of at most `flush_timeout`."""
    if not _here.guard.alive:
        return None
    client = _here.built.get(_CURRENT)
    if client is None and _here.instance.used and resolve(_overrides, _environment())[0].flush_events:
        client = current()  # after a `config()` and no call since
    if client is not None and client.spool is not None and client.config.flush_events:
        left = 1
        try:
            left = client.flush(client.config.flush_timeout, own=True)
        finally:
            if left:
                log.line(log.WARNING, "exit: events of this process are not delivered yet; they are kept on disk")
    return client


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread | None:
    """Starts a daemon thread `hypotest-<name>`.

    Returns:
        It, or None in a process where it is too early for one.

    Raises:
        ThreadsStandStill: it would not move.
        RuntimeError: no thread can be started: a limit, or the interpreter is going down.
    """
    uwsgi = uwsgi_module()
    if uwsgi is not None:
        if _is_master(uwsgi):  # whose fork runs no hooks: a thread here would hang the workers
            return None
        if not getattr(uwsgi, "has_threads", True):  # before 2.0.27, without enable-threads
            raise ThreadsStandStill
    starter = threading.get_native_id()

    def run_aside() -> None:
        if threading.get_native_id() != starter:  # a greenlet runs in a thread of the host's
            interrupts.leave_to_host()
        run()

    thread = threading.Thread(target=run_aside, name=f"hypotest-{name}", daemon=True)
    thread.start()
    return thread


def uwsgi_module() -> Any:
    """The module by which uWSGI tells the processes it runs about themselves; None elsewhere."""
    if "uwsgi" not in sys.modules and "uwsgi" not in sys.builtin_module_names:
        return None
    with interrupts.suppress(Exception):
        module = importlib.import_module("uwsgi")
        return module if hasattr(module, "worker_id") else None
    return None


def _is_master(uwsgi: Any) -> bool:
    """Whether this is uWSGI's master, or the process that will be the first worker. Mules and spoolers fork nobody."""
    others = ("mule_id", "i_am_the_spooler")
    return uwsgi.worker_id() == 0 and not any(getattr(uwsgi, name, int)() for name in others)


class _ForkHooks:
    """Keeps a fork from happening while a thread of ours imports, or opens a lock file.

    The module lock would stay locked in the child, or the parent's lock be the child's as well.

    Attributes:
        ran: whether the hooks ran at the fork that made this process.
    """

    def __init__(self) -> None:
        """Registers them: with our import, so that no fork that has begun before can go on after.

        After those of logging, which our import imports, and so run before them: they take a lock that the import we
        wait for may need.
        """
        self.ran = False
        os.register_at_fork(
            before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    def _before(self) -> None:
        lazy.importing.acquire(timeout=_FORK_PATIENCE)
        lock.opening.acquire(timeout=_FORK_PATIENCE)

    def _after_in_parent(self) -> None:
        for held in (lazy.importing, lock.opening):
            with interrupts.suppress(RuntimeError):  # not acquired in time: it is another thread's, as an RLock knows
                held.release()

    def _after_in_child(self) -> None:
        lazy.reset()
        self.ran = True
        _abandon(_here)


_hooks = _ForkHooks()


def _at_exit() -> None:
    """An orderly exit: a bonus, since most workers never get here. Bounded by flush_timeout."""
    with interrupts.suppress(Exception):
        try:
            client = _last_flush()
        except KeyboardInterrupt:  # somebody does not want to wait; from here it would be a traceback and no more
            client = _here.built.get(_CURRENT)
        if client is not None:
            client.close()


atexit.register(_at_exit)
