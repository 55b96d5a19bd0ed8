"""The end of segments: their counts go into the totals of the namespace, and they are deleted. Each is counted once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from hypotest import accounts, log
from hypotest.control import ControlPage
from hypotest.durability import Durability
from hypotest.header import FINISHED, GIVEN_UP, OFFSET, ONE, POSITION, SMALLEST_FRAME, SUFFIX, frames
from hypotest.quarantine import Quarantine
from hypotest.source import Source
from hypotest.statedir import StateDir


class Totals:
    """The counts of all segments that ever were, in the hands of one leader."""

    def __init__(self, control: ControlPage) -> None:
        self._control = control
        self._folding = threading.RLock()  # held across stores only, never across I/O
        self._closed = False

    def fold(self, name: str, rows: Sequence[int]) -> bool:
        """Adds the counts of a segment; not once they are closed. Without a name, in any case: see `ControlPage`."""
        if self._closed:
            return False
        with self._folding:
            if not self._closed:
                self._control.fold(name, rows)
            return not self._closed

    def closed(self) -> bool:
        """Whether they are the next leader's. A method: another thread closes them; see Publisher."""
        return self._closed

    def close(self) -> None:
        """Once this returns, nothing is folded any more."""
        if not self._closed:  # or the lock may be left taken, see `Campaign.step_down`
            with self._folding:
                self._closed = True

    def abandon(self) -> None:
        """As `close`, in a child, where the lock may be a dead thread's."""
        self._closed = True


class Retirement:
    """Ends the segments of one namespace that nobody writes and in which nothing waits."""

    def __init__(
        self,
        state: StateDir,
        control: ControlPage,
        totals: Totals,
        quarantine: Quarantine,
        durability: Durability,
        patience: float,
    ) -> None:
        """Ends none yet.

        Args:
            state: the namespace's directory.
            control: its control page.
            totals: where counts go.
            quarantine: where files go of which a part cannot be read.
            durability: is told before each fold.
            patience: s; so long an unfinished segment without a lock is kept if its writer may live.
        """
        self._state = state
        self._control = control
        self._totals = totals
        self._quarantine = quarantine
        self._durability = durability
        self._patience = patience

    def resume(self, sources: dict[str, Source]) -> bool:
        """Deletes the segments that the totals name; returns whether further ones may be folded.

        A leader may have died between a fold and its unlink, or a power cut have undone that. First of all: folds of
        other segments would make the totals forget which ones they hold already, and these would count twice.
        """
        folded, _ = self._control.accounts()
        for name in folded:
            path = f"{self._state.spool}/{name}{SUFFIX}"
            try:
                os.unlink(path)
            except (FileNotFoundError, IsADirectoryError):
                pass
            except OSError as error:
                _cannot_delete(path, error)
                return False
            sources.pop(path, None)
        return True

    def retire(self, sources: dict[str, Source], most_open: int) -> bool:
        """Ends those of `sources` that can be, and takes them out; without patience where so many are open.

        Returns:
            Whether further ones may be folded: not after one that could not be deleted, until `resume` says so.
        """
        for path, source in list(sources.items()):
            if self._totals.closed():
                return False
            try:
                if not source.segment.in_place():
                    del sources[path]
                    self._let_go(source)
                elif source.is_orphan():
                    with contextlib.suppress(OSError):
                        source.exhausted = not source.next_offset()
                    crowded = len(sources) >= most_open
                    over = source.exhausted and (crowded or not source.may_be_written(self._patience))
                    if over and self._end(path, source):
                        del sources[path]
            except OSError as error:  # one that cannot be deleted keeps no other from being sent
                _cannot_delete(path, error)
                return False
        return True

    def _let_go(self, source: Source) -> None:
        """Gives up a segment that somebody else deleted, of which a living writer counts what is lost by itself.

        Or whose descriptor somebody closed: the next scan opens it again.
        """
        held = source.segment
        if not held.has_name() and held.words[FINISHED] != GIVEN_UP and source.is_orphan():
            rows = held.counters()
            rows[accounts.drop_slot("lost")] += held.unsettled()
            self._totals.fold("", rows)

    def _end(self, path: str, source: Source) -> bool:
        """Folds and deletes a segment; returns whether it did."""
        self._durability.about_to_fold()
        held = source.segment
        written, settled = held.position(), held.acknowledged()
        missing = frames(written) - frames(settled)
        if missing > 0:
            # The position may be what is damaged: there were no more than fit in what cannot be read.
            missing = min(missing, held.uncovered(written & OFFSET) // SMALLEST_FRAME)
        end = (frames(settled) + max(0, missing)) * ONE | max(written & OFFSET, settled & OFFSET)
        if missing > 0:
            held.count(accounts.drop_slot("corrupt"), missing)
            held.acknowledge(end)
        held.words[POSITION] = end
        if not self._totals.fold(held.name, held.counters()):
            return False
        with contextlib.suppress(FileNotFoundError):
            if missing > 0:
                self._quarantine.take(path, missing)
            else:
                os.unlink(path)
        return True


def _cannot_delete(path: str, error: OSError) -> None:
    log.limited(
        log.ERROR,
        "undeleted",
        "a file of the spool cannot be deleted; what is in it is sent and counted once: %s: %s",
        log.shown(os.path.basename(path)),
        log.shown(error),
    )
