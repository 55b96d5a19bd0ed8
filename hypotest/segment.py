"""The segment: the spool's file format, both directions.

One writer each, mapped, preallocated; named `<instance>-<number>.seg`, where instance is 128 random bits of a process.

    offset  size  what                                                              written by
    0       8     magic "HTSEG001"                                                  writer, once
    8       8     seed of the checksums, random                                     writer, once
    16      16    instance                                                          writer, once
    32      8     number of this segment within the instance                        writer, once
    40      8     position: frames written << 40 | offset behind the last           writer
    48      8     acknowledged: frames settled << 40 | check << 32 | offset behind  leader
    56      8     finished: "FINISHED" when the writer will add no more, "GIVEN UP"
                  when the file was deleted under it                                writer
    64      8     created: Unix time, s                                             writer, once
    72      8     writer's pid, for people                                          writer, once
    80      8     size of the file when it is complete                              writer, once
    88      8     first seen: the leaders' lived seconds at that time, + 1          leader
    96      128   counters, see accounts.py: u32 count | u32 its crc32 ^ that of 0   refusals: writer; drops: leader
    224     12    u32 seed | u32 size / 8 | u32 crc32 of magic, seed, instance,
                  number and size                                                   writer, once
    256     ...   frames, each at a multiple of 8:
                  u32 length | u32 murmur3(payload, seed) | payload | zeros up to the next multiple of 8

An event exists from the moment the position covers it: frame first, position last, one aligned store. An exception in
between leaves the position where it was, and the next append overwrites. Count and offset share a word so that they
cannot disagree. Lengths are below 2**24, so a frame's fourth byte is zero, which no JSON text contains: no payload can
look like a frame. An event's id is (instance, number, offset): fixed when it is accepted, the same in every resend.

Damage (`header.py`). Instance and number stand in the file's name as well, so that all of the identity is there twice,
and the checksum tells which is right: no damage to one place costs an event or changes an id. A damaged counter is
mended by its checksum. If acknowledged is damaged, all is sent again, with the same ids. A position is believed as
far as its frames can fit before its offset. When the segment is retired, what is missing is counted, up to what fits in
the bytes that no sound frame covers: a damaged count invents no events. A header without any sound identity counts as
the events that its position claims, if they can be, and as one at least.

Not promised: a file that is truncated while a process has it mapped (SIGBUS). Whatever else is written to the segment
of a living writer may cost the events in it, but no other, and never a reader.

Ownership is a POSIX lock on the file: a child does not inherit it, and the kernel drops it with the process. It is also
dropped when the process closes any descriptor of the file: a process never opens a segment that it writes.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import sys
import time
from collections import deque
from weakref import ReferenceType, ref

from mmh3 import hash as murmur3

from hypotest import header, interrupts, platform
from hypotest.errors import CorruptFile
from hypotest.header import ACKNOWLEDGED, COUNTERS, HEADER, POSITION, SUFFIX
from hypotest.platform import FileBytes, FileWords, pread

MAX_PAYLOAD = 64 << 10

_FRAME = struct.Struct("=II")
_BLOCK = 64 << 10
_READ = 128 << 10
"""At once: any frame fits; small enough for the allocator to use the same memory again."""
_ZEROS = bytes(_BLOCK)
_PAGE = 4 << 10
pack_frame_head = _FRAME.pack


class Segment:
    """An open segment, of its writer or of the leader.

    Frames are written through the mapping and read by `pread`: what a leader looks at in a mapping counts as memory of
    its process; some kernels map 2 MiB for a look at one byte.

    Attributes:
        name: the file's name without directory and suffix.
        map: its bytes; a leader maps no more than the header. words: the same as u64 words.
        file: its device and inode; (0, 0) before it is attached.
        seed: of its checksums.
        stem: the name that it was made with.
        named: whether a segment of this process has its name already: before, it is not where that says.
        full: size of the file when it is complete.
        mended: whether its header is damaged; what is known of it is right all the same.
        writer: that of a segment of this process.
    """

    __slots__ = (
        "__weakref__",
        "_unwritten",
        "fd",
        "file",
        "full",
        "instance",
        "map",
        "mended",
        "name",
        "named",
        "number",
        "opened",
        "path",
        "seed",
        "stem",
        "words",
        "writer",
    )

    def __init__(self, path: str) -> None:
        """Has no descriptor yet: see `make` and `attach`."""
        self.path = path
        self.name = os.path.basename(path).removesuffix(SUFFIX)
        self.fd = -1
        self.file = (0, 0)
        self.named = False
        self.writer: ReferenceType[Writer] | None = None
        self.opened = time.monotonic()
        self._unwritten = 0

    def make(self, draft: str) -> None:
        """Makes the file, which is closed with this segment, under the name `draft`."""
        # One step of C: an interrupt between two steps of Python would leave a descriptor that nobody closes.
        opening = map(os.open, (draft,), (os.O_RDWR | os.O_CREAT | os.O_EXCL | platform.O_SAFE,), (0o600,))
        deque(map(setattr, (self,), ("fd",), opening), 0)

    def attach(self, most: int = _PAGE, *, mapped: bool = True) -> None:
        """Maps the file's first `most` bytes: for its writer all, for a leader the header.

        Not where files cannot be `mapped`, or where this one is not: its blocks are not there yet.

        Raises:
            CorruptFile: it is no segment of this version.
            OSError: it cannot be read.
        """
        fd = self.fd
        head = read_header(fd)
        found = header.identify(self.path, head)
        self.seed, self.number, self.full = found.seed, found.number, found.full
        self.instance, self.stem = found.instance.hex(), found.stem
        self.mended = found.is_damaged(head)
        found_file = os.fstat(fd)
        size, self.file = found_file.st_size, platform.file_of(found_file)
        self.map: mmap.mmap | FileBytes
        self.words: memoryview | FileWords
        if mapped and size == self.full and self.full % 8 == 0:
            self.map = platform.map_file(fd, min(size, most))
            self.words = memoryview(self.map).cast("Q")
        else:
            self.map = FileBytes(fd)
            self.words = FileWords(self.map)

    def __del__(self) -> None:
        # Not `close`: what a signal handler raises in here is lost to the host, so it has to be short, where it is not
        # in a thread of ours (`Spool.check`). To unmap takes a hundred times as long, and is done right after this,
        # with the last reference to the mapping, by no Python.
        fd = getattr(self, "fd", -1)  # none if an interrupt hit the constructor
        if fd >= 0 and self._has(fd):
            os.close(fd)

    def _has(self, fd: int) -> bool:
        return self.file == (0, 0) or platform.is_open_on(fd, self.file)

    def in_place(self) -> bool:
        """Whether the file is still where its path says, and the descriptor is of it."""
        return self.has_name() and self._has(self.fd)

    def has_name(self) -> bool:
        """Whether the file is still where its path says."""
        try:
            named = os.stat(self.path)
        except OSError as error:
            interrupts.let_through(error)
            return not isinstance(error, (FileNotFoundError, NotADirectoryError))
        return platform.file_of(named) == self.file

    def close(self) -> None:
        """Gives up mapping, descriptor and with them the lock. What is in the file stays.

        A writer's segment is never closed but by its last reference: a leader in the same process may be reading it.
        """
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        mapping, words = getattr(self, "map", None), getattr(self, "words", None)
        if isinstance(words, memoryview):
            words.release()
        if isinstance(mapping, mmap.mmap):
            mapping.close()
        if self._has(fd):
            os.close(fd)

    def disown(self) -> None:
        """In a child: makes an append of the parent's fail that the fork cut in two, and that goes on in the child too.

        It would turn the position back, and so hide what the parent has appended since.
        """
        writer = self.writer and self.writer()
        if isinstance(self.words, memoryview):
            self.words.release()
            if writer:
                writer.map = self.words  # type: ignore[assignment]
        elif isinstance(self.map, FileBytes):
            self.map.disown()

    def lock(self) -> bool:
        """Takes the writer's lock: True means that no other living process writes this segment."""
        return lock(self.fd)

    def counters(self) -> list[int]:
        """The segment's accounts: see `header.counters_of`."""
        head = self.map[0:HEADER]
        if self._unwritten:
            at = 8 * ACKNOWLEDGED
            head = head[:at] + header.with_check(self._unwritten).to_bytes(8, sys.byteorder) + head[at + 8 :]
        return header.counters_of(head, self.full)

    @property
    def abandoned(self) -> bool:
        """Whether it is this process's and nobody can append to it any more."""
        return self.writer is not None and self.writer() is None

    def count(self, slot: int, n: int = 1) -> None:
        """Adds to a counter. The caller is the only one who writes that counter."""
        self.words[COUNTERS + slot] = header.add(self.words[COUNTERS + slot], n)

    def position(self) -> int:
        """What is written: frames << 40 | offset behind the last, as far as it can be believed."""
        return header.position(self.words[POSITION], self.full)

    def acknowledged(self) -> int:
        """What is settled: frames << 40 | offset behind the last; as if nothing was if that is damaged."""
        return max(self._unwritten, header.acknowledged(self.words[ACKNOWLEDGED], self.full))

    def acknowledge(self, mark: int) -> None:
        """Writes down what is settled; where the disk is full, and the file not mapped, this process alone knows it."""
        try:
            self.words[ACKNOWLEDGED] = header.with_check(mark)
        except OSError as error:
            interrupts.let_through(error)
            self._unwritten = mark

    def end(self) -> int:
        """Where the file ends, or was meant to: nothing behind that is ours."""
        return min(os.fstat(self.fd).st_size, self.full)

    def unsettled(self) -> int:
        """How many frames the position covers that are not settled yet."""
        return max(0, header.frames(self.position()) - header.frames(self.acknowledged()))

    def uncovered(self, until: int) -> int:
        """How many bytes before `until` no sound frame covers."""
        offset, end, covered = HEADER, self.end(), 0
        while offset < min(until, end):
            frame = self.read(offset, end)
            if frame is None:
                offset = self.next_sound(offset, end)
            else:
                covered += frame[1] - offset
                offset = frame[1]
        return max(0, until - HEADER - covered)

    def read(self, offset: int, end: int) -> tuple[bytes, int] | None:
        """The payload of the frame at `offset` and the offset behind it; None if there is no sound frame."""
        if offset + _FRAME.size > end:
            return None
        length, checksum = _FRAME.unpack(pread(self.fd, _FRAME.size, offset).ljust(_FRAME.size, b"\0"))
        start = offset + _FRAME.size
        if not 0 < length <= MAX_PAYLOAD or start + length > end:
            return None
        payload = pread(self.fd, length, start)
        if murmur3(payload, self.seed, False) != checksum:
            return None
        return payload, offset + frame_size(length)

    def frames(self, offset: int, end: int, most: int, room: int) -> tuple[list[int], list[bytes]]:
        """The sound frames that follow one another from `offset` on: their offsets and payloads.

        By `read`, each would cost three times as much.

        Args:
            offset: of the first.
            end: nothing behind that is read.
            most: frames; it may be fewer although more follow.
            room: bytes; the last frame begins within them.
        """
        block = pread(self.fd, min(end - offset, _READ), offset)
        offsets: list[int] = []
        payloads: list[bytes] = []
        seed, unpack, digest = self.seed, _FRAME.unpack_from, murmur3
        at, stop = 0, min(room, len(block) - _FRAME.size + 1)
        for _ in range(most):
            if at >= stop:
                break
            length, checksum = unpack(block, at)
            payload = block[at + 8 : at + 8 + length]
            if digest(payload, seed, False) != checksum or not payload:  # or it goes on behind the block
                break
            offsets.append(offset + at)
            payloads.append(payload)
            at = at + length + 15 & -8  # frame_size
        return offsets, payloads

    def next_sound(self, offset: int, end: int) -> int:
        """The offset of the first sound frame after the unsound one at `offset`; `end` if there is none."""
        offset += 8
        while offset < end:
            block = min(_BLOCK, end - offset)
            data = pread(self.fd, block, offset)
            if data != _ZEROS[:block]:
                # By the lengths first: to try each place would take seconds where a large file is full of garbage.
                lengths = memoryview(data[: len(data) & -8]).cast("I")[::2]
                for at, length in enumerate(lengths):
                    if 0 < length <= MAX_PAYLOAD and self.read(offset + 8 * at, end) is not None:
                        return offset + 8 * at
            offset += block
        return end


