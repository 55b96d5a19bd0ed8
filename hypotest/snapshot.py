"""Settings snapshots: immutable files `settings-<generation>.snap`, mapped by every worker, read one record at a time.

    offset      size       what
    0           8          magic "HTSNAP01"
    8           8          generation
    16          8          published: Unix time, s
    24          8          count of records, n
    32          8          size of the file
    40          16         digest of all names and records: tells unchanged settings
    56          8          crc32 of bytes 0 to 56 and of the index
    64          8 n        hashes of the names (murmur3 x64, first 64 bits), ascending
    64 + 8 n    8 n        offsets of the records, in the same order
    ...                    records: u32 crc32 of the rest | u32 length of name | u32 length of data | name | data

A snapshot is never modified: new file, checksum, rename, then one aligned store of its generation in the control page,
which every worker reads at every call. A worker decodes an experiment when it is first asked for, so 10,000 experiments
cost it what it uses. The newest two files are kept.

Damage. Each byte is under a checksum: a damaged index makes the file unreadable, a damaged record that experiment. The
settings in use then stay, or the newest sound file is used; so it is if the generation in force is damaged. The leader
reads all of the file at each poll, and publishes the settings anew if something is wrong with it.

Not promised: a file that is truncated while a process has it mapped (SIGBUS).
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable

import mmh3

from hypotest import interrupts, platform
from hypotest.control import GENERATION, ControlPage
from hypotest.errors import CorruptFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hypotest.assignment import Experiment

MAGIC = b"HTSNAP01"
HEAD = struct.Struct("=8sQQQQ16s")
CRC = struct.Struct("=Q")
RECORD = struct.Struct("=III")
LENGTHS = struct.Struct("=II")
INDEX = 64
_PREFIX, _SUFFIX = "settings-", ".snap"
_ATTEMPTS = 3
_MOST_DIGITS = 18  # of a generation: it has to fit its word in the control page


class Snapshot:
    """One mapped snapshot file.

    Attributes:
        generation: that of the settings in it.
        digest: of their content.
        count: how many records it has.
    """

    def __init__(self, path: str) -> None:
        """Maps and checks header and index.

        Raises:
            OSError: it is gone.
            CorruptFile: it is damaged.
        """
        fd = platform.open_own(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size < INDEX:
                raise CorruptFile(f"{path} is too short")
            self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        magic, self.generation, self.published, self.count, total, self.digest = HEAD.unpack(self._map[: HEAD.size])
        end = INDEX + 16 * self.count
        if magic != MAGIC or total != size or end > size:
            raise CorruptFile(f"{path} is not a whole snapshot of this version")
        (crc,) = CRC.unpack(self._map[HEAD.size : INDEX])
        if zlib.crc32(self._map[INDEX:end], zlib.crc32(self._map[: HEAD.size])) != crc:
            raise CorruptFile(f"{path} is damaged")
        index = memoryview(self._map)[INDEX:end].cast("Q")
        self._hashes, self._offsets = index[: self.count], index[self.count :]

    def get(self, name: str) -> bytes | None:
        """The record of `name`, None if there is none.

        Raises:
            CorruptFile: the record is damaged.
        """
        key = name.encode("utf-8", "surrogatepass")
        wanted = name_hash(key)
        at = bisect_left(self._hashes, wanted)
        while at < self.count and self._hashes[at] == wanted:
            found, data = self._record(self._offsets[at])
            if found == key:
                return data
            at += 1
        return None

    def names(self) -> list[str]:
        """The names of all records."""
        return sorted(self._record(offset)[0].decode("utf-8", "surrogatepass") for offset in self._offsets)

    def check(self) -> None:
        """Reads every record.

        Raises:
            CorruptFile: one is damaged.
        """
        for offset in self._offsets:
            self._record(offset)

    def _record(self, offset: int) -> tuple[bytes, bytes]:
        head = self._map[offset : offset + RECORD.size]
        if len(head) != RECORD.size:
            raise CorruptFile("a settings record is out of the file")
        crc, name_length, data_length = RECORD.unpack(head)
        start = offset + RECORD.size
        both = self._map[start : start + name_length + data_length]
        # With the lengths: of zeros alone, which an unsynced file may have, the checksum is not zero.
        if len(both) != name_length + data_length or zlib.crc32(both, zlib.crc32(head[4:])) != crc:
            raise CorruptFile("a settings record is damaged")
        return both[:name_length], both[name_length:]


def name_hash(name: bytes) -> int:
    """The index key of a name: the first 64 bits of its murmur3 x64 128-bit hash."""
    return int(mmh3.hash64(name, signed=False)[0])


def snapshot_path(directory: str, generation: int) -> str:
    """The file of a generation."""
    return f"{directory}/{_PREFIX}{generation}{_SUFFIX}"


def generations(directory: str) -> list[int]:
    """The generations that have a file in `directory`, newest first."""
    found = []
    for name in os.listdir(directory):
        number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        sound = number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
        if name == f"{_PREFIX}{number}{_SUFFIX}" and sound:
            found.append(int(number))
    return sorted(found, reverse=True)


def open_snapshot(directory: str, generation: int) -> Snapshot:
    """The snapshot of a generation.

    Raises:
        OSError: it is gone.
        CorruptFile: it is damaged, or another one under that name.
    """
    found = Snapshot(snapshot_path(directory, generation))
    if found.generation != generation:
        raise CorruptFile(f"generation {generation} is another one under that name")
    return found


def open_newest(directory: str, generation: int | None = None) -> Snapshot | None:
    """The snapshot of `generation`; if it is damaged, gone or not given, the newest sound one."""
    order = ([generation] if generation else []) + generations(directory)
    for number in order:
        with interrupts.suppress(OSError):
            return open_snapshot(directory, number)
    return None


class _View:
    __slots__ = ("decoded", "generation", "snapshot")

    def __init__(self, generation: int, snapshot: Snapshot | None) -> None:
        self.generation = generation
        self.snapshot = snapshot
        self.decoded: dict[str, Experiment] = {}


class Reader:
    """The settings in force, as one worker sees them."""

    def __init__(
        self,
        directory: str,
        page: ControlPage,
        decode: Callable[[bytes], Experiment],
        former: Snapshot | None = None,
    ) -> None:
        """Maps nothing yet.

        Args:
            directory: the namespace's directory.
            page: its control page.
            decode: makes an experiment of a record; called once for each record and generation.
            former: what is served until the directory has settings, which were deleted.
        """
        self._directory = directory
        self._page = page
        self._words = page.words
        self._decode = decode
        self._view: _View = _View(-1, former)

    def held(self, directory: str) -> Snapshot | None:
        """The settings that this reader serves, if they are of that directory."""
        return self._view.snapshot if directory == self._directory else None

    @property
    def generation(self) -> int:
        """The generation read last; 0 before any settings have arrived."""
        snapshot = self._view.snapshot
        return snapshot.generation if snapshot else 0

    def ready(self) -> bool:
        """Whether there are settings, of whatever age."""
        if self._words[GENERATION] != self._view.generation:
            self._refresh()
        return self._view.snapshot is not None

    def retry(self) -> bool:
        """Tries again to read a generation that could not be read; from time to time, not from the hot path.

        Returns:
            Whether the generation in force is the one that is read.
        """
        if self.generation != self._words[GENERATION]:
            self._refresh()
        return self._words[GENERATION] in (0, self.generation)

    def get(self, name: str) -> Experiment | None:
        """The experiment of that name in the settings in force; None if it is not defined or none have arrived.

        Raises:
            CorruptFile: its record is damaged.
        """
        view = self._view
        if self._words[GENERATION] != view.generation:
            view = self._refresh()
        found = view.decoded.get(name)
        return found if found is not None else self._load(view, name)

    def _load(self, view: _View, name: str) -> Experiment | None:
        record = view.snapshot.get(name) if view.snapshot is not None else None
        if record is None:
            return None
        return view.decoded.setdefault(name, self._decode(record))

    def _refresh(self) -> _View:
        """Turns to the generation in force; stays with the present settings if that cannot be read."""
        for _ in range(_ATTEMPTS):
            generation = self._words[GENERATION]
            sound = self._page.generation() == generation
            if not generation or not sound:
                break
            with interrupts.suppress(OSError):
                self._view = _View(generation, open_snapshot(self._directory, generation))
                return self._view
            if self._words[GENERATION] == generation:
                break
        # Damaged or gone. An older settings file beats none; this generation is not tried again at every call.
        before = self._view
        stale: _View = _View(generation, before.snapshot)
        stale.decoded = before.decoded
        if not sound or (before.snapshot is None and generation):
            with interrupts.suppress(OSError):
                newest = open_newest(self._directory)
                if newest is not None and (before.snapshot is None or newest.generation > before.snapshot.generation):
                    stale.snapshot, stale.decoded = newest, {}
        self._view = stale
        return stale
