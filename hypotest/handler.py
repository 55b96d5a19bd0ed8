"""The handler behind the logger `hypotest`."""

from __future__ import annotations

import logging
import os
import sys

from hypotest.interrupts import let_through

NAME = "hypotest"
_FORMAT = "%(asctime)s %(levelname)-8s hypotest[%(process)d] %(message)s"


_set = [logging.NOTSET]
"""The level that we have set."""
_found: list[logging.Logger] = []


def logger() -> logging.Logger:
    """The logger `hypotest`.

    Looked up once: `getLogger` takes a lock in Python, which an exception of a signal handler in there leaves taken.
    """
    if not _found:
        _found.append(logging.getLogger(NAME))
    return _found[0]


class _Stdout:
    """A stream that is today's sys.stdout, or nothing while others get the record: the root's handlers, the host's own.

    Hazard: the lock inside sys.stdout, held by a thread that writes, stays locked in a child that is forked meanwhile,
    whose first line would hang. So lines go to its descriptor, one write each, which also keeps them whole.
    """

    def write(self, text: str) -> None:
        out, genuine, ours = sys.stdout, sys.__stdout__, logger()
        if (logging.getLogger().handlers and ours.propagate) or len(ours.handlers) > 1:
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
    ours = logger()
    if not any(isinstance(getattr(handler, "stream", None), _Stdout) for handler in ours.handlers):
        if ours.handlers or ours.level != logging.NOTSET:
            return
        handler = _Handler(_Stdout())
        handler.setFormatter(logging.Formatter(_FORMAT))
        ours.addHandler(handler)
    elif ours.level != _set[0]:  # the host's own, set since
        return
    if ours.level != logging.getLevelName(level):  # takes a lock, too
        ours.setLevel(level)
    _set[0] = ours.level
