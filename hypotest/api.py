"""The public functions. None raises, and none waits for the network but `flush` and `wait_until_ready`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hypotest import assignment, interrupts, log, runtime
from hypotest.assignment import Decision, decide
from hypotest.client import Client
from hypotest.config import parse
from hypotest.errors import ConfigError, EventRefused
from hypotest.events import as_text
from hypotest.health import Status, gather
from hypotest.variant import CONTROL_VARIANT, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, SupportsFloat

    from hypotest.assignment import Tags
else:  # for who evaluates the annotations: to import typing costs 2 ms
    Any = NoReturn = SupportsFloat = object
    Tags = Mapping[str, object] | None

_POLL = 0.02
_NUMBERS = (float, int)
_FOREVER = 1e9
_INF = float("inf")


def config(  # noqa: PLR0913 - of one parameter each
    token: str | None = None,
    pull_interval: float | None = None,
    pull_jitter: float | None = None,
    log_level: str | None = None,
    flush_events: bool | None = None,
    connect_to_server: bool | None = None,
    *,
    server_url: str | None = None,
    allow_http: bool | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    send_interval: float | None = None,
    flush_timeout: float | None = None,
    max_spool_bytes: int | None = None,
    max_event_age: float | None = None,
    hash_ids: str | None = None,
    connection_timeout: float | None = None,
    leader: str | None = None,
    **unknown: NoReturn,
) -> None:
    """Sets parameters. A value given here beats the environment; None leaves a parameter as it is.

    Opens no file, starts no thread. Takes effect at the next call of any function, also while the SDK is at work.
    A value that cannot be used is reported once in the log, and the previous value stands. Where there was none, a
    `server_url` that cannot be used has all events refused, and a `hash_ids` has ids hashed under a random salt.

    Args:
        token: the token of the project, from HypoTest. Default HT_TOKEN; without one every answer is control.
        pull_interval: seconds between two polls of the settings, for the whole host. Default 30.
        pull_jitter: up to so many seconds, drawn at random, are added to each interval; a new leader draws its first
            wait from all of both. Default 5.
        log_level: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL". Default "INFO".
        flush_events: whether an orderly exit waits until this process's events are delivered. Default False.
        connect_to_server: False for tests and development: every answer is control or the override; no thread, no file,
            no socket. Default True.
        server_url: "https://host[:port][/path]", or http to loopback. Default HypoTest's own.
        allow_http: permits http to other hosts; the token then crosses the network in the clear. Default False.
        state_dir: an absolute path. Default as the README says.
        send_interval: seconds between two looks for events to send. Default 1.
        flush_timeout: seconds, at most, of `flush_events`. Default 5.
        max_spool_bytes: bytes of waiting events, over all processes; beyond it, events are refused. Default 512 MiB.
        max_event_age: seconds; older events are dropped, by count. Default 7 days.
        hash_ids: a secret salt: ids leave the process only as their HMAC-SHA256 under it. Default None.
        connection_timeout: seconds to connect; five times that for each read of an answer. Default 2.
        leader: "auto", or "off" for a process that never polls or sends. Default "auto".
        unknown: any other name is said in the log.
    """
    given = {**locals(), **unknown}
    del given["unknown"]
    parsed, refused = {}, []
    for name, value in given.items():
        if value is None:
            continue
        try:
            parsed[name] = parse(name, value)
        except ConfigError as error:
            refused.append((name, str(error)))
        except Exception as error:  # noqa: BLE001 - a __float__ or __repr__ of the application
            interrupts.let_through(error)
            refused.append((name, f"{name}: {type(error).__name__}"))
    try:
        runtime.configure(parsed, [name for name, _ in refused])
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _report("config", error)
    for name, why in refused:
        log.limited(log.WARNING, f"config:{name[:40]}", "config() ignores a value: %s", why)


def experiment(
    experiment_name: str,
    user_id: object = None,
    visitor_id: object = None,
    tags: Tags = None,
    override: str | None = None,
    report_event: bool = True,
) -> Variant:
    """Decides which variant a user or visitor sees, and reports the exposure.

    Local and deterministic: the same settings, id, tags and override give the same variant in every process, on every
    host. Costs some microseconds and never waits for the network. On any error, and before settings have arrived, the
    answer is control, and the event says why.

    Args:
        experiment_name: as defined in HypoTest.
        user_id: the user, if known; becomes a str.
        visitor_id: the visitor, if known; becomes a str. Give one of the two: with both, the visitor decides and the
            event says so.
        tags: facts for the condition of the experiment and for the event: str keys, JSON values. Never changed.
        override: a variant of the experiment to answer with, for tests and previews, if the condition holds; a name
            that is none of its variants is control, and the event says so.
        report_event: False for an answer without an event.

    Returns:
        The variant: `.variant`, `.is_control`, `.is_b` and so on.
    """
    try:
        now = runtime.current()
        user = user_id if user_id is None or type(user_id) is str else _id(user_id)
        visitor = visitor_id if visitor_id is None or type(visitor_id) is str else _id(visitor_id)
        found = now.find(experiment_name)
        if found is not None:
            decision = decide(found, user, visitor, tags, override)
        elif type(experiment_name) is not str:
            return experiment(as_text(experiment_name), user, visitor, tags, override, report_event)
        elif not now.connected:
            return assignment.offline(override)
        else:
            decision = _undefined(now, user, visitor)
        if decision.error is not None and not now.trouble:
            if decision.error == assignment.NO_SETTINGS:
                _warn_unready(experiment_name, now)
            else:
                _warn(experiment_name, decision.error)
        if report_event and decision.reported:
            now.append(now.encoder.visit(experiment_name, decision, user, visitor, tags))
    except EventRefused as refusal:
        now.report_refusal(refusal)
    except Exception as error:  # noqa: BLE001 - the outermost guard: the application must not notice us
        interrupts.let_through(error)
        _report("experiment", error)
        return _failed(experiment_name, report_event)
    return decision.variant


def _undefined(now: Client, user: str | None, visitor: str | None) -> Decision:
    if not user and not visitor:
        return assignment.no_id()
    ready = now.reader is not None and now.reader.ready()
    return assignment.undefined(assignment.NOT_DEFINED if ready else assignment.NO_SETTINGS)


def _failed(name: object, report_event: bool) -> Variant:
    """Control, and an event that says so where one can be made: the safe side of every doubt."""
    try:
        if report_event:
            now = runtime.current()
            decision = assignment.undefined("internal error")
            now.append(now.encoder.visit(str(name), decision, None, None, None))
    except Exception as error:  # noqa: BLE001 - reported already
        interrupts.let_through(error)
    return CONTROL_VARIANT


def kpi_event(
    event_name: str,
    user_id: object = None,
    visitor_id: object = None,
    value: SupportsFloat = 1.0,
    tags: Tags = None,
) -> None:
    """Reports that a user or visitor did what an experiment is meant to influence.

    When it returns, the event is in a file that outlives the process; or refused and counted, see `Status.refused`:
    over 64 KiB, at the cap of the spool, on a full disk.

    Args:
        event_name: as defined in HypoTest, such as "purchase".
        user_id: the user, if known; becomes a str.
        visitor_id: the visitor, if known; becomes a str.
        value: what it was worth, in a unit of yours: any finite number, a Decimal too; 1.0 by default. What is none
            is sent as it is, with a warning in the log.
        tags: further facts: str keys, JSON values. Never changed.
    """
    try:
        now = runtime.current()
        if now.connected:
            user = user_id if user_id is None or type(user_id) is str else _id(user_id)
            visitor = visitor_id if visitor_id is None or type(visitor_id) is str else _id(visitor_id)
            if not user and not visitor:
                _warn(event_name, "a KPI event has neither user_id nor visitor_id")
            if value.__class__ not in _NUMBERS or value - value != 0:  # as of nan and inf: no call of isfinite
                value = _number(event_name, value)
            now.append(now.encoder.goal(event_name, user, visitor, value, tags))
    except EventRefused as refusal:
        now.report_refusal(refusal)
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _refuse("kpi_event", error)


def match_user_visitor(
    user_id: object,
    visitor_id: object,
    context: str | None = None,
    tags: Tags = None,
) -> None:
    """Reports that a user and a visitor are one person, say at login.

    When it returns, the event is in a file that outlives the process; or refused and counted, see `Status.refused`:
    over 64 KiB, at the cap of the spool, on a full disk.

    Args:
        user_id: the user; becomes a str.
        visitor_id: the visitor; becomes a str.
        context: where that was found out, such as "login".
        tags: further facts: str keys, JSON values. Never changed.
    """
    try:
        now = runtime.current()
        if now.connected:
            user = user_id if user_id is None or type(user_id) is str else _id(user_id)
            visitor = visitor_id if visitor_id is None or type(visitor_id) is str else _id(visitor_id)
            if not user or not visitor:
                _warn("match_user_visitor", "it takes both user_id and visitor_id")
            now.append(now.encoder.match(user, visitor, context, tags))
    except EventRefused as refusal:
        now.report_refusal(refusal)
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _refuse("match_user_visitor", error)


def wait_until_ready(timeout: float | None = 5.0) -> bool:
    """Waits until settings, of any age, can be read.

    Args:
        timeout: seconds, at most; None for as long as it takes.

    Returns:
        Whether they can. True at once with `connect_to_server=False`; False at once where every event is refused, as
        without a token.
    """
    try:
        deadline = time.monotonic() + _seconds(timeout)
        while True:
            now = runtime.current()
            now.start()
            if not now.connected or (now.reader is not None and now.reader.ready()):
                return True
            if now.reader is None or time.monotonic() >= deadline:
                return False
            time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _report("wait_until_ready", error)
        return False


def flush(timeout: float | None = 5.0) -> bool:
    """Asks the leader to send now, and waits until all that this host accepted before the call is settled.

    Args:
        timeout: seconds, at most; None for as long as it takes.

    Returns:
        Whether it is: the server has it, or it was dropped, by count. True if there was nothing; False where every
        event is refused, as without a token.
    """
    try:
        now = runtime.current()
        return not now.trouble and now.flush(_seconds(timeout)) == 0
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _report("flush", error)
        return False


def status() -> Status:
    """Tells how the SDK is doing on this host.

    Returns:
        A frozen record; its fields are documented in `Status`.
    """
    try:
        return gather(runtime.current())
    except Exception as error:  # noqa: BLE001 - the outermost guard
        interrupts.let_through(error)
        _report("status", error)
        return Status(last_error=f"status: {type(error).__name__}")


def _number(event_name: object, value: Any) -> Any:
    """A float of what has one, such as a Decimal; anything else is sent as it is, and said."""
    try:
        number = float(value)
        if -_INF < number < _INF:
            return value if isinstance(value, str) else number
    except Exception as error:  # noqa: BLE001 - a __float__ of the application
        interrupts.let_through(error)
    _warn(event_name, "the value of a KPI event is not a finite number")
    return value


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return _FOREVER
    try:
        seconds = float(timeout)
        if seconds > -_INF:  # a nan is not, and no clock ever reaches one
            return seconds
    except Exception as error:  # noqa: BLE001 - a __float__ of the application
        interrupts.let_through(error)
    log.limited(log.WARNING, "timeout", "a timeout is a number of seconds, or None: %s counts as 0", log.shown(timeout))
    return 0.0


def _id(value: object) -> str | None:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a __str__ of the application
        interrupts.let_through(error)
        log.limited(log.WARNING, "id", "an id of type %s has no str(): %s", type(value).__name__, log.shown(error))
        return None


_WORDS = {
    assignment.BOTH_IDS: "both user_id and visitor_id were given, the visitor decides",
    assignment.NONE_LEFT: "the shares add up to less than 1, and this id is beyond: control, and in no group",
}


def _warn(name: object, error: str) -> None:
    shown = log.shown(name)
    log.limited(log.WARNING, f"said:{error[:40]}", "%s: %s", shown, _WORDS.get(error, error), about=shown)


def _warn_unready(name: object, now: Client) -> None:
    # About the host, not about the experiment: once for all processes and names.
    log.limited(
        log.WARNING,
        "unready",
        "%s: no settings have arrived yet, the answer is control",
        log.shown(name),
        every=log.RARELY,
        turn=now.page.turn if now.page is not None else None,
    )


def _refuse(function: str, error: Exception) -> None:
    _report(function, error)
    try:
        runtime.current().refuse("error")
    except Exception as another:  # noqa: BLE001 - reported already
        interrupts.let_through(another)


def _report(function: str, error: Exception) -> None:
    log.limited(
        log.ERROR,
        f"api:{function}:{type(error).__name__}",
        "%s() failed, the application goes on: %s",
        function,
        log.shown(error),
    )
