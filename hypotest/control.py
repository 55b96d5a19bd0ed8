"""The control page: one 4096-byte file that every process of a namespace maps.

Written by the leader only, but for `kick`, which anyone may change to wake it, the last refusal, and `said`.

    offset  size  what
    0       8     magic "HTCTRL01"
    8       8     epoch: how many leaders there have been
    16      8     generation of the settings snapshot in force; 0 = none yet
    24      8     leader's pid, for people; 0 = signed off. Nothing is decided by it
    32      8     heartbeat: changes while the leader lives
    40      8     kick: any change asks the leader to send now
    48      8     settings time: Unix time of the last answer of the server to a poll, s
    56      8     bytes in the spool as the leader last saw it
    64      8     polls made
    72      8     lived: seconds that leaders have been at work, by their monotonic clocks
    80      8     sends made
    88      8     the leader's pid namespace, by its inode; 0 = unknown. Only there its pid means anything
    96      8     the generation again, all bits inverted: tells a damaged one
    104     8     the last refusal for want of room, by any process: Unix time, s << 8 | slot of the reason
    1024    512   the last error, as text:              u32 length | u32 crc32 | UTF-8
    1536    1024  the leader's configuration, as JSON:  u32 length | u32 crc32 | UTF-8
    2560    128   said: when any process last logged a line that repeats, then the same by kind: Unix time, s
    3072    512   accounts, copy A     u64 sequence | 9 names of 40 bytes | 16 x u64 counters | u64 crc32
    3584    512   accounts, copy B     of a sector each: a power cut tears one at most

Where a store through a mapping may be SIGBUS on a full disk it is read through one, and written by `pwrite`.

Words are u64 in the machine's byte order and stored by one aligned assignment, which no reader sees torn
(struct.pack_into would be: 14 to 22 % of concurrent reads saw a zero). Of the two copies of the accounts the valid one
with the higher sequence counts. It names the nine segments that were folded in last: to fold one of them again changes
nothing. Nine, so that one sync of the directory serves as many deletions. At rest both are the same: no damage
to one of them loses a count.

A page that is too short, too long or without its magic is made anew, with the accounts if one of their copies is sound;
what was there goes to quarantine/control. The other words are for people, or are written again within a second or
a poll: a damaged one misleads no longer than that, and none stops anybody.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence

from hypotest import accounts, interrupts, log, platform
from hypotest.errors import CorruptFile, StorageError

NAME = "control"
SIZE = 4096
MAGIC = int.from_bytes(b"HTCTRL01", "little")

EPOCH, GENERATION, LEADER_PID, HEARTBEAT, KICK, SETTINGS_TIME = range(1, 7)
SPOOL_BYTES, POLLS, LIVED, SENDS, LEADER_SPACE, GENERATION_INVERTED, REFUSAL = range(7, 14)

NAMES = 9
_NAME = 40
_ACCOUNTS = struct.Struct(f"=Q{NAMES * _NAME}s{accounts.SLOTS}Q")
_COPIES = (3072, 3584)
_TEXT = struct.Struct("=II")
LAST_ERROR = (1024, 512)
LEADER_CONFIG = (1536, 1024)

KINDS = (
    *("server", "settings", "refused", "unready", "vacant", "election", "loop", "campaign", "thread", "neighbours"),
    "problems",
)
"""The lines about the host's state that every process of it could repeat: append, never reorder."""
_SAID = 2560 // 8
_PACE, _NEWS = 90, 600
_ATTEMPTS = 10
_KICK_EVERY = 1.0
_REFUSING_FOR = 60.0
_DRAFT, _DRAFT_AGE = ".control-", 60.0
_U64 = (1 << 64) - 1


class _Stores:
    """Stores into the page's file where one through a mapping may be SIGBUS on a full disk: see `platform.mappable`.

    Rare ones, so that no descriptor is kept: a host may close it, and use its number.
    """

    def __init__(self, path: str, file: tuple[int, int]) -> None:
        self._path = path
        self._file = file

    def put(self, offset: int, data: bytes) -> None:
        """Writes `data` there.

        Raises:
            OSError: the disk is full, or the path names another page by now.
        """
        fd = platform.open_own(self._path, os.O_RDWR)
        try:
            if platform.file_of(os.fstat(fd)) != self._file:
                raise OSError(errno.ESTALE, "the control page was replaced")
            if os.pwrite(fd, data, offset) != len(data):
                raise OSError(errno.ENOSPC, "short write: the disk is full")
        finally:
            os.close(fd)


