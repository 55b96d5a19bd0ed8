"""What each command of `hypotest` does. A function returns the exit status; `CommandFailed` is one line on stderr."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from hypotest import control, explanation, handler, log, pace, report, runtime, segment, settings, statedir, validation
from hypotest.client import Client
from hypotest.config import Config
from hypotest.errors import HypotestError, SettingsError, StorageError, TransportError
from hypotest.header import frames
from hypotest.health import gather
from hypotest.onlooker import Onlooker
from hypotest.survey import survey

_POLL = 0.02
_LOOK_EVERY = 1.0
_STATE_RETRY = 5.0
_BATCH_GRACE = 3.0
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
    handler.logger().addHandler(logging.NullHandler())


def _require_access(config: Config) -> str:
    if config.token is None:
        raise CommandFailed(2, "no token: set HT_TOKEN")
    if not config.server_url:
        raise CommandFailed(2, "HT_SERVER_URL cannot be used: mend it, or unset it for HypoTest's own server")
    return config.token


def _look(config: Config) -> Onlooker:
    _require_access(config)
    quiet()
    return Onlooker(config.replace(connect_to_server=True))


def _nothing_here(looker: Onlooker) -> str:
    searched = [root for root in looker.looked_in if root not in looker.passed]
    return (
        f"nothing has run here with this token and {looker.config.server_url}: no state in"
        f" {', '.join(searched)}; is this the user, the token and the HT_STATE_DIR of the application?"
    )


def _require_sight(looker: Onlooker) -> None:
    """Fails if no state was found, and a directory could not be searched or would not be used: nothing can be said."""
    if looker.state is None and looker.passed:
        searched = [root for root in looker.looked_in if root not in looker.passed]
        nothing = f"; no state of this server and token in {', '.join(searched)}" if searched else ""
        raise CommandFailed(2, f"{'; '.join(looker.passed.values())}{nothing}")


def status(config: Config, *, as_json: bool, ready: bool) -> int:
    """`hypotest status`."""
    looker = _look(config)
    _require_sight(looker)
    found, alive, neighbours = gather(looker), looker.leader_is_alive(), looker.neighbours()
    if not config.connect_to_server:
        print("hypotest: HT_CONNECT_TO_SERVER is false: an application in this environment is off", file=sys.stderr)
    if as_json:
        others = [other._asdict() for other in neighbours]
        more = {"leader_alive": alive, "neighbours": others, "passed_over": looker.passed}
        print(json.dumps(found.to_dict() | more, indent=2))  # ASCII: a terminal takes no command from it
    elif looker.state is None:
        if ready:
            raise CommandFailed(1, _nothing_here(looker))
        for line in (_nothing_here(looker), *map(report.neighbour_text, neighbours)):
            print(log.escaped(line))
    elif ready:
        print(report.verdict(found, alive=alive, passed=list(looker.passed)))
    else:
        print(report.status_text(found, neighbours, alive=alive, passed=list(looker.passed.values())))
    return int(ready and not (found.ready and alive))


def drain(config: Config, *, timeout: float) -> int:
    """`hypotest drain`."""
    looker = _look(config)
    _require_connection(config)
    _require_sight(looker)
    if looker.state is None or looker.page is None:
        searched, waiting = ", ".join(looker.looked_in), _elsewhere(looker)
        raise CommandFailed(
            2,
            f"no state of {config.server_url} and this token in {searched}: is this the application's token, server"
            f" and HT_STATE_DIR?{waiting and f' {waiting}'}",
        )
    print(log.escaped(_drained(config, looker, looker.state, looker.page, timeout)))
    for line in (*(f"passed over: {reason}" for reason in looker.passed.values()), _elsewhere(looker)):
        if line:
            print(log.escaped(line))
    return 0


def _elsewhere(looker: Onlooker) -> str:
    neighbours = looker.neighbours()
    waiting = sum(other.pending for other in neighbours)
    return (
        f"{waiting:,} events of other servers, tokens or state directories wait in"
        f" {', '.join(other.path for other in neighbours)}; `hypotest status` says how to deliver them"
        if waiting
        else ""
    )


def _drained(
    config: Config, looker: Onlooker, state: statedir.StateDir, page: control.ControlPage, timeout: float
) -> str:
    """Delivers what is pending, and says so.

    Raises:
        CommandFailed: something is left.
    """
    marks = survey(state, {}).marks
    pending = left = _left(marks)
    if not pending:
        return "nothing is pending"
    dropped = gather(looker).dropped
    started = time.monotonic()
    with _campaign(config, state):
        kick = control.Kicks(page)  # a leader that backs off waits up to a minute, and is meant to try now
        while (left := _left(marks)) and time.monotonic() - started < timeout:
            kick()
            time.sleep(_POLL)
        alive = looker.leader_is_alive() if left else True
    if left:
        reason = page.text(control.LAST_ERROR) if alive else _stuck(page)
        reason = reason or "the server has not acknowledged them in time"
        raise CommandFailed(1, f"{left:,} of {pending:,} events are left after {timeout:g} s: {reason}")
    lost = {name: n - dropped.get(name, 0) for name, n in gather(looker).dropped.items() if n > dropped.get(name, 0)}
    settled = f"{pending:,} events were pending, none of them is left ({time.monotonic() - started:.1f} s)"
    gone = ", ".join(f"{name} {n:,}" for name, n in lost.items())
    return f"{settled}; dropped meanwhile: {gone}; see {state.quarantine}" if gone else settled


def _left(marks: Mapping[str, int]) -> int:
    """How many events up to the `marks` are not settled."""
    left = 0
    for path, mark in marks.items():
        with contextlib.suppress(FileNotFoundError):  # settled, and its file gone
            left += max(0, frames(mark) - frames(segment.peek(path)[1]))
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
    pace.alone()
    campaigner = Client(config.replace(leader="auto", state_dir=state.root), runtime.start_thread)
    try:
        campaigner.start()
        yield
    finally:
        campaigner.close()


def _require_connection(config: Config) -> None:
    if not config.connect_to_server:
        raise CommandFailed(
            2, "HT_CONNECT_TO_SERVER is false, and this command would connect: give it HT_CONNECT_TO_SERVER=true"
        )


def agent(config: Config, given: Mapping[str, str]) -> int:
    """`hypotest agent`.

    Args:
        config: in force.
        given: the options of the command line, by parameter name.
    """
    token = _require_access(config)
    _require_connection(config)
    _require_usable(config, token)
    pace.alone()
    with _stop_signals() as stopped:
        runtime.configure({**given, "leader": "auto"})
        now = runtime.current()
        if now.state is None:
            raise CommandFailed(2, "no usable state directory: set HT_STATE_DIR to a directory of this user")
        _require_place(config, now)
        log.line(log.INFO, "agent: pid %d campaigns for %s in %s", os.getpid(), config.server_url, now.state.path)
        while not (told_by := stopped(_LOOK_EVERY if now.state is not None else _STATE_RETRY)):
            # Another one, where the state directory was deleted or replaced.
            now = runtime.current()
            if now.state is None:
                runtime.retire(now)
            else:
                _require_place(config, now)
            now.start()
        log.line(log.INFO, "agent: pid %d was told to stop by %s", os.getpid(), told_by)
        if now.config.flush_events:
            now.flush(now.config.flush_timeout)
        if now.campaign is not None:
            now.campaign.finish(_BATCH_GRACE)
        now.close()
    return 0


def _require_usable(config: Config, token: str) -> None:
    """Fails if a state directory was named and cannot be used: who names one does not mean another."""
    if config.state_dir is not None:
        try:
            statedir.prepare(config.state_dir, statedir.namespace_of(config.server_url, token))
        except StorageError as error:
            raise CommandFailed(2, f"the state directory cannot be used: {error}") from None


def _require_place(config: Config, now: Client) -> None:
    """Ends a client that works in another state directory than the one named."""
    if config.state_dir is None or now.state is None:
        return
    if now.state.root != statedir.canonical(config.state_dir):
        runtime.retire(now)
        _require_usable(config, _require_access(config))
        raise CommandFailed(2, f"the state directory {config.state_dir} cannot be used")


class _Stopped:
    """Waits for a signal that ends the agent, and returns its name.

    Not an Event set by a handler: the handler runs in the thread that waits, and may find the Event's lock taken.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def __call__(self, timeout: float) -> str:
        readable = select.select([self._pipe], [], [], timeout)[0]
        return signal.Signals(os.read(self._pipe, 1)[0]).name if readable else ""


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stopped]:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    # SIGHUP too, with which a terminal that closes would kill it without a word; but nohup had it ignored.
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, _no_op) for number in numbers}
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
    _require_sight(looker)
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

    _require_access(config)
    _require_connection(config)
    try:
        fetched = HttpTransport(config).fetch_settings(None)
        if fetched is None:
            raise CommandFailed(2, f"{config.server_url} answered 304 to a request without an ETag")
        document = validation.parse_document(fetched[0], thorough=True)
    except (TransportError, SettingsError) as error:
        raise CommandFailed(2, f"the settings could not be fetched from {config.server_url}: {error}") from None
    for problem in document.problems:
        print(log.escaped(str(problem) if problem.unusable else f"note: {problem}"))
    unusable = {problem.experiment for problem in document.problems if problem.unusable}
    notes = sum(not problem.unusable for problem in document.problems)
    refused = (
        f"{len(unusable):,} that version 2 does not accept, each would give control" if unusable else "all accepted"
    )
    told = f"; {notes:,} notes, which change no answer" if notes else ""
    print(f"{len(document.records):,} experiments: {refused}{told}")
    return int(bool(unusable))
