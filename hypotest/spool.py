"""The writer's side of the spool: events are appended to segments that outlive the process.

A segment is checked out of a list for one append and put back: `list.pop` is atomic, so no lock is needed. A second
thread, a signal handler or a `__del__` that comes in between finds the list empty and gets a segment of its own; an
exception at any point costs at most the use of one segment, never an event or a deadlock; and that segment is finished
as soon as its `Writer` is garbage. (Rejected: a lock. It cost 230 ns on top
of 440, a signal handler would have to be told apart from a thread, and one left locked stops all.)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from mmh3 import hash as murmur3

from hypotest import accounts, interrupts, platform
from hypotest.errors import EventRefused
from hypotest.header import DONE, FINISHED, FULL_SIZE, GIVEN_UP, HEADER, OFFSET, ONE, POSITION
from hypotest.instance import Instance
from hypotest.platform import directory_size
from hypotest.segment import MAX_PAYLOAD, Segment, Writer, frame_size, pack_frame_head

_SMALLEST, _LARGEST = 64 << 10, 2 << 20
_QUICK, _SLOW = 10.0, 60.0  # s: a segment that was full sooner is followed by a larger one, later by a smaller one
_RETRY_AFTER = 1.0  # s, after a refusal
_PUBLISHED_FOR = 2.0  # s: so long what this process opened is added to what the leader published
_TALLY = 4096
_RESERVE, _RESERVE_SHARE = 64 << 20, 0.05  # bytes, and share of the disk: the smaller of the two is left to the host
_MOST_SPENT = 4  # full segments that wait for our thread to release them
_MOST_IDLE = 8  # segments that nobody writes to at the moment
_SOON = 2.0  # s: a segment that will be full within that has the next one made


class Spool:
    """Appends the events of one process to the spool directory.

    Attributes:
        instance: in whose name it writes.
    """

    def __init__(
        self,
        directory: str,
        max_bytes: int,
        spool_bytes: Callable[[], int],
        instance: Instance | None = None,
        mapped: bool | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            directory: the spool directory.
            max_bytes: the cap over all processes.
            spool_bytes: what the spool holds now, over all processes.
            instance: this process, if there may be more than one spool of it.
            mapped: whether its files are written through mappings; None looks at what file system it is.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._spool_bytes = spool_bytes
        self.instance = instance or Instance()
        self._size = _SMALLEST
        self._idle: list[Writer] = []
        self._refuse_until = (0.0, "")
        self._spent: list[Segment] = []
        self._deleted: list[Segment] = []
        self._unlocked: list[Segment] = []
        self._tally: list[Writer] = []
        self._ahead: list[Writer] = []
        self._tally_made = False
        self._tally_after = 0.0
        self._published, self._published_at = -1, 0.0
        self._opened: list[int] = []  # sizes of segments that what is published lacks
        self._opening: list[int] = []
        self._mapped = mapped
        self._closed = False

    @property
    def segments(self) -> dict[str, Segment]:
        """The open segments of this process, by path."""
        return self.instance.segments

    def append(self, payload: bytes) -> None:
        """Keeps one event. When this returns, the event survives the process.

        Raises:
            EventRefused: it cannot be kept; it has been counted.
        """
        open_segment: Writer | None
        try:
            open_segment = self._idle.pop()
        except IndexError:
            open_segment = self._open(len(payload))
        try:
            words = open_segment.words
            position = words[POSITION]
            offset = position & OFFSET
            length = len(payload)
            end = offset + 8 + length
            if length > MAX_PAYLOAD:
                self._count(accounts.refusal_slot("too_large"), open_segment)
                raise EventRefused("too_large", f"{length} bytes, at most {MAX_PAYLOAD}")
            if end > open_segment.limit:
                full, open_segment = open_segment, None
                try:
                    open_segment = self._turn(full, length)
                    self._put(open_segment, payload)
                finally:
                    # Also where there is no other: kept open, full ones alone could fill the spool up to its cap.
                    self._finish(full.segment)
                return
            frame = pack_frame_head(length, murmur3(payload, open_segment.seed, False)) + payload
            open_segment.map[offset:end] = frame
            words[POSITION] = position + ONE + (length + 15 & -8)  # publish last
        except OSError as error:
            interrupts.let_through(error)
            if open_segment is None or open_segment.segment.in_place():
                raise self._refusal("disk", str(error)) from error
            closed, open_segment = open_segment, None  # by the host, with all descriptors; not mapped, it is lost to us
            self._finish(closed.segment)
            self.append(payload)
        finally:
            if open_segment is not None:
                self._idle.append(open_segment)
                if self._closed:
                    self.close()

    def _put(self, target: Writer, payload: bytes) -> None:
        """What `append` does, which has it written out: a call costs it a tenth."""
        position = target.words[POSITION]
        offset = position & OFFSET
        frame = pack_frame_head(len(payload), murmur3(payload, target.seed, False)) + payload
        target.map[offset : offset + len(frame)] = frame
        target.words[POSITION] = position + ONE + frame_size(len(payload))  # publish last

    def refuse(self, reason: str) -> None:
        """Counts an event that is not accepted, in a file that outlives the process if there is room for one."""
        slot = accounts.refusal_slot(reason)
        if not self._lend(lambda counting: self._count(slot, counting)):
            self.instance.unreported[slot] += 1
            self._open_tally()

    def _lend(self, use: Callable[[Writer], None]) -> bool:
        """Calls `use` with a segment that nobody appends to at the moment; returns whether there is one."""
        for held in (self._idle, self._tally):
            try:
                lent = held.pop()
            except IndexError:
                continue
            try:
                use(lent)
            finally:
                held.append(lent)
            return True
        return False

    def _count(self, slot: int, counting: Writer) -> None:
        with interrupts.suppress(OSError):
            if counting.limit:
                counting.segment.count(slot)
                return
        self.instance.unreported[slot] += 1  # deleted, or closed by the host: the next file has the count

    def _open_tally(self) -> None:
        """Makes a segment that holds counts and never an event, in spite of the cap: for a process without another."""
        if self._tally_made or time.monotonic() < self._tally_after:
            return
        self._tally_after = time.monotonic() + _RETRY_AFTER
        with interrupts.suppress(OSError):
            tally = self._make(_TALLY)
            self._tally_made = True
            self._write_down(tally.segment)
            self._tally.append(tally)

    def _write_down(self, target: Segment) -> None:
        # Taken in one step: another thread that opens a segment at this moment must not write the same counts.
        own = self.instance
        rows, own.unreported = own.unreported, [0] * accounts.SLOTS
        try:
            for slot, n in enumerate(rows):
                if n:
                    target.count(slot, n)
                    rows[slot] = 0
        finally:
            if any(rows):  # an interrupt
                own.unreported = accounts.add([own.unreported, rows])

    def unreported(self) -> list[int]:
        """Counts that are in no segment any more, or in none yet."""
        return accounts.add([self.instance.unreported, *(_written_off(held)[0] for held in self._deleted)])

    def _refusal(self, reason: str, detail: str) -> EventRefused:
        self.refuse(reason)
        return EventRefused(reason, detail)

    def _turn(self, full: Writer, length: int) -> Writer:
        """A fresh segment in place of one that is full or was deleted. The caller holds `full`."""
        self._choose_size(full, time.monotonic() - full.segment.opened)
        return self._open(length)

    def _choose_size(self, full: Writer, lasted: float) -> None:
        if lasted < _QUICK:
            self._size = min(_LARGEST, full.words[FULL_SIZE] * 2)
        elif lasted > _SLOW:
            self._size = max(_SMALLEST, full.words[FULL_SIZE] // 2)

    def prepare(self) -> None:
        """Makes the next segment if one will soon be full: the call that fills it neither makes one nor waits for it.

        To be called about once a second, in a thread of ours.
        """
        with interrupts.suppress(EventRefused, OSError):  # no room: the call that comes to need one says so
            for held in list(self.segments.values()):
                writer = held.writer and held.writer()
                if writer and not self._ahead and not self._closed and self._is_full_soon(writer):
                    self._ahead.append(self._create(self._size))
            if self._closed:
                self.close()

    def _is_full_soon(self, writer: Writer) -> bool:
        used, lasted = writer.words[POSITION] & OFFSET, time.monotonic() - writer.segment.opened
        soon = used * 2 > writer.limit > 0 and (writer.limit - used) * lasted < used * _SOON
        if soon:
            self._choose_size(writer, lasted)
        return soon

    def _made_ahead(self, length: int) -> Writer | None:
        try:
            writer = self._ahead.pop()
        except IndexError:
            return None
        if writer.limit >= HEADER + 8 + length:
            return writer
        self._finish(writer.segment)  # deleted, or too small
        return None

    def _finish(self, done: Segment) -> None:
        # Finished first: a leader of this process may open the file by name as soon as it is out of `segments`.
        # Not closed here: that leader may hold it too, and the last reference closes. Nor is that given up here: what a
        # signal handler of the host raises while Python takes an object down is lost, and it may run in this thread.
        with interrupts.suppress(OSError):  # not mapped, on a full disk: without a lock it counts as finished, too
            if done.words[FINISHED] != GIVEN_UP:
                done.words[FINISHED] = DONE
        self.segments.pop(done.path, None)
        self._spent.append(done)
        if len(self._spent) > _MOST_SPENT:
            with contextlib.suppress(IndexError):  # `check` was quicker
                self._spent.pop(0)

    def _open(self, length: int) -> Writer:
        if length > MAX_PAYLOAD:
            raise self._refusal("too_large", f"{length} bytes, at most {MAX_PAYLOAD}")
        if self._ahead and (ready := self._made_ahead(length)):
            self._write_down(ready.segment)
            return ready
        until, reason = self._refuse_until
        if reason and time.monotonic() < until:
            raise self._refusal(reason, "as a moment ago")
        smallest = max(_SMALLEST, (HEADER + length + 8 + 4095) & -4096)
        self._finish_abandoned()
        try:
            try:
                fresh = self._create(max(self._size, smallest))
            except (EventRefused, OSError) as error:
                interrupts.let_through(error)
                if self._size <= smallest:
                    raise
                self._size = smallest  # where there is no room for a large one, there may be for a small one
                fresh = self._create(smallest)
        except EventRefused as refusal:
            self._refuse_until = (time.monotonic() + _RETRY_AFTER, refusal.reason)
            self.refuse(refusal.reason)
            raise
        except OSError as error:
            interrupts.let_through(error)
            self._refuse_until = (time.monotonic() + _RETRY_AFTER, "disk")
            raise self._refusal("disk", str(error)) from error
        self._write_down(fresh.segment)
        return fresh

    def _create(self, size: int) -> Writer:
        try:
            self._opening.append(size)  # before the look: `prepare` may make one at this moment, too
            self._check_room()
            made = self._make(size)
            self._opened.append(size)
        finally:
            with interrupts.suppress(ValueError):  # an interrupt
                self._opening.remove(size)
        return made

    def _make(self, size: int) -> Writer:
        if self.instance.pid != os.getpid():  # a call of the parent's that a fork cut in two goes on here
            self.instance = Instance()
        if self._mapped is None:
            self._mapped = platform.mappable(self._directory)
        return self.instance.create(self._directory, size, mapped=self._mapped)

    def _check_room(self) -> None:
        """Whether what is being opened fits.

        Raises:
            EventRefused: it does not, or would take the disk's last bytes.
        """
        # What the leader published a second ago lacks what this process has opened since.
        published, now = self._spool_bytes(), time.monotonic()
        if published != self._published or now - self._published_at > _PUBLISHED_FOR:
            self._published, self._published_at, self._opened = published, now, []
        more = sum(self._opening)
        if self._opened and published + sum(self._opened) + more > self._max_bytes:
            # What is published may be the same again although files have come and gone: look before refusing.
            self._opened = [max(0, directory_size(self._directory) - published)]
        held = published + sum(self._opened)
        if held + more > self._max_bytes:
            raise EventRefused("spool_full", f"the spool holds {held} bytes, the cap is {self._max_bytes}")
        disk = os.statvfs(self._directory)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        reserve = min(_RESERVE, int(total * _RESERVE_SHARE))
        if free - more < reserve:
            raise EventRefused("disk", f"{free} bytes are free in {self._directory}, {reserve} are left to the host")

    def check(self) -> int:
        """Releases segments that are finished, and gives up open ones whose file or lock was taken from us.

        A host that becomes a daemon closes all descriptors, and drops the locks with them.

        To be called in a thread of ours, in which no signal handler runs.

        Returns:
            How many events went with them; they are counted as dropped, `lost`.
        """
        self._release_finished()
        while len(self._idle) > _MOST_IDLE:  # more threads than that came at once: each made one
            with contextlib.suppress(IndexError):
                self._finish(self._idle.pop(0).segment)
        # Each a second after it was found, when the append that may be under way is over.
        unlocked, self._unlocked = self._unlocked, []
        for held in unlocked:
            self._finish(held)
        lost = self._write_off_deleted()
        self._give_up_taken()
        if any(self.instance.unreported) and not self._closed:
            self._report()
        return lost

    def _report(self) -> None:
        """Writes down what was counted while no file had room for it."""
        if not self._lend(lambda lent: self._write_down(lent.segment) if lent.limit else None):
            self._open_tally()

    def _write_off_deleted(self) -> int:
        deleted, self._deleted = self._deleted, []
        lost, unreported = 0, self.instance.unreported
        for held in deleted:
            rows, unsettled = _written_off(held)
            lost += unsettled
            for slot, n in enumerate(rows):  # in place: a new list would lose what another thread adds meanwhile
                unreported[slot] += n
        return lost

    def _give_up_taken(self) -> None:
        for held in list(self.segments.values()):
            writer = held.writer and held.writer()
            if writer and writer.limit and held.named and not held.in_place() and not _is_done(held):
                if held.has_name():
                    self._unlocked.append(held)
                else:
                    with interrupts.suppress(OSError):
                        held.words[FINISHED] = GIVEN_UP
                    self._deleted.append(held)
                writer.limit = 0
                if writer in self._tally:
                    self._tally.clear()
                    self._tally_made = False

    def end(self) -> None:
        """Releases what is finished, and drops the reference to the client: the last call, in a thread of ours."""
        self._write_off_deleted()
        self._release_finished()
        self._spool_bytes = int  # none: it was a method of who holds this, and that cycle would keep files open

    def _release_finished(self) -> None:
        self._finish_abandoned()
        self._spent.clear()

    def _finish_abandoned(self) -> None:
        # An interrupt in the middle of an append lost them: as many as that, they would keep the leader from others.
        for held in list(self.segments.values()):
            if held.abandoned:
                self._finish(held)

    def abandon(self) -> None:
        """In a child: turns from the parent's segments."""
        inherited, self.instance = self.instance, Instance()
        self._idle.clear()
        self._tally.clear()
        self._ahead.clear()
        inherited.abandon()

    def close(self) -> None:
        """Finishes the segments; what an append has checked out right now is finished when it is put back."""
        self._closed = True
        for held in (self._idle, self._tally, self._ahead):
            with contextlib.suppress(IndexError):
                while True:
                    self._finish(held.pop().segment)


def _is_done(held: Segment) -> bool:
    with interrupts.suppress(OSError):  # not mapped, and closed by the host
        return held.words[FINISHED] == DONE
    return False


def _written_off(deleted: Segment) -> tuple[list[int], int]:
    """The counts of a segment that was deleted, and how many events are lost with it: all that were not settled."""
    with interrupts.suppress(OSError):  # not mapped, and closed by the host: nobody knows
        rows, unsettled = deleted.counters(), deleted.unsettled()
        rows[accounts.drop_slot("lost")] += unsettled
        return rows, unsettled
    return [0] * accounts.SLOTS, 0
