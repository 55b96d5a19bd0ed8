"""The leader's side of the spool: claim events in batches, settle them, retire segments whose writer is gone.

There is no ledger: what is settled stands in each segment's header and is written after the server's answer, so a crash
resends, and the event ids make that harmless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hypotest import accounts, header, log, pace, platform, segment
from hypotest.control import LIVED, SPOOL_BYTES, ControlPage
from hypotest.durability import Durability
from hypotest.errors import CorruptFile
from hypotest.header import DONE, FINISHED, FIRST_SEEN, GIVEN_UP, OFFSET, ONE, PID, POSITION, SMALLEST_FRAME, SUFFIX
from hypotest.platform import pread
from hypotest.quarantine import Quarantine
from hypotest.segment import Segment
from hypotest.statedir import StateDir
from hypotest.watch import may_live

_MAX_OPEN = 128
_OPEN_SHARE = 8  # of the descriptors that the process may have
_FEWEST_OPEN = 8
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_DRAFT_AGE = 60.0
_UNSOUND_PATIENCE = 5.0
_ORPHAN_PATIENCE = 3.0
_RUN = 500  # events, between two rests

Fate = str | None
DELIVERED = ""
"""The fate of an event: DELIVERED, a reason of accounts.DROPS, or None while it is not decided."""


@dataclass
class _Source:
    """A segment as the leader sees it.

    Attributes:
        orphan_since: when the lock of its writer was found free.
        exhausted: whether it is an orphan in which nothing was left to claim.
    """

    segment: Segment
    own: bool
    orphan: bool = False
    orphan_since: float = 0.0
    exhausted: bool = False
    unsound_since: float | None = None

    def is_orphan(self) -> bool:
        """Whether nobody writes it any more. Once true, stays true, and the lock is held."""
        if not self.orphan:
            finished = self.segment.words[FINISHED] == DONE
            self.orphan = finished or (not self.own and self.segment.lock())
            self.orphan_since = time.monotonic()
        return self.orphan

    def may_be_written(self, patience: float) -> bool:
        """Whether the writer of an orphan may live, and not know yet that it has lost its lock: see `Spool.check`."""
        waited = self.segment.words[FINISHED] == DONE or time.monotonic() - self.orphan_since > patience
        return not waited and may_live(self.segment.words[PID])


@dataclass
class _Part:
    """The part of a batch that is of one segment.

    Attributes:
        settled: how many of its frames were settled before.
        offsets: where the claimed ones are.
        payloads: and what they hold.
    """

    source: _Source
    settled: int
    offsets: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)

    def ids(self) -> list[str]:
        """The ids of the events."""
        held = self.source.segment
        each = f"{held.instance}-{held.number:x}-%x\n"
        return (each * len(self.offsets) % tuple(self.offsets)).split()  # one by one takes twice as long

    def mark(self, n: int) -> int:
        """The segment's acknowledged position once the first `n` of them are settled."""
        return (self.settled + n) * ONE | self.offsets[n - 1] + len(self.payloads[n - 1]) + 15 & -8


@dataclass
class Batch:
    """Claimed events, in order.

    Attributes:
        ids: the id of each event.
        payloads: and what it says.
        parts: the same by segment.
        size: of the payloads, in bytes.
    """

    ids: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    size: int = 0

    @property
    def events(self) -> list[tuple[str, bytes]]:
        """Id and payload of each event."""
        return list(zip(self.ids, self.payloads, strict=True))