def frame_size(length: int) -> int:
    """The bytes that a payload of `length` takes: length and checksum, itself, and zeros up to a multiple of 8."""
    return length + 15 & -8


class Writer:
    """The right to append to a segment, of which there is one: whoever has it may, nobody else.

    An interrupt between two steps of its holder may lose it; its segment then says `abandoned`.

    Attributes:
        segment: the segment; map, words, seed: the segment's.
        limit: offset that no frame may cross; 0 makes the holder turn to another segment.
    """

    __slots__ = ("__weakref__", "limit", "map", "seed", "segment", "words")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.map = segment.map
        self.words = segment.words
        self.seed = segment.seed
        self.limit = segment.full
        segment.writer = ref(self)


def read_header(fd: int) -> bytes:
    """The header of an open segment, as far as it has one.

    Raises:
        OSError: it cannot be read.
    """
    head = os.pread(fd, HEADER, 0)
    if len(head) < min(os.fstat(fd).st_size, HEADER):
        raise OSError(errno.EIO, "short read")  # what is there must not be taken for damaged
    return head


def lock(fd: int) -> bool:
    """Takes the writer's lock on an open segment, if no other living process has it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        interrupts.let_through(error)
        return False
    return True


def peek(path: str) -> tuple[int, int, list[int]]:
    """Position, acknowledged position and accounts of a segment, without mapping it; a guess if it cannot be read.

    Hazard: never for a segment that this process writes; closing the descriptor would drop the writer's lock.

    Raises:
        OSError: it is gone, or no segment of ours.
    """
    fd = platform.open_own(path, os.O_RDONLY)
    try:
        head = read_header(fd)
    finally:
        os.close(fd)
    try:
        full = header.identify(path, head).full
    except CorruptFile:
        return header.guess(head)
    return (*header.marks_of(head, full), header.counters_of(head, full))


def open_segment(path: str, *, mapped: bool = True) -> Segment:
    """Opens a segment of another process, or a finished one.

    Args:
        path: its file.
        mapped: whether files of that directory may be written through mappings, see `platform.mappable`.

    Raises:
        CorruptFile: its header is damaged.
        OSError: it is gone, or cannot be opened.
    """
    segment = Segment(path)
    segment.fd = platform.open_own(path, os.O_RDWR)
    segment.attach(mapped=mapped)
    return segment
