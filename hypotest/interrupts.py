"""Exceptions that pass through our code: a signal handler of the host raised them in the middle of it.

celery's soft time limit is an ordinary Exception, raised by a handler at any bytecode of whatever runs. Swallowed by a
guard of ours, the task would run on into its hard limit.
"""

from __future__ import annotations

# Not signal: its getsignal looks for an enum on the way, and swallows an interrupt that comes meanwhile.
import _signal  # type: ignore[import-not-found]
from types import CodeType


def let_through(error: BaseException) -> None:
    """Raises `error` again if a signal handler raised it; to be called first in every `except Exception`.

    Told by the traceback, which has the handler's frame. What orjson wraps is found as its cause. Contexts do not
    count: the host may call us while it handles an interrupt.
    """
    handlers = _handlers()
    seen: BaseException | None = error
    while seen is not None and handlers:
        trace = seen.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in handlers:
                raise seen
            trace = trace.tb_next
        seen = seen.__cause__


def _handlers() -> set[CodeType]:
    """The code of every signal handler that is installed."""
    found = set()
    for number in range(1, _signal.NSIG):
        handler = _signal.getsignal(number)
        function = getattr(handler, "__func__", handler)
        code = getattr(function, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
        if code is not None:
            found.add(code)
    return found
