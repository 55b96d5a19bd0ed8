"""What has to hold for every call of a target: it stays inside, is quick, small, shallow, and says the same twice."""

from __future__ import annotations

import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from hypotest import interrupts, pace

PER_64_KIB = int(os.environ.get("FUZZ_MS", "10")) * 1_000_000
"""ns of processor time; inputs that are smaller may take as long."""
MOST_MEMORY = 4 << 20
MEMORY_PER_BYTE = 400
_TRIES, _REST = 40, 0.05
_LOOP = 2_100_000
"""ns of `_loop` on the machine of docs/performance.md, when it is quiet."""
DEEPEST = 400
"""Frames that a target may use. A condition has 50 levels, of at most six frames each."""

_INTERRUPTS = vars(interrupts)
"""It looks for a signal handler among the frames of an error, which is an event: the one that may be."""

Target = Callable[[Any], object]


class Finding(Exception):
    """A property that does not hold for an input."""


class Escaped(BaseException):
    """A target did what data must never do; passes through every guard of the SDK."""


_state: dict[str, Any] = {"armed": False, "event": ""}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _state["armed"]:
        _state["armed"] = False  # what is done here causes events, too
        if event == "object.__getattr__" and sys._getframe(1).f_globals is _INTERRUPTS:  # noqa: SLF001 - as below
            _state["armed"] = True
            return
        _state["event"] = f"{event}{arguments!r:.200}"
        raise Escaped(event)


def install() -> None:
    """Watches this process from now on. There is no way back: processes that fuzz do nothing else."""
    pace.alone()  # a rest is an event of its own
    sys.addaudithook(_audit)
    sys.setrecursionlimit(DEEPEST + _depth())


def _depth() -> int:
    frame, depth = sys._getframe(), 0  # noqa: SLF001 - the documented way
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def allowed(size: int) -> int:
    """The time that an input of `size` bytes may take, in ns."""
    return max(PER_64_KIB, PER_64_KIB * size >> 16)


def check(target: Target, argument: object, size: int, *, expected: object = None, timed: bool = True) -> object:
    """Calls the target, and gives its result.

    Args:
        target: gives a result that can be compared; raises Finding for what must not be.
        argument: its argument.
        size: of the argument in bytes.
        expected: what the result must be; where nobody knows (None), the target is called twice.
        timed: False where the code is slowed down by what measures its coverage.

    Raises:
        Finding: something does not hold.
    """
    began = time.perf_counter_ns()
    result = _call(target, argument)
    took = time.perf_counter_ns() - began
    if expected is None:
        expected = _call(target, argument)
    if result != expected:
        raise Finding(f"gives {result!r:.300}, expected {expected!r:.300}")
    if timed and took > allowed(size):
        least = time_of(target, argument, allowed(size))
        if least > allowed(size):
            raise Finding(f"takes {least / 1e6:.1f} ms for {size} bytes")
    return result


def time_of(target: Target, argument: object, enough: int = 0) -> int:
    """The processor time of one call, in ns: the least of several, up to the first that is at most `enough`.

    As on a quiet machine: where others use its caches and the other half of its cores, all takes twice as long, and so
    does a fixed loop beside it.
    """
    least = 1 << 62
    for _ in range(_TRIES):
        began = time.thread_time_ns()
        _call(target, argument)
        ended = time.thread_time_ns()
        least = min(least, int((ended - began) / max(1.0, _loop() / _LOOP)))
        if least <= enough:
            break
        time.sleep(_REST)
    return least


def _loop() -> int:
    """The processor time of a fixed loop, in ns."""
    began = time.thread_time_ns()
    for number in range(20_000):
        len(str(number))
    return time.thread_time_ns() - began


def check_memory(target: Target, argument: object, size: int) -> int:
    """The most memory that the target had at once, in bytes.

    Raises:
        Finding: more than is in proportion.
    """
    tracemalloc.start()
    try:
        _call(target, argument)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > MOST_MEMORY + MEMORY_PER_BYTE * size:
        raise Finding(f"takes {peak} bytes of memory for {size} bytes")
    return peak


def _call(target: Target, argument: object) -> object:
    _state["armed"] = True
    try:
        result = target(argument)
    except Finding:
        raise
    except BaseException as error:
        _state["armed"] = False
        what = _state["event"] or f"{type(error).__name__}: {error!s:.300}"
        _state["event"] = ""
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Finding(f"let out {what}") from error
    finally:
        _state["armed"] = False
    if _state["event"]:
        raise Finding(f"let out {_state['event']}")
    return result
