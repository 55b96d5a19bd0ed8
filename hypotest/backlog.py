"""The leader's side of the spool: admit segments, claim their events in batches, and settle these.

There is no ledger: what is settled stands in each segment's header and is written after the server's answer, so a crash
resends, and the event ids make that harmless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hypotest import accounts, header, log, pace, platform, segment
from hypotest.control import LIVED, SPOOL_BYTES, ControlPage
from hypotest.durability import Durability
from hypotest.errors import CorruptFile
from hypotest.header import DONE, FINISHED, FIRST_SEEN, OFFSET, ONE, SUFFIX
from hypotest.platform import pread
from hypotest.quarantine import Quarantine
from hypotest.retirement import Retirement, Totals
from hypotest.segment import Segment, frame_size
from hypotest.source import Source
from hypotest.statedir import StateDir

_MAX_OPEN = 128
_OPEN_SHARE = 8  # of the descriptors that the process may have
_FEWEST_OPEN = 8
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_DRAFT_AGE = 60.0
_ORPHAN_PATIENCE = 3.0
_RUN = 500  # events, between two rests

Fate = str | None
DELIVERED = ""
"""The fate of an event: DELIVERED, a reason of accounts.DROPS, or None while it is not decided."""


@dataclass
class _Part:
    """The part of a batch that is of one segment.

    Attributes:
        settled: how many of its frames were settled before.
        offsets: where the claimed ones are.
        payloads: and what they hold.
    """

    source: Source
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
        return (self.settled + n) * ONE | self.offsets[n - 1] + frame_size(len(self.payloads[n - 1]))


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
        waiting: the segments that the last scan left out, since too many are open: by path, since which scan.
    """

    def __init__(
        self,
        state: StateDir,
        control: ControlPage,
        own: Mapping[str, Segment],
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
        self._expired = expired
        self._max_age = max_age
        self._quarantine = Quarantine(state.quarantine)
        self._sources: dict[str, Source] = {}
        self._durability = Durability(state, control, _finder(self._sources, own), sync_data)
        self._totals = Totals(control)
        self._retirement = Retirement(state, control, self._totals, self._quarantine, self._durability, patience)
        self._most_open = _most_open()
        self._may_retire = False
        self._crowded = False
        self._scans = 0
        self.waiting: dict[str, int] = {}

    def close(self) -> None:
        """Ends this view of the spool: a batch under way is not settled any more, and the next leader resends it.

        Once this returns, nothing is folded any more: the totals are the next leader's.
        """
        self._totals.close()

    def abandon(self) -> None:
        """As `close`, in a child, where the lock may be a dead thread's."""
        self._totals.abandon()

    def release(self) -> None:
        """Gives up all segments, and with them their locks: another process that leads could take none.

        Only when nothing uses this any more: `close` comes first, and the batch under way has to be over.
        """
        self._sources.clear()

    def scan(self) -> None:
        """Looks for new segments and retires finished ones."""
        if self._totals.closed():
            return
        self._crowded = False
        self._scans += 1
        left_out: dict[str, int] = {}
        self._quarantine.look_anew()
        self._may_retire = self._retirement.resume(self._sources)
        self._retire(self._sources, self._most_open)  # first: what is settled must not be in the way of what waits
        with os.scandir(self._state.spool) as found:
            entries = list(found)
        if self.waiting:  # those that have waited longest are first
            entries.sort(key=lambda entry: self.waiting.get(entry.path, self._scans))
        for entry in entries:
            if self._totals.closed():
                return
            with contextlib.suppress(OSError):
                if entry.name.startswith("."):
                    self._sweep_draft(entry.path, entry.stat(follow_symlinks=False))
                elif entry.name.endswith(SUFFIX) and not self._admit(entry.path):
                    left_out[entry.path] = self.waiting.get(entry.path, self._scans)
                    self._begin_to_age(entry.path)
        self.waiting = left_out
        self._retire(self._sources, self._most_open)

    def _retire(self, sources: dict[str, Source], most_open: int) -> None:
        if self._may_retire:
            self._may_retire = self._retirement.retire(sources, most_open)

    def _admit(self, path: str) -> bool:
        """Opens a segment, if there is anything to do with it; False where there is no room."""
        if path in self._sources:
            return True
        if self._crowded or len(self._sources) >= self._most_open:
            if path not in self.waiting and self._is_idle(path):
                return True
            if self._crowded or not self._make_room():  # once crowded, thousands would each ask 128 others for room
                self._crowded = True
                return False
        source = self._source_of(path, self._own.get(path))  # once: the writer may finish it at any moment
        if source is None:
            return True
        if not source.own and source.segment.stem != source.segment.name:
            self._rename(source.segment)
            return True
        if source.segment.mended:
            log.limited(
                log.ERROR, "mended", "the header of a segment is damaged, and read all the same: %s", _shown(path)
            )
        lived = self._control.words[LIVED] + 1
        if not 0 < source.segment.words[FIRST_SEEN] <= lived:
            source.segment.words[FIRST_SEEN] = lived % (1 << 64)
        self._sources[path] = source
        return True

    def _is_idle(self, path: str) -> bool:
        """Whether nothing is to be done with a segment, as with most of those of living writers at any moment."""
        if path in self._own:
            return self._source_of(path, self._own[path]) is None
        fd = platform.open_own(path, os.O_RDWR)
        try:
            head = segment.read_header(fd)
            written, settled = map(header.frames, header.marks(path, head))
            return written <= settled and not header.is_finished(head) and not segment.lock(fd)
        finally:
            os.close(fd)

    def _begin_to_age(self, path: str) -> None:
        """Writes down that a segment was seen which there is no room for yet: all grow old at the same time."""
        if path in self.waiting or path in self._own:
            return
        fd = platform.open_own(path, os.O_RDWR)
        try:
            if pread(fd, 8, 8 * FIRST_SEEN) == bytes(8):
                os.pwrite(fd, (self._control.words[LIVED] + 1).to_bytes(8, sys.byteorder), 8 * FIRST_SEEN)
        finally:
            os.close(fd)

    def _source_of(self, path: str, held: Segment | None) -> Source | None:
        """A segment that waits, or nothing where there is nothing to do with it yet, or never."""
        if held is not None:
            return Source(held, own=True) if held.unsettled() or held.words[FINISHED] == DONE else None
        try:
            return Source(segment.open_segment(path, mapped=self._control.mapped), own=False)
        except FileNotFoundError:
            return None
        except CorruptFile:
            self._isolate(path)
            return None
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._give_back_descriptors()
            raise

    def _rename(self, held: Segment) -> None:
        # It takes the name that its header says. If that one is there, this is a copy, and its events are in the other.
        path = f"{self._state.spool}/{held.stem}{SUFFIX}"
        if not held.lock():
            return  # its writer lives, and goes by the name it knows
        if os.path.lexists(path):
            self._quarantine.take(held.path)
        else:
            os.rename(held.path, path)
            self._admit(path)

    def _make_room(self) -> bool:
        for path, source in self._sources.items():
            if not source.segment.unsettled() and self._may_go(path, source):
                del self._sources[path]
                return True
        for path, source in self._sources.items():  # whose writer is busy has had a turn, and the others none
            if source.served:
                del self._sources[path]
                return True
        return False

    def _may_go(self, path: str, source: Source) -> bool:
        """Whether a segment may make room. An orphan is retired for that: it has no other turn, unless none can be."""
        if not source.is_orphan():
            return True
        going = {path: source}
        self._retire(going, most_open=0)
        return not going or not self._may_retire

    def _give_back_descriptors(self) -> None:
        """There are none left: half of what is open is closed, so that there are some to send the others with."""
        self._crowded = True
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

    def _take(self, source: Source, batch: Batch, max_events: int, max_bytes: int) -> bool:
        """Adds what waits in a segment to a batch; returns whether there was any."""
        if source.exhausted:
            return False
        held = source.segment
        orphan = source.is_orphan()  # before the position is read: what it covers then is all there will be
        settled, end = held.acknowledged(), source.end()
        offset = settled & OFFSET
        part = _Part(source, header.frames(settled))
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
                if not orphan and not source.is_out_of_patience():
                    break
                offset = held.next_sound(offset, end)
                continue
            source.unsound_since = None
            part.offsets += offsets
            part.payloads += payloads
            offset = offsets[-1] + frame_size(len(payloads[-1]))
            left -= len(offsets)
            room -= sum(map(len, payloads))
        batch.size = max_bytes - room
        source.exhausted = orphan and offset >= end and not part.offsets
        if part.offsets:
            source.served = True
            batch.ids += part.ids()
            batch.payloads += part.payloads
            batch.parts.append(part)
        return bool(part.offsets)

    def _drop_expired(self, part: _Part, offset: int, end: int) -> int:
        """Settles, as dropped, the events from `offset` on that are too old; returns where the first other one is."""
        held = part.source.segment
        while not self._totals.closed() and (frame := held.read(offset, end)) and self._expired(frame[0]):
            offset = frame[1]
            part.settled += 1
            held.count(accounts.drop_slot("age"))
            held.acknowledge(part.settled * ONE | offset)
        return offset

    def settle(self, batch: Batch, fates: Sequence[Fate]) -> int:
        """Writes down what became of a batch; within each segment up to the first undecided event.

        Args:
            batch: as claimed.
            fates: one for each event of it.

        Returns:
            How many were settled.
        """
        settled = at = 0
        for part in batch.parts if not self._totals.closed() else ():
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

    def expire(self, seconds: float) -> None:
        """Drops, by count, what is over age and would be sent next; sends nothing.

        Begins no further segment after so many seconds: one takes 0.2 s at most, and those that are done retire.
        """
        self.scan()
        deadline = time.monotonic() + seconds
        for source in list(self._sources.values()):
            self._take(source, Batch(), 1, 1)
            if time.monotonic() > deadline:
                break

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
            if not self._totals.closed():
                self._quarantine.take(path, lost)
                self._totals.fold("", rows)
        finally:
            os.close(fd)


def _finder(sources: Mapping[str, Source], own: Mapping[str, Segment]) -> Callable[[str], Segment | None]:
    """What finds the open segment of a path. No method of `Backlog`: a cycle would keep locks until a collection."""

    def find(path: str) -> Segment | None:
        source = sources.get(path)
        return source.segment if source else own.get(path)

    return find


def _most_open() -> int:
    """How many segments a leader has open at most: each takes two descriptors, and the others are the host's."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_OPEN if limit == resource.RLIM_INFINITY else limit // _OPEN_SHARE
    return max(_FEWEST_OPEN, min(_MAX_OPEN, most))


def _shown(path: str) -> str:
    return log.shown(os.path.basename(path))
