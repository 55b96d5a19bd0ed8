"""The lock on a namespace's `leader.lock`, which alone decides who leads it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from hypotest import platform

_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)


class LeaderLock:
    """The lock on `leader.lock`: flock, as filelock's `FileLock` takes it, which contends with it.

    Rejected: filelock itself. Imported by a thread while another one forks, its fork hooks run by halves: 6 of 20
    starts of a threaded host printed its traceback, 2 of 22 stalled the host's fork for 5 s, until our hook gave up.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._identity = (0, 0)

    def acquire(self) -> bool:
        """Takes the lock if it is free.

        Raises:
            OSError: the file cannot be opened or locked.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | platform.O_SAFE, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in _HELD_ELSEWHERE:
                return False
            raise
        self._identity, self._fd = _identity(os.fstat(fd)), fd
        if not self.held():
            self.release()
        return self._fd >= 0

    def held(self) -> bool:
        """Whether the lock is held, and on the file its path names: an unlinked file permits a second leader."""
        with contextlib.suppress(OSError):
            return self._fd >= 0 and _identity(os.stat(self.path)) == _identity(os.fstat(self._fd)) == self._identity
        return False

    def release(self) -> None:
        """Gives the lock back. The file stays: to unlink it would permit a second leader."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def abandon(self) -> None:
        """In a child: closes the inherited descriptor, which would keep the lock alive after the parent's death.

        To unlock it would take the lock from the parent. Checked first: the child may have reused the number.
        """
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            if fd >= 0 and _identity(os.fstat(fd)) == self._identity:
                os.close(fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
