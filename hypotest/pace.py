"""The leader's work in pieces, so that a request in the same process waits for none of it long.

A thread that works in Python keeps the GIL for 5 ms when another one asks for it, and a request would be held up for
that long. Whoever has more to do than a piece rests now and then. (Rejected: `time.sleep(0)`. The thread that waits
takes 50 us to wake up, and finds the GIL taken again. `sys.setswitchinterval`: it is the application's.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _Item = TypeVar("_Item")
_PIECE, _LONGEST_PIECE = 0.25e-3, 5e-3
_REST = 1e-6  # the kernel adds some 50
_SHARE = 0.25
_alone: list[bool] = []


class _Mine(threading.local):
    """When the piece of work ends that a thread is at, by its own processor time; and when to look, by the clock."""

    due = 0.0
    look = 0.0


_mine = _Mine()


def alone() -> None:
    """Says that this process has no requests: nothing rests from now on."""
    _alone.append(True)


def rest() -> None:
    """Lets the other threads, or greenlets, go on, if this one has worked for a piece since it last did.

    Each busy thread of the application keeps the GIL for 5 ms before we have it again: the longer a rest took, the
    longer is the next piece, or a leader in a busy worker would hardly ever work.
    """
    if _alone:
        return
    began = time.perf_counter()
    if began < _mine.look:
        return
    left = _mine.due - time.thread_time()
    if left > 0:  # it waited for something meanwhile
        _mine.look = began + left
        return
    time.sleep(_REST)
    ended = time.perf_counter()
    piece = min(_LONGEST_PIECE, max(_PIECE, (ended - began) * _SHARE))
    _mine.due, _mine.look = time.thread_time() + piece, ended + piece


def in_pieces(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items, with a rest after each piece of work on them."""
    for item in items:
        yield item
        rest()
