"""Where Linux, macOS and their file systems differ: fork detection, preallocation, mappings and what replaces them."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Callable

from hypotest.errors import CorruptFile
from hypotest.interrupts import let_through, suppress

_MADV_WIPEONFORK = 18  # not named in the mmap module
_MADV_POPULATE_WRITE = 23
_MADV_INVALID = 9999
_COPY_ON_WRITE = frozenset({"btrfs", "zfs", "bcachefs", "apfs", "nfs", "nfs4", "cifs", "fuse"})
_MAX_MOUNTINFO = 4 << 20
_ZEROS = bytes(64 << 10)
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

O_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW


def open_own(path: str, flags: int) -> int:
    """Opens a file that only we may have made: a regular one of this user, under no symlink. Never waits.

    The directory is ours, but others may have planted something while its mode was loose: a FIFO would hold the host's
    call for ever, a file of another user be cut under a mapping, or be somebody else's events.

    Raises:
        CorruptFile: it is something else.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, flags | O_SAFE | os.O_NONBLOCK, 0o600)
    except OSError as error:
        let_through(error)
        foreign = False
        with suppress(OSError):
            foreign = not _is_own_file(os.lstat(path))
        if foreign:
            raise CorruptFile(f"{path} is no file of ours") from error
        raise
    if not _is_own_file(os.fstat(fd)):
        os.close(fd)
        raise CorruptFile(f"{path} is no file of ours")
    return fd


def _is_own_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def file_of(found: os.stat_result) -> tuple[int, int]:
    """Which file that is: its device and inode."""
    return found.st_dev, found.st_ino


def is_open_on(fd: int, file: tuple[int, int]) -> bool:
    """Whether a descriptor is still of that file: a host that becomes a daemon closes all, and uses their numbers."""
    try:
        return file_of(os.fstat(fd)) == file
    except OSError as error:
        let_through(error)
        return error.errno != errno.EBADF


class ProcessGuard:
    """Reads 1 in the process that made it and anything else in a child, without a fork hook.

    A private anonymous page with MADV_WIPEONFORK reads zero in a child: one memory read, 30 ns, where `os.getpid()`
    costs 170 ns and a fork hook does not run under uWSGI. Emulators that accept any advice are told by an invalid
    one; where the advice cannot be trusted the pid is compared.
    """

    def __init__(self) -> None:
        self.page: memoryview | PidPage = _wipe_on_fork_page() or PidPage()

    @property
    def alive(self) -> bool:
        """Whether this is still the process that made the guard."""
        return self.page[0] == 1


