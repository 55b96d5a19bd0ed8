"""Where operating and file systems differ."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path

import pytest

from hypotest import platform
from hypotest.platform import ProcessGuard
from tests.namespace import run_python

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's mount table")
GUARD = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from hypotest import platform
if sys.argv[1] == "pid":
    platform._wipe_on_fork_page = lambda: None
guard = platform.ProcessGuard()
"""


@pytest.mark.parametrize("kind", ["page", "pid"])
def test_the_guard_tells_a_child(kind: str) -> None:
    """A guard is alive in the process that made it, and in no child or grandchild, with a page or without."""
    child = """
def ask():
    pid = os.fork()
    if not pid:
        if guard.alive or guard.page[0] == 1:
            os._exit(1)
        fresh = platform.ProcessGuard()
        pid = os.fork()
        if not pid:
            os._exit(int(guard.alive or fresh.alive))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or int(not fresh.alive))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(guard.alive, ask(), ask(), guard.alive, type(guard.page).__name__)
"""
    alive, first, second, still, page = run_python(GUARD + child, kind).split()
    assert (alive, first, second, still) == ("True", "0", "0", "True")
    if kind == "pid" or sys.platform == "linux":
        assert page == {"page": "memoryview", "pid": "PidPage"}[kind]


@linux
def test_the_guard_needs_no_fork_hook() -> None:
    """A child forked behind Python's back, as by uWSGI, is told as well."""
    child = """
import ctypes
pid = ctypes.CDLL(None).fork()
if not pid:
    os._exit(int(guard.alive))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), guard.alive)
"""
    assert run_python(GUARD + child, "page") == "0 True\n"


def test_preallocate(tmp_path: Path) -> None:
    """A preallocated file has its size and its blocks."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        if platform.preallocate(fd, 1 << 20):
            found = os.fstat(fd)
            assert found.st_size == 1 << 20
            assert found.st_blocks * 512 >= 1 << 20
            platform.sync_data(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_preallocate(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the file system cannot, that is no error; anything else is one."""

    def cannot(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert not platform.preallocate(0, 1)
    number = errno.ENOSPC
    with pytest.raises(OSError, match="no"):
        platform.preallocate(0, 1)
    monkeypatch.delattr(os, "posix_fallocate")
    assert not platform.preallocate(0, 1)
    assert not platform.mappable("/")


@linux
def test_the_file_system_of_a_directory() -> None:
    """The type is that of the mount a path is on, the innermost and last one."""
    assert platform.filesystem_type("/proc") == "proc"
    assert platform.filesystem_type("/proc/self") == "proc"
    assert platform.filesystem_type("/") != ""


TABLE = r"""
22 1 0:20 / / rw - ext4 /dev/vda rw
23 22 0:21 / /data rw shared:1 - btrfs /dev/vdb rw
24 22 0:22 / /data/sub\040dir rw - xfs /dev/vdc rw
25 22 0:23 / /over rw - ext4 /dev/vdd rw
26 22 0:24 / /over rw - fuse.sshfs host rw
garbage
"""


@linux
@pytest.mark.parametrize(
    ("path", "kind", "mappable"),
    [
        ("/srv", "ext4", True),
        ("/database", "ext4", True),
        ("/data/x", "btrfs", False),
        ("/data/sub dir/x", "xfs", True),
        ("/over/x", "fuse.sshfs", False),
    ],
)
def test_the_mount_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str, mappable: bool) -> None:
    """Paths are matched by whole components, the last mount on a point counts, and copy-on-write is not mapped."""
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.strip("\n"))
    monkeypatch.setattr(platform, "open", lambda _, **more: table.open(**more), raising=False)
    assert platform.filesystem_type(path) == kind
    assert platform.mappable(path) is mappable


def test_populate() -> None:
    """Touching the pages changes nothing in them, and a mapping that cannot is no error."""
    page = mmap.mmap(-1, mmap.PAGESIZE * 4)
    platform.populate(page)
    assert page[:] == bytes(mmap.PAGESIZE * 4)
    page.close()
    platform.populate(page)


def test_a_guard_in_one_process() -> None:
    """Making guards costs no descriptor."""
    before = len(os.listdir("/dev/fd"))
    guards = [ProcessGuard() for _ in range(50)]
    assert all(guard.alive for guard in guards)
    assert len(os.listdir("/dev/fd")) <= before
