"""What one writer did, as it wrote it down itself: one file each, one write for each record, so that a kill tears none.

A call has two records, BEGAN and ENDED; a call that was killed has only the first. Counters go up from 0.

    offset  size  what
    0       8     CLOCK_MONOTONIC in ns, which is the same in all processes and is never stepped
    8       4     counter of the call; of START the pid; of STATUS the epoch; of UNREPORTED the count; of
                  TIMER whether one is set that will kill
    12      2     of ENDED the version of the settings that the answer showed, 0 if none
    14      1     what: BEGAN, ENDED, ...
    15      1     of ENDED: KEPT, or a reason of accounts.REFUSALS
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hypotest import accounts

BEGAN, ENDED, START, END, STATUS, UNREPORTED, TIMER = range(7)
KEPT = 255
EXPERIMENTS = ("one", "two")
KINDS = ("visit", "goal", "match_user_visitor")
"""What a writer does, in turn, by the counter."""
_RECORD = struct.Struct("=QIHBB")
SIZE = _RECORD.size


class Record(NamedTuple):
    """One record; see above."""

    time: int
    number: int
    version: int
    what: int
    outcome: int


class History:
    """Writes the history of one writer.

    Attributes:
        label: tells this writer from all others.
    """

    def __init__(self, directory: Path) -> None:
        self.label = f"{os.getpid():x}-{os.urandom(5).hex()}"
        self._fd = os.open(directory / self.label, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC)
        self._unreported = 0
        self.write(START, os.getpid())

    def write(self, what: int, number: int, version: int = 0, outcome: int = 0) -> None:
        """Adds a record."""
        os.write(self._fd, _RECORD.pack(time.monotonic_ns(), number, version, what, outcome))

    def ended(self, number: int, version: int, reason: str | None, unreported: int) -> None:
        """A call has returned.

        Args:
            number: its counter.
            version: of the settings, as its answer showed.
            reason: why the event was refused; None if it was kept.
            unreported: how many refusals stand in no file yet.
        """
        if unreported != self._unreported:  # first: a kill in between must not leave a refusal that nothing explains
            self._unreported = unreported
            self.write(UNREPORTED, unreported)
        self.write(ENDED, number, version, KEPT if reason is None else accounts.REFUSALS.index(reason))


def read(path: Path) -> Iterator[Record]:
    """The records of a history, in order."""
    data = path.read_bytes()
    return map(Record._make, _RECORD.iter_unpack(data[: len(data) // SIZE * SIZE]))
