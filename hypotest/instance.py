"""A process as the writer of segments, whichever configurations it goes through."""

from __future__ import annotations

import os
from itertools import count

from hypotest.segment import Segment


class Instance:
    """What all segments of a process have in common. A child has another one.

    Attributes:
        id: 128 random bits, the first part of every event id.
        numbers: of its segments; a count is atomic: a file of the same name would be replaced.
        segments: the open ones by path: a leader in this process must not open them a second time.
        pid: the process.
    """

    __slots__ = ("id", "numbers", "pid", "segments")

    def __init__(self) -> None:
        self.id = os.urandom(16)
        self.numbers = count()
        self.segments: dict[str, Segment] = {}
        self.pid = os.getpid()

    @property
    def name(self) -> str:
        """The id as the names of its files begin with it."""
        return self.id.hex()
