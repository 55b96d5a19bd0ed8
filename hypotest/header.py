"""The header of a segment: what can be believed of it. Pure; the layout stands in `segment.py`.

Each part of the identity is there twice, and a checksum tells which one is right; acknowledged and the counters check
themselves; the position, which the hot path stores, is believed as far as it can be.
"""

from __future__ import annotations

import os
import struct
import sys
import time
import zlib

from hypotest import accounts
from hypotest.errors import CorruptFile
from hypotest.interrupts import suppress

SUFFIX = ".seg"
HEADER = 256
ONE = 1 << 40
OFFSET = ONE - 1
POSITION, ACKNOWLEDGED, FINISHED, CREATED, PID, FULL_SIZE, FIRST_SEEN, COUNTERS = range(5, 13)
DONE = int.from_bytes(b"FINISHED", sys.byteorder)
"""The word FINISHED of a finished segment: no flipped bit takes a living writer's segment for one."""
GIVEN_UP = int.from_bytes(b"GIVEN UP", sys.byteorder)
"""The same of a segment whose file was deleted: its writer counts what is lost, nobody else."""
SMALLEST_FRAME = 16

_MAGIC = b"HTSEG001"
_HEAD = struct.Struct("=8sQ16sQQQQQQQQ")
_AGAIN = struct.Struct("=III")
_AGAIN_AT = 224
_SEALED = struct.Struct("=8sQ16sQQ")
_WORDS = struct.Struct(f"={HEADER // 8}Q")
_LARGEST = 1 << 32
_LARGEST_GUESS = 1 << 24  # a header that cannot be read is not believed to be of a larger file
_INSTANCE_DIGITS = 32
_CHECK = 0xFF << 32
_U32 = (1 << 32) - 1


