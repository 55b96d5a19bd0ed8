"""Settings snapshots: immutable files `settings-<generation>.snap`, mapped by every worker, read one record at a time.

    offset   size   what
    0        8      magic "HTSNAP02"
    8        8      generation
    16       8      published: Unix time, s
    24       8      count of records, n; of slots as well
    32       8      size of the file
    40       16     digest of all names and records: tells unchanged settings
    56       4      crc32 of bytes 64 to the end
    60       4      crc32 of bytes 0 to 60
    64       16 n   slots: u64 offset of what is in it | u32 size of that | u32 crc32
    ...             what is in a slot: records, u32 length of name | u32 length of data | name | data

The slot of a name is the first 64 bits of its murmur3 x64, modulo n: on average there is one record in each. The crc32
of a slot is that of u64 number of the slot | offset | size | what is in it, begun with the crc32 of bytes 0 to 56: it
fits no other slot and no other file, such as one whose blocks come back after a power cut.

A snapshot is never modified: new file, checksum, rename, then one aligned store of its generation in the control page,
which every worker reads at every call. A worker reads the header, and a slot when an experiment in it is first asked
for: time and memory go by what it uses, not by what there is. The newest two files are kept.

Damage. Each byte is under a checksum: a damaged header makes the file unreadable, a damaged slot the experiments in it
(one or two mostly), and those that would be if they were defined. The settings in use then stay, or the newest sound
file is used; so it is if the generation in force is damaged. The leader reads all of the file at each poll, without the
interpreter's lock, and publishes the settings anew if something is wrong with it.

Not promised: a file that is truncated while a process has it mapped (SIGBUS).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator

import mmh3

from hypotest import interrupts, platform
from hypotest.control import GENERATION, ControlPage
from hypotest.errors import CorruptFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hypotest.assignment import Experiment

MAGIC = b"HTSNAP02"
HEAD = struct.Struct("=8sQQQQ16s")
CRC = struct.Struct("=I")
SLOT = struct.Struct("=QII")
PLACE = struct.Struct("=QQI")
LENGTHS = struct.Struct("=II")
INDEX = 64
_PREFIX, _SUFFIX = "settings-", ".snap"
_ATTEMPTS = 3
_MOST_MISSED, _LONG = 1000, 200  # names without an experiment that are remembered, and characters of one
_MOST_DIGITS = 18  # of a generation: it has to fit its word in the control page


class Snapshot:
    """One mapped snapshot file.

    Attributes:
        generation: that of the settings in it.
        digest: of their content.
        count: how many records it has.
    """

    def __init__(self, path: str) -> None:
        """Maps it and checks the header.

        Raises:
            OSError: it is gone.
            CorruptFile: it is damaged.
        """
        fd = platform.open_own(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size < INDEX:
                raise CorruptFile(f"{path} is too short")
            self._map = platform.map_file(fd, size, readable_only=True)
        finally:
            os.close(fd)
        head = self._map[:INDEX]
        magic, self.generation, self.published, self.count, total, self.digest = HEAD.unpack_from(head)
        if magic != MAGIC or total != size or INDEX + SLOT.size * self.count > size:
            raise CorruptFile(f"{path} is not a whole snapshot of this version")
        self._seed = zlib.crc32(head[: HEAD.size])
        (self._rest,) = CRC.unpack_from(head, HEAD.size)
        if zlib.crc32(head[HEAD.size : -CRC.size], self._seed) != CRC.unpack_from(head, INDEX - CRC.size)[0]:
            raise CorruptFile(f"{path} is damaged")

    def get(self, name: str) -> bytes | None:
        """The record of `name`, None if there is none.

        Raises:
            CorruptFile: the slot that it is in, or would be, is damaged.
        """
        if not self.count:
            return None
        key = name.encode("utf-8", "surrogatepass")
        return next((data for found, data in self._slot(name_hash(key) % self.count) if found == key), None)

    def names(self) -> list[str]:
        """The names of all records."""
        slots = map(self._slot, range(self.count))
        return sorted(name.decode("utf-8", "surrogatepass") for slot in slots for name, _ in slot)

    def check(self) -> None:
        """Reads all of it.

        Raises:
            CorruptFile: it is damaged.
        """
        with memoryview(self._map) as everything, everything[INDEX:] as rest:
            if zlib.crc32(rest) != self._rest:
                raise CorruptFile("the settings file is damaged")

    def _slot(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """The names and data of the records in a slot."""
        offset, size, crc = SLOT.unpack_from(self._map, INDEX + SLOT.size * number)
        records = self._map[offset : offset + size]
        if slot_crc(self._seed, number, offset, records) != crc or len(records) != size:
            raise CorruptFile("a slot of the settings is damaged")
        at = 0
        while at < size:
            name_length, data_length = LENGTHS.unpack_from(records, at)
            data = at + LENGTHS.size + name_length
            at = data + data_length
            yield records[data - name_length : data], records[data:at]


def slot_crc(seed: int, number: int, offset: int, records: bytes) -> int:
    """The checksum of a slot, in a file whose header begins with what has the checksum `seed`."""
    return zlib.crc32(records, zlib.crc32(PLACE.pack(number, offset, len(records)), seed))


def name_hash(name: bytes) -> int:
    """What the slot of a name goes by: the first 64 bits of its murmur3 x64 128-bit hash."""
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
        self.decoded: dict[str, Experiment | None] = {}


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
            former: what is served until the directory has settings again, if those it had were deleted.
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
            SettingsError: it is no record of this version.
        """
        view = self._view
        if self._words[GENERATION] != view.generation:
            view = self._refresh()
        try:
            return view.decoded[name]
        except (KeyError, TypeError):  # the latter for what is no name at all
            pass
        return self._load(view, name) if type(name) is str else None

    def _load(self, view: _View, name: str) -> Experiment | None:
        if view.snapshot is None:
            return None
        record = view.snapshot.get(name)
        if record is not None:
            return view.decoded.setdefault(name, self._decode(record))
        if len(view.decoded) < view.snapshot.count + _MOST_MISSED and len(name) < _LONG:
            view.decoded[name] = None  # code outlives its experiment: the slot of one may be large, and is read whole
        return None

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