class _StoredWords:
    """The page's words where they are not stored through the mapping. On a full disk one stays as it was."""

    def __init__(self, words: memoryview, stores: _Stores) -> None:
        self._words = words
        self._stores = stores

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        with interrupts.suppress(OSError):
            self._stores.put(8 * index, value.to_bytes(8, sys.byteorder))


class ControlPage:
    """One process's mapping of the control page.

    Attributes:
        words: the page as u64 words, indexed by the constants of this module.
        mapped: whether it is written through the mapping, as files of this directory may be.
    """

    def __init__(self, directory: str, fd: int) -> None:
        """Maps `fd`, an open descriptor of the page, and takes it over.

        Raises:
            CorruptFile: the file is not a control page of this version.
            OSError: it cannot be read.
        """
        # No __del__: what a signal handler of the host raises in one is lost. The last reference to the mapping gives
        # all back; while it is mapped, no other file gets its inode.
        self._path = f"{directory}/{NAME}"
        try:
            found = os.fstat(fd)
            magic = os.pread(fd, 8, 0)
            if len(magic) < min(found.st_size, 8):
                raise OSError(errno.EIO, "short read")  # a page that is replaced takes the accounts along
            if found.st_size != SIZE or magic != MAGIC.to_bytes(8, "little"):
                raise CorruptFile(f"{self._path} is not a control page of this version")
            self.mapped = platform.mappable(directory)
            self._map = platform.map_file(fd, SIZE, readable_only=not self.mapped)
        finally:
            os.close(fd)
        self._file = platform.file_of(found)
        self._stores = _Stores(self._path, self._file)
        words = memoryview(self._map).cast("Q")
        self.words: memoryview | _StoredWords = words if self.mapped else _StoredWords(words, self._stores)

    def sync(self, sync_data: Callable[[int], None]) -> None:
        """Forces the page to the disk.

        Raises:
            OSError: it cannot be opened, or the disk fails.
        """
        fd = platform.open_own(self._path, os.O_RDONLY)
        try:
            sync_data(fd)
        finally:
            os.close(fd)

    def replaced(self) -> bool:
        """Whether the file that its path names is no longer the one mapped here."""
        try:
            named = os.stat(self._path)
        except OSError as error:
            interrupts.let_through(error)
            return True
        return platform.file_of(named) != self._file

    def kick(self) -> None:
        """Wakes the leader."""
        self.words[KICK] = int.from_bytes(os.urandom(8), "little")

    def turn(self, kind: str, every: float) -> bool:
        """Whether it is time for a line of this kind, over all processes of the host; if so, it counts as said.

        A kind of which nothing was heard for ten minutes is news. What repeats shares one line in 90 seconds, so that
        a host with any number of workers, and several troubles at once, stays below one a minute.
        """
        now, own = int(time.time()), _SAID + 1 + KINDS.index(kind)
        any_ago, own_ago = now - self.words[_SAID], now - self.words[own]  # below 0: the clock was set back
        if 0 <= own_ago < every or (0 <= own_ago < _NEWS and 0 <= any_ago < _PACE):
            return False
        self.words[_SAID] = self.words[own] = now
        return True

    def unsaid(self, kind: str) -> None:
        """Makes the next line of this kind news: another process says it, maybe in another log."""
        self.words[_SAID + 1 + KINDS.index(kind)] = 0

    def tell_refusal(self, reason: str) -> None:
        """Writes down that an event was refused just now: on a full disk, no file has room for that."""
        self.words[REFUSAL] = int(time.time()) << 8 | accounts.refusal_slot(reason)

    def refusing(self) -> str:
        """The reason of the last refusal for want of room, if that was within a minute; else ""."""
        at, slot = divmod(self.words[REFUSAL], 1 << 8)
        known = dict(zip(range(accounts.FIRST_REFUSAL, accounts.SLOTS), accounts.REFUSALS, strict=False))
        return known.get(slot, "") if 0 <= time.time() - at < _REFUSING_FOR else ""

    def add(self, word: int, n: int = 1) -> None:
        """Adds to a word, modulo 2**64: a damaged one may have any value, and stops nobody."""
        self.words[word] = self.words[word] + n & _U64

    def generation(self) -> int | None:
        """The generation in force; None if that word is damaged, or is just being stored."""
        generation = self.words[GENERATION]
        return generation if generation ^ _U64 == self.words[GENERATION_INVERTED] else None

    def set_generation(self, generation: int) -> None:
        """Puts a generation in force."""
        self.words[GENERATION] = generation
        self.words[GENERATION_INVERTED] = generation ^ _U64  # who looks before that takes the newest file: this one

    def accounts(self) -> tuple[tuple[str, ...], list[int]]:
        """The names of the segments that were folded in last, oldest first, and the counts of all that ever were."""
        # One copy after the other: a reader held up in between may have an old first and a torn second one.
        newest = self._newest()
        for _ in range(_ATTEMPTS):
            before, newest = newest, self._newest()
            if before == newest:
                break
        _, names, counters = newest
        return names, counters

    def _newest(self) -> tuple[int, tuple[str, ...], list[int]]:
        return max(self._copy(offset) for offset in _COPIES)

    def _copy(self, offset: int) -> tuple[int, tuple[str, ...], list[int]]:
        raw = self._map[offset : offset + _ACCOUNTS.size]
        stored = self.words[(offset + _ACCOUNTS.size) // 8]
        sequence, names, *counters = _ACCOUNTS.unpack(raw)
        if not sequence or stored != zlib.crc32(raw):
            return 0, (), [0] * accounts.SLOTS
        found = (names[at : at + _NAME].rstrip(b"\0") for at in range(0, len(names), _NAME))
        return sequence, tuple(name.decode("ascii", "replace") for name in found if name), counters

    def fold(self, segment: str, counters: Sequence[int]) -> None:
        """Adds a finished segment's counts, once: one of the last NAMES segments a second time changes nothing.

        The caller unlinks the segment before it folds the next one, and has seen to it that not even a power cut
        brings back one that is named no longer. Without a name, counts are added in any case.

        Raises:
            OSError: on a full disk where the page is not written through a mapping.
        """
        (a, *_), (b, *_) = (self._copy(offset) for offset in _COPIES)
        last, totals = self.accounts()
        if segment in last:
            return
        kept = (*last[1 - NAMES :], segment) if segment else last
        names = b"".join(name.encode().ljust(_NAME, b"\0") for name in kept)
        raw = _ACCOUNTS.pack(max(a, b) + 1, names, *accounts.add([totals, counters]))
        for offset in _COPIES if a <= b else reversed(_COPIES):  # the older one first
            crc = (offset + _ACCOUNTS.size) // 8
            if self.mapped:
                self.words[crc] = 0
                self._map[offset : offset + _ACCOUNTS.size] = raw
                self.words[crc] = zlib.crc32(raw)  # publish last
            else:  # in one go, or not at all: the other copy stays
                self._stores.put(offset, raw + zlib.crc32(raw).to_bytes(8, sys.byteorder))

    def text(self, area: tuple[int, int]) -> str:
        """The text of LAST_ERROR or LEADER_CONFIG; "" if there is none or it is just being written."""
        offset, _ = area
        length, crc = _TEXT.unpack(self._map[offset : offset + _TEXT.size])
        raw = self._map[offset + _TEXT.size : offset + area[1]][:length]
        return raw.decode("utf-8", "replace") if length and zlib.crc32(raw) == crc else ""

    def set_text(self, area: tuple[int, int], text: str) -> None:
        """Writes LAST_ERROR or LEADER_CONFIG, cut to what fits."""
        offset, size = area
        raw = text.encode("utf-8", "replace")[: size - _TEXT.size]
        data = _TEXT.pack(len(raw), zlib.crc32(raw)) + raw
        if self.mapped:
            self._map[offset : offset + len(data)] = data
        else:
            with interrupts.suppress(OSError):
                self._stores.put(offset, data)


class Kicks:
    """Wakes the leader again and again: one that is in trouble does not listen to every kick."""

    def __init__(self, page: ControlPage) -> None:
        self._page = page
        self._due = 0.0

    def __call__(self) -> None:
        """Wakes it, if the last time was a second ago or more."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _KICK_EVERY
            self._page.kick()


def open_control(directory: str, generation: int = 0) -> ControlPage:
    """Opens the control page of a namespace, making it if there is none and replacing one that is damaged.

    Args:
        directory: the namespace's directory.
        generation: that of the newest valid snapshot, for a page that has to be made.

    Raises:
        StorageError: it can be neither opened nor made.
    """
    path = f"{directory}/{NAME}"
    try:
        for _ in range(3):
            try:
                return ControlPage(directory, platform.open_own(path, os.O_RDWR))
            except FileNotFoundError as error:
                interrupts.let_through(error)
                _create(directory, generation, os.link)
            except CorruptFile:
                log.limited(log.ERROR, "page", "the control page is damaged and made anew: %s", path)
                _create(directory, generation, os.replace, _set_aside(directory))
    except OSError as error:
        interrupts.let_through(error)
        raise StorageError(f"{path} cannot be used: {error.strerror or error}") from error
    raise StorageError(f"{path} is replaced again and again")


def open_existing(directory: str) -> ControlPage | None:
    """The control page of a namespace if it has a sound one; makes nothing."""
    try:
        return ControlPage(directory, platform.open_own(f"{directory}/{NAME}", os.O_RDWR))
    except OSError as error:
        interrupts.let_through(error)
        return None


def _set_aside(directory: str) -> bytes:
    """Gives a damaged page a second name in quarantine/, instead of the one before it, and returns its accounts."""
    path, aside = f"{directory}/{NAME}", f"{directory}/quarantine/{NAME}"
    with interrupts.suppress(OSError):
        with interrupts.suppress(FileNotFoundError):
            os.unlink(aside)
        os.link(path, aside, follow_symlinks=False)
    start, end = _COPIES[0], _COPIES[-1] + _ACCOUNTS.size + 8
    with interrupts.suppress(CorruptFile, FileNotFoundError):
        fd = platform.open_own(path, os.O_RDONLY)
        try:
            kept, size = os.pread(fd, end - start, start), os.fstat(fd).st_size
        finally:
            os.close(fd)
        if len(kept) < min(size, end) - start:
            raise OSError(errno.EIO, "short read")
        return kept
    return b""


def _create(directory: str, generation: int, publish: Callable[[str, str], None], kept: bytes = b"") -> None:
    # Whole before it has its name; os.link fails if another process was faster, which is as good.
    draft = f"{directory}/{_DRAFT}{os.urandom(8).hex()}"
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | platform.O_SAFE, 0o600)
    try:
        page = bytearray(SIZE)
        page[0:8] = MAGIC.to_bytes(8, "little")
        page[GENERATION * 8 : GENERATION * 8 + 8] = generation.to_bytes(8, sys.byteorder)
        inverted = GENERATION_INVERTED * 8
        page[inverted : inverted + 8] = (generation ^ _U64).to_bytes(8, sys.byteorder)
        page[_COPIES[0] : _COPIES[0] + len(kept)] = kept  # they have their own checksums
        if os.write(fd, page) != SIZE:
            raise StorageError(f"{draft}: short write, the disk is full")
        with interrupts.suppress(FileExistsError):
            publish(draft, f"{directory}/{NAME}")
    finally:
        os.close(fd)
        with interrupts.suppress(OSError):
            os.unlink(draft)


def sweep_drafts(directory: str) -> None:
    """Removes what processes left that were killed while they made the page; from time to time, by the leader."""
    with interrupts.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with interrupts.suppress(OSError):
                if entry.name.startswith(_DRAFT) and time.time() - entry.stat().st_mtime > _DRAFT_AGE:
                    os.unlink(entry.path)
