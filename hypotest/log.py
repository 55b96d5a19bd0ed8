"""The logger `hypotest`: to stdout, rate-limited, and only where the application has not set it up itself."""

from __future__ import annotations

import sys
import time

from hypotest import lazy
from hypotest.interrupts import let_through

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""As `logging` numbers them."""

_MAX_KEYS = 256
_MAX_SHOWN = 120
_MAX_ABOUTS = 8
_last: dict[str, tuple[float, int]] = {}
_abouts: dict[str, set[str]] = {}


def configure(level: str) -> None:
    """Sets level and handler of the logger `hypotest`, if nobody else has.

    Args:
        level: a level name of `logging`, such as "INFO".
    """
    try:
        lazy.load("hypotest.handler").configure(level)
    except Exception as error:  # noqa: BLE001 - out of descriptors, or not permitted to import: then without a log
        let_through(error)


def line(level: int, message: str, *args: object) -> None:
    """Logs `message`; never raises, whatever handlers the application has."""
    try:
        lazy.load("logging").getLogger("hypotest").log(level, message, *args)
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
    renew = getattr(sys.modules.get("logging"), "_after_at_fork_child_reinit_locks", None)
    if renew is not None:
        renew()
    _last.clear()


if "logging" in sys.modules:  # as in nearly every host: then no first call imports, and no fork can catch it at that
    lazy.load("logging")
    lazy.load("hypotest.handler")
