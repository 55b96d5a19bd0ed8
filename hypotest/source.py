"""A segment as the leader sees it: what of it waits, and whether anybody writes it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hypotest.header import DONE, FINISHED, OFFSET, PID
from hypotest.segment import Segment
from hypotest.watch import may_live

_UNSOUND_PATIENCE = 5.0


@dataclass
class Source:
    """A segment that is open to be sent.

    Attributes:
        own: whether this process's own writer has it.
        orphan: whether nobody writes it any more, as far as was looked.
        orphan_since: when that was found.
        exhausted: whether it is an orphan in which nothing was left to claim.
        unsound_since: since when the leader waits for a frame to be whole.
        served: whether any of it was claimed since it was opened.
    """

    segment: Segment
    own: bool
    orphan: bool = False
    orphan_since: float = 0.0
    exhausted: bool = False
    unsound_since: float | None = None
    served: bool = False

    def is_orphan(self) -> bool:
        """Whether nobody writes it any more. Once true, stays true, and the lock is held."""
        if not self.orphan and (self.is_finished() or (not self.own and self.segment.lock())):
            self.orphan, self.orphan_since = True, time.monotonic()
        return self.orphan

    def is_finished(self) -> bool:
        """Whether its writer said that it adds no more."""
        return self.segment.words[FINISHED] == DONE

    def may_be_written(self, patience: float) -> bool:
        """Whether the writer of an orphan may live, and not know yet that it has lost its lock: see `Spool.check`."""
        waited = self.is_finished() or time.monotonic() - self.orphan_since > patience
        return not waited and may_live(self.segment.words[PID])

    def end(self) -> int:
        """The offset behind what may be claimed."""
        # After a power cut the position may be older than the frames: an orphan is read to the end of its file.
        end = self.segment.end()
        return end if self.orphan else min(end, self.segment.position() & OFFSET)

    def is_out_of_patience(self) -> bool:
        """Whether a frame that is not sound is damaged: the writer has had time enough to end it."""
        # On a weakly ordered processor the position may be seen before the frame.
        now = time.monotonic()
        self.unsound_since = self.unsound_since or now
        return now - self.unsound_since > _UNSOUND_PATIENCE

    def next_offset(self) -> int:
        """The offset of the next unsettled sound frame, 0 if there is none."""
        held = self.segment
        offset, end = held.acknowledged() & OFFSET, self.end()
        if held.read(offset, end) is None:
            offset = held.next_sound(offset, end)
        return offset if offset < end else 0
