"""The leader's work in pieces, so that a request in the same process waits for none of it long.

A thread that works in Python keeps the GIL for 5 ms when another one asks for it: so long a request would be held up.
Whoever has more to do than a piece rests now and then. (Rejected: `time.sleep(0)`. The thread that waits takes 50 us
to wake up, and finds the GIL taken again. `sys.setswitchinterval`: it is the application's.)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _Item = TypeVar("_Item")
_PIECE = 0.25e-3
_REST = 1e-6  # the kernel adds some 50
_alone: list[bool] = []


def alone() -> None:
    """Says that this process has no requests: nothing rests from now on."""
    _alone.append(True)


def rest() -> None:
    """Lets the other threads, or greenlets, go on."""
    if not _alone:
        time.sleep(_REST)


def in_pieces(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items, with a rest after each piece of work on them."""
    if _alone:
        yield from items
        return
    now = time.perf_counter
    due = now() + _PIECE
    for item in items:
        yield item
        if now() >= due:
            rest()
            due = now() + _PIECE