class Identity:
    """Who a segment is: what its writer wrote once, and what the ids of its events are made of."""

    __slots__ = ("full", "instance", "number", "seed")

    def __init__(self, seed: int, instance: bytes, number: int, full: int) -> None:
        self.seed = seed
        self.instance = instance
        self.number = number
        self.full = full

    @property
    def stem(self) -> str:
        """The name of its file, without the suffix."""
        return f"{self.instance.hex()}-{self.number:x}"

    def checksum(self) -> int:
        """Over all of it and the magic: another version's does not fit."""
        return zlib.crc32(_SEALED.pack(_MAGIC, self.seed, self.instance, self.number, self.full))

    def header(self) -> bytes:
        """The header of a new segment of this process."""
        times = int(time.time()), os.getpid()
        head = _HEAD.pack(_MAGIC, self.seed, self.instance, self.number, HEADER, HEADER, 0, *times, self.full, 0)
        return (head.ljust(_AGAIN_AT, b"\0") + self._again()).ljust(HEADER, b"\0")

    def _again(self) -> bytes:
        return _AGAIN.pack(self.seed, self.full // 8, self.checksum())

    def is_damaged(self, header: bytes) -> bool:
        """Whether something in this segment's header is not as it should be, though it could be read."""
        words = _WORDS.unpack(header)
        return (
            header[:40] != _HEAD.pack(_MAGIC, self.seed, self.instance, self.number, *[0] * 7)[:40]
            or words[FULL_SIZE] != self.full
            or header[_AGAIN_AT : _AGAIN_AT + _AGAIN.size] != self._again()
            or position(words[POSITION], self.full) != words[POSITION]
            or with_check(acknowledged(words[ACKNOWLEDGED], self.full)) != words[ACKNOWLEDGED]
            or any(word != counter(count_of(word)) for word in words[COUNTERS : COUNTERS + accounts.SLOTS])
        )


def identify(path: str, header: bytes) -> Identity:
    """Who a segment is, by the first of its copies that fits the checksum.

    Raises:
        CorruptFile: none does: the header is damaged twice, or cut off, or of another version.
    """
    if len(header) == HEADER:
        magic, seed, instance, number, *_, full, _ = _HEAD.unpack_from(header)
        seed_again, eighths, checksum = _AGAIN.unpack_from(header, _AGAIN_AT)
        plain, again = (seed, full), (seed_again, eighths * 8)
        named = _named(path)
        for who in filter(None, ((instance, number), named)):
            for first, last in (plain, again):
                found = Identity(first, *who, last)
                if HEADER <= last <= _LARGEST and found.checksum() == checksum:
                    return found
        if magic == _MAGIC and (instance, number) == named and HEADER <= full <= _LARGEST and seed <= _U32:
            return Identity(seed, instance, number, full)  # the frames will say whether the seed is right
    raise CorruptFile(f"{path} is not a segment of this version")


def _named(path: str) -> tuple[bytes, int] | None:
    """Instance and number by the name of a file."""
    stem = os.path.basename(path).removesuffix(SUFFIX)
    instance, _, number = stem.partition("-")
    with suppress(ValueError):
        found = bytes.fromhex(instance), int(number, 16)
        if len(instance) == _INSTANCE_DIGITS and found[1] >> 64 == 0 and stem == f"{found[0].hex()}-{found[1]:x}":
            return found
    return None


def frames(mark: int) -> int:
    """How many frames a mark counts. It is frames << 40 | the offset behind the last of them."""
    return mark >> 40


def with_check(mark: int) -> int:
    """A mark as the acknowledged word has it."""
    return mark | (zlib.crc32(mark.to_bytes(8, "little")) ^ _CHECK_OF_NOTHING) >> 24 << 32


_CHECK_OF_NOTHING = zlib.crc32(HEADER.to_bytes(8, "little"))


def position(word: int, full: int) -> int:
    """A position as far as it can be: with an offset in the file, and no more frames than fit before it."""
    offset = word & OFFSET
    if not HEADER <= offset <= full or offset % 8:
        return HEADER
    return min(frames(word), (offset - HEADER) // SMALLEST_FRAME) * ONE | offset


def acknowledged(word: int, full: int) -> int:
    """The mark of an acknowledged word; as if nothing was settled if it is damaged."""
    mark = word & ~_CHECK
    return mark if with_check(mark) == word and position(mark, full) == mark else HEADER


def counter(n: int) -> int:
    """A counter's word."""
    return n | (zlib.crc32(n.to_bytes(4, "little")) ^ _CHECK_OF_ZERO) << 32


_CHECK_OF_ZERO = zlib.crc32(bytes(4))


def count_of(word: int) -> int:
    """What a counter's word says, also with a bit of it flipped; 0 if more is wrong with it."""
    n = word & _U32
    if not word or counter(n) == word:
        return n
    near = (n, *(n ^ 1 << bit for bit in range(32)))
    return next((other for other in near if (counter(other) ^ word).bit_count() == 1), 0)


def add(word: int, n: int) -> int:
    """A counter's word with `n` more."""
    return counter(min(count_of(word) + n, _U32))


def counters_of(header: bytes, full: int) -> list[int]:
    """The accounts of a segment, from its header and its size.

    Frames and their fate follow from the two positions. The ACCEPTED slot holds events taken over from a segment that
    was deleted; they are settled, and their drops are among this one's. No more was dropped than was settled.
    """
    words = _WORDS.unpack(header)
    rows = [count_of(word) for word in words[COUNTERS : COUNTERS + accounts.SLOTS]]
    settled = frames(acknowledged(words[ACKNOWLEDGED], full))
    left = rows[accounts.ACCEPTED] + settled
    rows[accounts.ACCEPTED] += max(frames(position(words[POSITION], full)), settled)
    for slot in range(accounts.FIRST_DROP, accounts.SLOTS):
        rows[slot] = min(rows[slot], left)
        left -= rows[slot]
    rows[accounts.DELIVERED] = left
    return rows


def marks_of(header: bytes, full: int) -> tuple[int, int]:
    """Position and acknowledged position, as far as they can be believed."""
    words = _WORDS.unpack(header)
    return position(words[POSITION], full), acknowledged(words[ACKNOWLEDGED], full)


def marks(path: str, header: bytes) -> tuple[int, int]:
    """Position and acknowledged position of any file that should be a segment; a guess where it cannot be read."""
    try:
        return marks_of(header, identify(path, header).full)
    except CorruptFile:
        return guess(header)[:2]


def is_finished(header: bytes) -> bool:
    """Whether the writer adds no more."""
    return int.from_bytes(header[FINISHED * 8 : FINISHED * 8 + 8], sys.byteorder) == DONE


def guess(header: bytes) -> tuple[int, int, list[int]]:
    """Position, acknowledged position and accounts of a segment without a sound identity: what its position claims.

    One event at least: one too many in the accounts is better than one that nobody knows of.
    """
    claimed, settled = map(frames, marks_of(header.ljust(HEADER, b"\0"), _LARGEST_GUESS))
    events = max(1, claimed, settled)
    rows = [0] * accounts.SLOTS
    rows[accounts.ACCEPTED], rows[accounts.DELIVERED] = events, settled
    return events * ONE | HEADER, settled * ONE | HEADER, rows