class PidPage:
    """Reads 1 in the process that made it: for systems without the advice."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int) -> int:
        return int(os.getpid() == self._pid)


def _wipe_on_fork_page() -> memoryview | None:
    if not sys.platform.startswith("linux"):
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_INVALID)
    except (OSError, ValueError) as error:
        let_through(error)
    else:
        return None
    try:
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, ValueError) as error:
        let_through(error)
        return None
    words = memoryview(page).cast("Q")
    words[0] = 1
    return words


# Hazard: before 3.13 a mapping keeps a descriptor of its own, and closes that number in the end, whosever it is then. A
# host that becomes a daemon closes all of them, and uses the numbers again.
_MAPPING: dict[str, bool] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def map_file(fd: int, size: int, *, readable_only: bool = False) -> mmap.mmap:
    """Maps the first `size` bytes of a file, shared.

    Raises:
        OSError: the system cannot.
        ValueError: the file is shorter.
    """
    prot = mmap.PROT_READ if readable_only else mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(fd, size, prot=prot, **_MAPPING)


def preallocate(fd: int, size: int) -> bool:
    """Gives `fd` its disk blocks up to `size` bytes, so that a full disk is an error here and not SIGBUS later.

    And writes each whole 64 KiB of them: where blocks are only reserved, the first write through a mapping costs 3.3 us
    a page; written at once, all of it costs 0.4 (ext4).

    Returns:
        False where the platform cannot.

    Raises:
        OSError: the disk is full, or over a quota or a limit.
    """
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(fd, 0, size)
        os.pwritev(fd, [_ZEROS] * (size // len(_ZEROS)), 0)
    except OSError as error:
        let_through(error)
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def mappable(directory: str) -> bool:
    """Whether a preallocated file of `directory` can be written through a mapping without fear of SIGBUS.

    Not so on copy-on-write and network file systems, where preallocated blocks are allocated anew when written.
    """
    return hasattr(os, "posix_fallocate") and filesystem_type(directory).split(".")[0] not in _COPY_ON_WRITE


def filesystem_type(directory: str) -> str:
    """The type of the file system that holds `directory`, from the mount table; "" where there is none.

    By path, not by device number: a btrfs subvolume has a number of its own that the table does not name.
    """
    best, found = "", ""
    path = os.path.realpath(directory) + "/"
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.read(_MAX_MOUNTINFO).splitlines()
        for line in lines:
            before, _, after = line.partition(" - ")
            point = before.split()[4].replace("\\040", " ").rstrip("/") + "/"
            if path.startswith(point) and len(point) >= len(best):
                best, found = point, after.split()[0]
    return found


def populate(mapping: mmap.mmap) -> None:
    """Touches every page of `mapping` now, so that no append waits for a page fault later."""
    with suppress(OSError, ValueError, AttributeError):
        mapping.madvise(_MADV_POPULATE_WRITE)


def pread(fd: int, size: int, offset: int) -> bytes:
    """What a file has there: less than `size` only at its end.

    Raises:
        OSError: it cannot be read.
    """
    found = os.pread(fd, size, offset)
    if len(found) != size and os.fstat(fd).st_size >= offset + size:
        raise OSError(errno.EIO, "short read")  # what is there must not be taken for damaged, or for zeros
    return found


class FileBytes:
    """The slices of a file, by pread and pwrite: what a mapping is elsewhere, without its SIGBUS on a full disk."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = file_of(os.fstat(fd))

    def disown(self) -> None:
        """Makes each further read and write fail."""
        self._fd = -1

    def __getitem__(self, part: slice) -> bytes:
        wanted = part.stop - part.start
        found = pread(self._fd, wanted, part.start)
        if len(found) != wanted:
            found = found.ljust(wanted, b"\0")
        return found

    def __setitem__(self, part: slice, data: bytes) -> None:
        if not is_open_on(self._fd, self._file):
            raise OSError(errno.EBADF, "the descriptor is another file's")
        written = os.pwrite(self._fd, data, part.start)
        if not written:
            raise OSError(errno.ENOSPC, "short write: the disk is full")
        if written != len(data):  # the rest tells why
            self[part.start + written : part.stop] = data[written:]


class FileWords:
    """The u64 words of a file, by pread and pwrite."""

    def __init__(self, data: FileBytes) -> None:
        self._data = data

    def __getitem__(self, index: int) -> int:
        return int.from_bytes(self._data[index * 8 : index * 8 + 8], sys.byteorder)

    def __setitem__(self, index: int, value: int) -> None:
        self._data[index * 8 : index * 8 + 8] = value.to_bytes(8, sys.byteorder)


def sync_data(fd: int) -> None:
    """Forces the data of `fd` to the disk; those of a directory are its names."""
    # Not fdatasync for a directory: on ext4 a new name is no data.
    is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    (os.fsync if is_directory else getattr(os, "fdatasync", os.fsync))(fd)


def sync_names(directory: str, sync: Callable[[int], None] = sync_data) -> None:
    """Forces to the disk which files a directory has."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | O_SAFE)
    try:
        sync(fd)
    finally:
        os.close(fd)


def directory_size(path: str) -> int:
    """The bytes of the files in a directory, some of which may go while we look; 0 if it is gone itself."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
