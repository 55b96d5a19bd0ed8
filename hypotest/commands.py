"""What each command of `hypotest` does. A function returns the exit status; `CommandFailed` is one line on stderr."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from hypotest import backlog, control, explanation, log, report, runtime, segment, settings, statedir, validation
from hypotest.config import Config
from hypotest.errors import HypotestError, SettingsError, StorageError, TransportError
from hypotest.health import gather
from hypotest.onlooker import Onlooker

_POLL = 0.02
_KICK_EVERY = 1.0
_LOOK_EVERY = 1.0
_STATE_RETRY = 5.0
_NEAR = 5


class CommandFailed(HypotestError):
    """A command cannot do what it is told.

    Attributes:
        status: the exit status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def quiet() -> None:
    """Keeps the SDK's own log lines off the terminal: a command says what there is to say, in one line."""
    logging.getLogger("hypotest").addHandler(logging.NullHandler())


def _require_token(config: Config) -> str:
    if config.token is None:
        raise CommandFailed(2, "no token: set HT_TOKEN")
    return config.token


def _look(config: Config) -> Onlooker:
    _require_token(config)
    quiet()
    return Onlooker(replace(config, connect_to_server=True))


def _nothing_here(looker: Onlooker) -> str:
    return (
        f"nothing has run here with this token and {looker.config.server_url}: no state in"
        f" {', '.join(looker.looked_in)}; is this the user and the HT_STATE_DIR of the application?"
    )


def status(config: Config, *, as_json: bool, ready: bool) -> int:
    """`hypotest status`."""
    looker = _look(config)
    found, alive, neighbours = gather(looker), looker.leader_is_alive(), looker.neighbours()
    if as_json:
        more = {"leader_alive": alive, "neighbours": [other._asdict() for other in neighbours]}
        print(orjson.dumps(found.to_dict() | more, option=orjson.OPT_INDENT_2).decode())
    elif looker.state is None:
        if ready:
            raise CommandFailed(1, _nothing_here(looker))
        print(_nothing_here(looker))
        for other in neighbours:
            print(f"{other.pending:,} events of another server, token or state directory wait in {other.path}")
    elif ready:
        print(report.verdict(found, alive=alive))
    else:
        print(report.status_text(found, neighbours, alive=alive))
    return int(ready and not (found.ready and alive))


def drain(config: Config, *, timeout: float) -> int:
    """`hypotest drain`."""
    looker = _look(config)
    _require_connection(config)
    state, page = looker.state, looker.page
    if state is None or page is None:
        print(f"nothing is pending: {_nothing_here(looker)}")
        return 0
    marks = backlog.survey(state, {}).marks
    pending = left = _left(marks)
    if not pending:
        print("nothing is pending")
        return 0
    dropped = gather(looker).dropped
    started = time.monotonic()
    with _campaign(config, state):
        kicked = -_KICK_EVERY
        while (left := _left(marks)) and time.monotonic() - started < timeout:
            # Again and again: a leader that backs off waits up to a minute, and is meant to try now.
            if time.monotonic() - kicked >= _KICK_EVERY:
                kicked = time.monotonic()
                page.kick()
            time.sleep(_POLL)
        alive = looker.leader_is_alive() if left else True
    if left:
        reason = page.text(control.LAST_ERROR) if alive else _stuck(page)
        reason = reason or "the server has not acknowledged them in time"
        raise CommandFailed(1, f"{left:,} of {pending:,} events are left after {timeout:g} s: {reason}")
    lost = {name: n - dropped.get(name, 0) for name, n in gather(looker).dropped.items() if n > dropped.get(name, 0)}
    settled = f"{pending:,} events were pending, none of them is left ({time.monotonic() - started:.1f} s)"
    gone = ", ".join(f"{name} {n:,}" for name, n in lost.items())
    print(f"{settled}; dropped meanwhile: {gone}; see {state.quarantine}" if gone else settled)
    return 0


def _left(marks: Mapping[str, int]) -> int:
    """How many events up to the `marks` are not settled."""
    left = 0
    for path, mark in marks.items():
        with contextlib.suppress(FileNotFoundError):  # settled, and its file gone
            left += max(0, (mark >> 40) - (segment.peek(path)[1] >> 40))
    return left


def _stuck(page: control.ControlPage) -> str:
    pid = page.words[control.LEADER_PID]
    return f"the leader (pid {pid}) holds its lock but does not move: is it stopped?" if pid else "there is no leader"


