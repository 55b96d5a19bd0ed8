"""The logger `hypotest`: to stdout, rate-limited, and only where the application has not set it up itself."""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger("hypotest")

_MAX_KEYS = 256
_MAX_SHOWN = 120
_last: dict[str, tuple[float, int]] = {}


class _StdoutHandler(logging.Handler):
    """Writes to today's sys.stdout, unless the root logger has handlers: then the record reaches those."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers and logger.propagate:
            return
        try:
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()
        except Exception:  # noqa: BLE001 - a closed stdout is the host's affair, and no reason to disturb it
            return


def configure(level: str) -> None:
    """Sets level and handler of the logger `hypotest`, if nobody else has.

    Args:
        level: a level name of `logging`, such as "INFO".
    """
    ours = [handler for handler in logger.handlers if isinstance(handler, _StdoutHandler)]
    if not ours:
        if logger.handlers or logger.level != logging.NOTSET:
            return
        handler = _StdoutHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s hypotest[%(process)d] %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)


def limited(level: int, key: str, message: str, *args: object, every: float = 60.0) -> None:
    """Logs `message`, at most once per `key` in `every` seconds; what was held back is counted in the next line.

    Args:
        level: a level number of `logging`.
        key: what the limit is counted by; of a bounded set, never user data.
        message: a %-format.
        args: its arguments. Pass user data through `shown`.
        every: seconds between two lines of one key.
    """
    now = time.monotonic()
    last, held = _last.get(key, (-every, 0))
    if now - last < every:
        _last[key] = (last, held + 1)
        return
    if len(_last) >= _MAX_KEYS:
        _last.clear()
    _last[key] = (now, 0)
    if held:
        message += f" ({held} more like this since the last line)"
    try:
        logger.log(level, message, *args)
    except Exception:  # noqa: BLE001 - a handler of the application that raises must not reach its callers through us
        return


def shown(value: object) -> str:
    """`value` for a log line: its repr, which escapes line breaks, cut to 120 characters; never raises."""
    try:
        text = repr(value) if not isinstance(value, (str, bytes)) else repr(value[: _MAX_SHOWN + 1])
    except Exception:  # noqa: BLE001 - a __repr__ of the application
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
