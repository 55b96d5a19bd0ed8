"""The logger `hypotest`: to stdout, rate-limited, and only where the application has not set it up itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hypotest import handler
from hypotest.interrupts import let_through

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""As `logging` numbers them."""

RARELY = 600.0
"""Seconds between two lines about what only a change of the configuration, or of the host, can mend."""

_MAX_KEYS = 256
_MAX_SHOWN = 120
_MAX_ARGUMENT = 1000
_MAX_ABOUTS = 8
_KEPT = 3600.0
_LOOK_EVERY = 60.0
_OTHERS = "others"
_last: dict[str, tuple[float, int]] = {}
_abouts: dict[str, set[str]] = {}
_looked = [0.0]


def configure(level: str) -> None:
    """Sets level and handler of the logger `hypotest`, if nobody else has.

    Args:
        level: a level name of `logging`, such as "INFO".
    """
    try:
        handler.configure(level)
    except Exception as error:  # noqa: BLE001 - a logger class of the application: then without a log
        let_through(error)


def line(level: int, message: str, *args: object) -> None:
    """Logs `message` as one line of bounded length; never raises, whatever handlers the application has."""
    try:
        fit = [arg if isinstance(arg, (int, float)) else _fit(str(arg)) for arg in args]
        handler.logger().log(level, message, *fit)
    except Exception as error:  # noqa: BLE001 - must not reach the application's callers through us
        let_through(error)


def limited(
    level: int,
    key: str,
    message: str,
    *args: object,
    every: float = 60.0,
    about: str = "",
    turn: Callable[[str, float], bool] | None = None,
) -> bool:
    """Logs `message`, at most once per `key` in `every` seconds; what was held back is counted in the next line.

    Args:
        level: DEBUG, INFO, WARNING or ERROR, as `logging` numbers them.
        key: what the limit is counted by. Beyond 256 of them, all others share one.
        message: a %-format.
        args: its arguments. Pass user data through `shown`.
        every: seconds between two lines of one key.
        about: tells lines of one key apart, such as a name; the first eight of them have a limit of their own.
        turn: called with what of `key` stands before a colon, one of `control.KINDS`, and with `every`; False where
            another process of the host has just said it.

    Returns:
        Whether this was one of the lines.
    """
    now = time.monotonic()
    if about:
        names = _abouts.setdefault(key, set()) if len(_abouts) < _MAX_KEYS else _abouts.get(key, set())
        if len(names) < _MAX_ABOUTS or about in names:
            names.add(about)
            key = f"{key}:{about}"
    kind = key.partition(":")[0]
    if key not in _last and not _has_room(now):
        key, every = _OTHERS, max(every, _LOOK_EVERY)
    last, held = _last.get(key, (now - every, 0))
    if now - last < every or (turn is not None and not (_heard(level) and turn(kind, every))):
        _last[key] = (last, held + 1)
        return False
    _last[key] = (now, 0)
    if held:
        message += f" ({held} more like this since the last line)"
    line(level, message, *args)
    return True


def _has_room(now: float) -> bool:
    """Whether one more key can have a limit of its own.

    Not by forgetting all others, as many keys come: a flood of keys would be one of lines.
    """
    if len(_last) >= _MAX_KEYS - 1 and now - _looked[0] >= _LOOK_EVERY:
        _looked[0] = now
        for key, (last, _) in list(_last.items()):
            if now - last > _KEPT:
                _last.pop(key, None)
    return len(_last) < _MAX_KEYS - 1


def escaped(text: str) -> str:
    """`text` as one line: what is not printable is escaped, line breaks and a terminal's commands among it."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def _fit(text: str) -> str:
    return escaped(text if len(text) <= _MAX_ARGUMENT else text[:_MAX_ARGUMENT] + "...")


def _heard(level: int) -> bool:
    """Whether a line of that level goes anywhere: where it does not, it must not take the turn of another process."""
    try:
        return bool(handler.logger().isEnabledFor(level))
    except Exception as error:  # noqa: BLE001 - as in `line`
        let_through(error)
        return False


def shown(value: object) -> str:
    """`value` for a log line: its repr, which escapes line breaks, cut to 120 characters; never raises."""
    try:
        text = repr(value) if not isinstance(value, (str, bytes)) else repr(value[: _MAX_SHOWN + 1])
    except Exception as error:  # noqa: BLE001 - a __repr__ of the application
        let_through(error)
        return f"<{type(value).__name__} without a repr>"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def reset_after_fork_without_hooks() -> None:
    """Renews the locks of `logging` in a child whose fork ran no Python hook.

    Hazard: a thread of the parent that was logging at the fork holds these locks for ever in the child. `os.fork`
    renews them through a hook of `logging`; uWSGI's fork runs none.
    """
    renew = getattr(logging, "_after_at_fork_child_reinit_locks", None)
    if renew is not None:
        renew()
    _last.clear()
