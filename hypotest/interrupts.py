"""The host's signals: exceptions that its handlers raise in the middle of our code pass through it, to the host.

celery's soft time limit is an ordinary Exception, raised by a handler at any bytecode of whatever runs. Swallowed by a
guard of ours, the task would run on into its hard limit.
"""

from __future__ import annotations

# Not signal: its getsignal looks for an enum on the way, and swallows an interrupt that comes meanwhile.
import _signal  # type: ignore[import-not-found]
import contextlib
from types import CodeType, FrameType, TracebackType

_VARARGS = 4  # of a code's flags, as inspect has it
_FAULTS = {getattr(_signal, f"SIG{name}") for name in ("ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP")}


def let_through(error: BaseException) -> None:
    """Raises `error` again if a signal handler raised it; to be called first where exceptions of Python's are caught.

    Told by the traceback, which has the handler's frame. What orjson wraps is found as its cause. Contexts do not
    count: the host may call us while it handles an interrupt.
    """
    trace = error.__traceback__
    if error.__cause__ is None and (trace is None or trace.tb_next is None):
        return  # raised where it is caught: no handler ran
    handlers = _handlers()
    seen: BaseException | None = error
    try:
        while seen is not None:
            trace = seen.__traceback__
            caller = None
            while trace is not None:
                frame = trace.tb_frame
                if frame.f_code in handlers or _was_given(frame, caller):
                    raise seen
                trace, caller = trace.tb_next, frame
            seen = seen.__cause__
    finally:
        # Its traceback has this frame: a cycle would keep what our frames hold, such as segments, until a collection.
        del error, seen, trace


def _was_given(frame: FrameType, caller: FrameType | None) -> bool:
    """Whether the arguments are a number and the frame it interrupted: a handler that is not installed any more."""
    code = frame.f_code
    count = code.co_argcount
    if caller is None or (count < 2 and not code.co_flags & _VARARGS):  # noqa: PLR2004 - a number and a frame
        return False
    values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    if code.co_flags & _VARARGS:
        rest = frame.f_locals.get(code.co_varnames[count + code.co_kwonlyargcount])
        values += rest if isinstance(rest, tuple) else ()
    return any(values[at] is caller and isinstance(values[at - 1], int) for at in range(1, len(values)))


class suppress(contextlib.suppress):  # noqa: N801 - as the one it stands for
    """`contextlib.suppress`, which lets interrupts through: a handler may well raise a TimeoutError, an OSError."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallows what it was made for, unless a signal handler raised it."""
        try:
            swallowed = super().__exit__(kind, error, trace)
            if swallowed and error is not None:
                let_through(error)
            return bool(swallowed)
        finally:
            del error


def leave_to_host() -> None:
    """Blocks the host's signals in this thread, which must be ours; those of faults are the thread's own.

    The kernel gives a signal to any thread that does not block it, and the handler then runs in the main thread, though
    that may have blocked it while it holds a lock: billiard does so where a worker ends, and without this the lock
    between celery's workers stayed locked, and all of them stood still.
    """
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _FAULTS)


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