@contextlib.contextmanager
def _campaign(config: Config, state: statedir.StateDir) -> Iterator[None]:
    """Campaigns for as long as it lasts, whatever HT_LEADER says, for the namespace that was found and no other."""
    try:
        statedir.prepare(state.root, state.namespace)
    except StorageError as error:
        raise CommandFailed(2, str(error)) from None
    campaigner = runtime.Runtime(replace(config, leader="auto", state_dir=state.root))
    try:
        campaigner.start()
        yield
    finally:
        campaigner.close()


def _require_connection(config: Config) -> None:
    if not config.connect_to_server:
        raise CommandFailed(2, "HT_CONNECT_TO_SERVER is false: this command would connect")


def agent(config: Config, given: Mapping[str, str]) -> int:
    """`hypotest agent`.

    Args:
        config: in force.
        given: the options of the command line, by parameter name.
    """
    _require_token(config)
    _require_connection(config)
    with _stop_signals() as stopped:
        runtime.configure({**given, "leader": "auto"})
        now = runtime.current()
        if now.state is None:
            raise CommandFailed(2, "no usable state directory: set HT_STATE_DIR to a directory of this user")
        log.line(log.INFO, "agent: pid %d campaigns for %s in %s", os.getpid(), config.server_url, now.state.path)
        while not stopped(_LOOK_EVERY if now.state is not None else _STATE_RETRY):
            # Another one, where the state directory was deleted or replaced.
            now = runtime.current()
            if now.state is None:
                runtime.retire(now)
            now.start()
        now.close()
        log.line(log.INFO, "agent: pid %d was told to stop", os.getpid())
    return 0


class _Stopped:
    """Waits for SIGTERM or SIGINT.

    Not an Event set by a handler: the handler runs in the thread that waits, and may find the Event's lock taken.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def __call__(self, timeout: float) -> bool:
        return bool(select.select([self._pipe], [], [], timeout)[0])


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stopped]:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _no_op) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield _Stopped(reads)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(reads)
        os.close(writes)


def _no_op(_number: int, _frame: object) -> None:
    """Leaves the rest to the wake-up descriptor."""


def explain(
    config: Config,
    name: str,
    *,
    user_id: str | None,
    visitor_id: str | None,
    tags: Sequence[tuple[str, object]],
    override: str | None,
) -> int:
    """`hypotest explain`."""
    looker = _look(config)
    if looker.state is None:
        raise CommandFailed(1, _nothing_here(looker))
    found = looker.newest_settings()
    if found is None:
        raise CommandFailed(1, f"no settings have arrived yet in {looker.state.path}")
    record = found.get(name)
    if record is None:
        raise CommandFailed(1, f"no experiment is called {name!r}; {_near(name, found.names())}")
    experiment = settings.decode(record)
    explained = explanation.explain(experiment, user_id, visitor_id, dict(tags), override)
    print(report.explanation_text(explained, found.generation, max(0.0, time.time() - found.published)))
    return 0


def _near(name: str, names: Sequence[str]) -> str:
    if not names:
        return "the settings define none"
    near = difflib.get_close_matches(name, names, n=_NEAR, cutoff=0.5)
    if near:
        return f"near it: {', '.join(near)}"
    more = f" and {len(names) - _NEAR:,} more" if len(names) > _NEAR else ""
    return f"there are {', '.join(names[:_NEAR])}{more}"


def check(config: Config) -> int:
    """`hypotest check`."""
    from hypotest.transport import HttpTransport  # noqa: PLC0415 - requests, for this command only

    _require_token(config)
    _require_connection(config)
    try:
        fetched = HttpTransport(config).fetch_settings(None)
        if fetched is None:
            raise CommandFailed(2, f"{config.server_url} answered 304 to a request without an ETag")
        document = validation.parse_document(fetched[0])
    except (TransportError, SettingsError) as error:
        raise CommandFailed(2, f"the settings could not be fetched from {config.server_url}: {error}") from None
    for problem in document.problems:
        print(problem if problem.unusable else f"note: {problem}")
    unusable = {problem.experiment for problem in document.problems if problem.unusable}
    notes = sum(not problem.unusable for problem in document.problems)
    print(
        f"{len(document.records):,} experiments: {len(unusable):,} that version 2 does not accept, each would give"
        f" control; {notes:,} notes, which change no answer"
    )
    return int(bool(unusable))
