"""File systems of a test's own, for a script: mounted in a mount namespace, so that they end with it.

Root needs no more than that; another user gets a user namespace besides, in which it is root.
"""

from __future__ import annotations

import os

import pytest

from tests.namespace import run_python

MOUNTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18

def checked(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def mount(kind, path, flags=0, options="", source="none"):
    checked(libc.mount(source.encode(), str(path).encode(), kind.encode(), flags, options.encode()))

def unmount(path):
    checked(libc.umount2(str(path).encode(), 2))

def own_mounts():
    user, group = os.geteuid(), os.getegid()
    checked(libc.unshare(NEW_MOUNTS if user == 0 else NEW_MOUNTS | NEW_USER))
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount("", "/", RECURSIVE | PRIVATE)

def small_disk(path, options):
    own_mounts()
    os.makedirs(path)
    mount("tmpfs", path, 0, "mode=700," + options)

def read_only(path):
    # Over itself: files that are open stay writable, as where a file system turns read-only by an error.
    mount("", path, BIND, source=path)
    mount("", path, BIND | REMOUNT | READ_ONLY)
"""


@pytest.fixture(scope="session")
def mounts() -> str:
    """What a script begins with to have file systems of its own; skips where they cannot be had."""
    try:
        run_python(MOUNTS + "own_mounts()\nmount('tmpfs', '/mnt')")
    except AssertionError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"no mount namespace can be had here: {str(error).splitlines()[-1]}")
    return MOUNTS
