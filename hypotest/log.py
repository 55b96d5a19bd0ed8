"""The logger `hypotest`: to stdout, rate-limited, and only where the application has not set it up itself."""

from __future__ import annotations

import logging
import os
import sys
import time
from logging import DEBUG, ERROR, INFO, WARNING

from hypotest.interrupts import let_through

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "WARNING",
    "configure",
    "limited",
    "line",
    "reset_after_fork_without_hooks",
    "shown",
]

_NAME = "hypotest"
_FORMAT = "%(asctime)s %(levelname)-8s hypotest[%(process)d] %(message)s"
_MAX_KEYS = 256
_MAX_SHOWN = 120
_MAX_ABOUTS = 8
_last: dict[str, tuple[float, int]] = {}
_abouts: dict[str, set[str]] = {}


class _Stdout:
    """A stream that is today's sys.stdout, or nothing while the root logger has handlers, which get the record too.

    Hazard: the lock inside sys.stdout, held by a thread that writes, stays locked in a child that is forked meanwhile,
    whose first line would hang. So lines go to its descriptor, one write each, which also keeps them whole.
    """

    def write(self, text: str) -> None:
        out, genuine = sys.stdout, sys.__stdout__
        if logging.getLogger().handlers and logging.getLogger(_NAME).propagate:
            return
        if genuine is not None and out is genuine:
            os.write(genuine.fileno(), text.encode(genuine.encoding, "backslashreplace"))
        else:
            out.write(text)

    def flush(self) -> None:
        """Nothing to flush: what was written is written."""


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable at run time before 3.11
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - as logging calls it
        """A closed stdout is the host's affair, and no reason to disturb it."""
        error = sys.exc_info()[1]
        if error is not None:
            let_through(error)


def configure(level: str) -> None:
    """Sets level and handler of the logger `hypotest`, if nobody else has.

    Args:
        level: a level name of `logging`, such as "INFO".
    """
    logger = logging.getLogger(_NAME)
    if not any(isinstance(getattr(handler, "stream", None), _Stdout) for handler in logger.handlers):
        if logger.handlers or logger.level != logging.NOTSET:
            return
        handler = _Handler(_Stdout())
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(level)


def line(level: int, message: str, *args: object) -> None:
    """Logs `message`; never raises, whatever handlers the application has."""
    try:
        logging.getLogger(_NAME).log(level, message, *args)
    except Exception as error:  # noqa: BLE001 - must not reach the application's callers through us
        let_through(error)


def limited(level: int, key: str, message: str, *args: object, every: float = 60.0, about: str = "") -> None:
    """Logs `message`, at most once per `key` in `every` seconds; what was held back is counted in the next line.

    Args:
        level: DEBUG, INFO, WARNING or ERROR, as `logging` numbers them.
        key: what the limit is counted by; of a bounded set, never user data.
        message: a %-format.
        args: its arguments. Pass user data through `shown`.
        every: seconds between two lines of one key.
        about: tells lines of one key apart, such as a name; the first eight of them have a limit of their own.
    """
    now = time.monotonic()
    if about:
        names = _abouts.setdefault(key, set())
        if len(names) < _MAX_ABOUTS or about in names:
            names.add(about)
            key = f"{key}:{about}"
    last, held = _last.get(key, (-every, 0))
    if now - last < every:
        _last[key] = (last, held + 1)
        return
    if len(_last) >= _MAX_KEYS:
        _last.clear()
        _abouts.clear()
    _last[key] = (now, 0)
    if held:
        message += f" ({held} more like this since the last line)"
    line(level, message, *args)


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