class Backlog:
    """The spool of one namespace, in the hands of its leader.

    Attributes:
        crowded: whether the last scan left segments out, since too many are open.
    """

    def __init__(
        self,
        state: StateDir,
        control: ControlPage,
        own: Callable[[], Mapping[str, Segment]],
        *,
        expired: Callable[[bytes], bool],
        max_age: float,
        sync_data: Callable[[int], None] = platform.sync_data,
        patience: float = _ORPHAN_PATIENCE,
    ) -> None:
        """Opens nothing yet.

        Args:
            state: the namespace's directory.
            control: its control page.
            own: the open segments of this process's own writer, by path.
            expired: whether an event, by its own time, is over `max_age`.
            max_age: s; an event is dropped when it is over that by both clocks: its own time, and the time that leaders
                have lived since they first saw its segment, which no clock step changes.
            sync_data: forces what is written of a file, or the names in a directory, to the disk.
            patience: s; so long an unfinished segment without a lock is kept if its writer may live.
        """
        self._state = state
        self._control = control
        self._own = own
        self._patience = patience
        self._expired = expired
        self._max_age = max_age
        self._quarantine = Quarantine(state.quarantine)
        self._sources: dict[str, _Source] = {}
        self._durability = Durability(state, control, _finder(self._sources, own), sync_data)
        self._most_open = _most_open()
        self._folding = threading.RLock()  # held across stores only, never across I/O
        self._closed = False
        self._ageing: set[str] = set()
        self.crowded = False

    def close(self) -> None:
        """Ends this view of the spool: a batch under way is not settled any more, and the next leader resends it.

        Once this returns, nothing is folded any more: the totals are the next leader's.
        """
        with self._folding:
            self._closed = True

    def abandon(self) -> None:
        """As `close`, in a child, where the lock may be a dead thread's."""
        self._closed = True

    def _is_closed(self) -> bool:
        """A call: of an attribute that was False a moment ago mypy believes that it still is."""
        return self._closed

    def release(self) -> None:
        """Gives up all segments, and with them their locks: another process that leads could take none.

        Only when nothing uses this any more: `close` comes first, and the batch under way has to be over.
        """
        self._sources.clear()

    def scan(self) -> None:
        """Looks for new segments and retires finished ones."""
        if self._closed:
            return
        own = self._own()
        self.crowded = False
        self._quarantine.look_anew()
        may_retire = self._finish_retirement()
        if may_retire:
            self._retire_settled()  # first: what is settled must not be in the way of what waits
        with os.scandir(self._state.spool) as entries:
            for entry in entries:
                if self._is_closed():
                    return
                with contextlib.suppress(OSError):
                    if entry.name.startswith("."):
                        self._sweep_draft(entry.path, entry.stat(follow_symlinks=False))
                    elif entry.name.endswith(SUFFIX):
                        self._admit(entry.path, own)
        if may_retire:
            self._retire_settled()
        if not self.crowded:
            self._ageing.clear()

    def _retire_settled(self) -> None:
        for path, source in list(self._sources.items()):
            if self._is_closed():
                return
            try:
                if not source.segment.in_place():
                    self._let_go(path, source)
                elif source.is_orphan():
                    with contextlib.suppress(OSError):
                        source.exhausted = not self._next_offset(source)
                    crowded = len(self._sources) >= self._most_open
                    if source.exhausted and (crowded or not source.may_be_written(self._patience)):
                        self._retire(path, source)
            except OSError as error:  # one that cannot be deleted keeps no other from being sent
                _cannot_delete(path, error)
                return

    def _let_go(self, path: str, source: _Source) -> None:
        """Gives up a segment that somebody else deleted, of which a living writer counts what is lost by itself.

        Or whose descriptor somebody closed: the next scan opens it again.
        """
        del self._sources[path]
        if source.segment.has_name():
            return
        if source.segment.words[FINISHED] != GIVEN_UP and source.is_orphan():
            rows = source.segment.counters()
            rows[accounts.drop_slot("lost")] += source.segment.unsettled()
            self._fold("", rows)

    def _fold(self, name: str, rows: Sequence[int]) -> bool:
        """Adds the counts of a segment to the totals; not if this leadership is over."""
        with self._folding:
            if not self._closed:
                self._control.fold(name, rows)
            return not self._closed

    def _finish_retirement(self) -> bool:
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
            self._sources.pop(path, None)
        return True

    def _admit(self, path: str, own: Mapping[str, Segment]) -> None:
        if path in self._sources:
            return
        if self.crowded or not self._make_room():  # once crowded, thousands would each ask 128 others for room
            self.crowded = True
            if path not in own:
                self._begin_to_age(path)
            return
        source = self._source_of(path, own.get(path))  # once: the writer may finish it at any moment
        if source is None:
            return
        if not source.own and source.segment.stem != source.segment.name:
            self._rename(source.segment, own)
            return
        if source.segment.mended:
            log.limited(
                log.ERROR, "mended", "the header of a segment is damaged, and read all the same: %s", _shown(path)
            )
        lived = self._control.words[LIVED] + 1
        if not 0 < source.segment.words[FIRST_SEEN] <= lived:
            source.segment.words[FIRST_SEEN] = lived % (1 << 64)
        self._sources[path] = source

    def _begin_to_age(self, path: str) -> None:
        """Writes down that a segment was seen which there is no room for yet: all grow old at the same time."""
        if path in self._ageing:
            return
        self._ageing.add(path)
        fd = platform.open_own(path, os.O_RDWR)
        try:
            if pread(fd, 8, 8 * FIRST_SEEN) == bytes(8):
                os.pwrite(fd, (self._control.words[LIVED] + 1).to_bytes(8, sys.byteorder), 8 * FIRST_SEEN)
        finally:
            os.close(fd)

    def _source_of(self, path: str, held: Segment | None) -> _Source | None:
        """A segment that waits, or nothing where there is nothing to do with it yet, or never."""
        if held is not None:
            return _Source(held, own=True) if held.unsettled() or held.words[FINISHED] == DONE else None
        try:
            return _Source(segment.open_segment(path), own=False)
        except FileNotFoundError:
            return None
        except CorruptFile:
            self._isolate(path)
            return None
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._give_back_descriptors()
            raise

    def _rename(self, held: Segment, own: Mapping[str, Segment]) -> None:
        # It takes the name that its header says. If that one is there, this is a copy, and its events are in the other.
        path = f"{self._state.spool}/{held.stem}{SUFFIX}"
        if not held.lock():
            return  # its writer lives, and goes by the name it knows
        if os.path.lexists(path):
            self._quarantine.take(held.path)
        else:
            os.rename(held.path, path)
            self._admit(path, own)

    def _make_room(self) -> bool:
        if len(self._sources) < self._most_open:
            return True
        for path, source in self._sources.items():
            if not source.segment.unsettled():
                del self._sources[path]
                return True
        return False

    def _give_back_descriptors(self) -> None:
        """There are none left: half of what is open is closed, so that there are some to send the others with."""
        self.crowded = True
        for path in [path for path, source in self._sources.items() if not source.own][::2]:
            del self._sources[path]

    def _sweep_draft(self, path: str, found: os.stat_result) -> None:
        # A writer killed before its segment had a name. One still at work finds its draft gone and makes another.
        if time.time() - found.st_mtime > _DRAFT_AGE:
            os.unlink(path)

    def claim(self, max_events: int, max_bytes: int) -> Batch:
        """The next unsettled events of all segments, in turn. Nothing changes on disk but expired events' accounts."""
        batch = Batch()
        for path, source in list(self._sources.items()):
            try:
                found = self._take(source, batch, max_events, max_bytes)
            except OSError:  # one that cannot be read keeps no other from being sent
                log.limited(log.ERROR, "unread", "a segment in use cannot be read: %s", _shown(path))
                continue
            if found:
                self._sources[path] = self._sources.pop(path)  # to the end: no busy writer keeps the others waiting
            if len(batch.ids) >= max_events or batch.size >= max_bytes:
                break
        return batch

    def _take(self, source: _Source, batch: Batch, max_events: int, max_bytes: int) -> bool:
        """Adds what waits in a segment to a batch; returns whether there was any."""
        if source.exhausted:
            return False
        held = source.segment
        orphan = source.is_orphan()  # before the position is read: what it covers then is all there will be
        settled, end = held.acknowledged(), self._end(source)
        offset = settled & OFFSET
        part = _Part(source, settled >> 40)
        ageing = self._control.words[LIVED] + 1 - held.words[FIRST_SEEN] >= self._max_age
        left, room = max_events - len(batch.ids), max_bytes - batch.size
        while offset < end and left > 0 and room > 0:
            if ageing and not part.offsets:
                offset = self._drop_expired(part, offset, end)
                if offset >= end:
                    break
            offsets, payloads = held.frames(offset, end, min(left, _RUN), room)
            pace.rest()
            if not offsets:
                if not orphan and not self._out_of_patience(source):
                    break
                offset = held.next_sound(offset, end)
                continue
            source.unsound_since = None
            part.offsets += offsets
            part.payloads += payloads
            offset = offsets[-1] + len(payloads[-1]) + 15 & -8
            left -= len(offsets)
            room -= sum(map(len, payloads))
        batch.size = max_bytes - room
        source.exhausted = orphan and offset >= end and not part.offsets
        if part.offsets:
            batch.ids += part.ids()
            batch.payloads += part.payloads
            batch.parts.append(part)
        return bool(part.offsets)

    def _drop_expired(self, part: _Part, offset: int, end: int) -> int:
        """Settles, as dropped, the events from `offset` on that are too old; returns where the first other one is."""
        held = part.source.segment
        while not self._closed and (frame := held.read(offset, end)) and self._expired(frame[0]):
            offset = frame[1]
            part.settled += 1
            held.count(accounts.drop_slot("age"))
            held.acknowledge(part.settled * ONE | offset)
        return offset

    def _end(self, source: _Source) -> int:
        # After a power cut the position may be older than the frames: an orphan is read to the end of its file.
        end = source.segment.end()
        return end if source.orphan else min(end, source.segment.position() & OFFSET)

    def _out_of_patience(self, source: _Source) -> bool:
        # On a weakly ordered processor the position may be seen before the frame: wait before calling it damaged.
        now = time.monotonic()
        source.unsound_since = source.unsound_since or now
        return now - source.unsound_since > _UNSOUND_PATIENCE

    def _next_offset(self, source: _Source) -> int:
        """The offset of the next unsettled sound frame, 0 if there is none."""
        held = source.segment
        offset, end = held.acknowledged() & OFFSET, self._end(source)
        if held.read(offset, end) is None:
            offset = held.next_sound(offset, end)
        return offset if offset < end else 0

    def settle(self, batch: Batch, fates: Sequence[Fate]) -> int:
        """Writes down what became of a batch; within each segment up to the first undecided event.

        Args:
            batch: as claimed.
            fates: one for each event of it.

        Returns:
            How many were settled.
        """
        settled = at = 0
        for part in batch.parts if not self._closed else ():
            held, begin = part.source.segment, at
            at += len(part.offsets)
            own = fates[begin:at]
            decided = own.index(None) if None in own else len(own)
            if any(own):
                for n, fate in enumerate(own[:decided], begin):
                    if fate:
                        self._quarantine.keep(batch.ids[n], batch.payloads[n], fate)
                        held.count(accounts.drop_slot(fate))
            if decided and held.acknowledged() < part.mark(decided):
                held.acknowledge(part.mark(decided))
            settled += decided
        return settled

    def _retire(self, path: str, source: _Source) -> None:
        self._durability.about_to_fold()
        held = source.segment
        written, settled = held.position(), held.acknowledged()
        missing = (written >> 40) - (settled >> 40)
        if missing > 0:
            # The position may be what is damaged: there were no more than fit in what cannot be read.
            missing = min(missing, held.uncovered(written & OFFSET) // SMALLEST_FRAME)
        end = ((settled >> 40) + max(0, missing)) * ONE | max(written & OFFSET, settled & OFFSET)
        if missing > 0:
            held.count(accounts.drop_slot("corrupt"), missing)
            held.acknowledge(end)
        held.words[POSITION] = end
        if not self._fold(held.name, held.counters()):
            return
        with contextlib.suppress(FileNotFoundError):
            if missing > 0:
                self._quarantine.take(path, missing)
            else:
                os.unlink(path)
        del self._sources[path]

    def expire(self) -> None:
        """Drops, by count, what is over age and would be sent next; sends nothing."""
        self.scan()
        for source in list(self._sources.values()):
            self._take(source, Batch(), 1, 1)

    def sweep_quarantine(self) -> None:
        """Deletes what has been in quarantine for longer than events are kept."""
        self._quarantine.sweep(self._max_age)

    def publish_size(self) -> None:
        """Tells all writers what the spool holds."""
        self._control.words[SPOOL_BYTES] = self._state.spool_bytes()

    def sync(self) -> None:
        """Forces to the disk what a power cut must not take.

        Raises:
            OSError: a directory or the control page cannot be synced.
        """
        self._durability.sync()

    def _isolate(self, path: str) -> None:
        """Sets a segment aside that cannot be read, once its writer is gone."""
        try:
            fd = platform.open_own(path, os.O_RDWR)
        except CorruptFile:
            self._quarantine.take(path)  # no file, or not of our user: nothing that we accepted
            return
        try:
            if not segment.lock(fd):
                # Moved, it would take what its writer goes on to append with it.
                log.limited(log.ERROR, "unread", "a segment in use cannot be read: %s", _shown(path))
                return
            _, _, rows = header.guess(segment.read_header(fd))
            rows[accounts.drop_slot("corrupt")] = lost = accounts.pending(rows)
            if not self._closed:
                self._quarantine.take(path, lost)
                self._fold("", rows)
        finally:
            os.close(fd)


def _finder(
    sources: Mapping[str, _Source], own: Callable[[], Mapping[str, Segment]]
) -> Callable[[str], Segment | None]:
    """What finds the open segment of a path. No method of `Backlog`: a cycle would keep locks until a collection."""

    def find(path: str) -> Segment | None:
        source = sources.get(path)
        return source.segment if source else own().get(path)

    return find


def _most_open() -> int:
    """How many segments a leader has open at most: each takes two descriptors, and the others are the host's."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_OPEN if limit == resource.RLIM_INFINITY else limit // _OPEN_SHARE
    return max(_FEWEST_OPEN, min(_MAX_OPEN, most))


def _cannot_delete(path: str, error: OSError) -> None:
    log.limited(
        log.ERROR,
        "undeleted",
        "a file of the spool cannot be deleted; what is in it is sent and counted once: %s: %s",
        _shown(path),
        log.shown(error),
    )


def _shown(path: str) -> str:
    return log.shown(os.path.basename(path))
