"""The lock on a namespace's `leader.lock`, which alone decides who leads it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading

from hypotest import interrupts, platform

_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
_PATIENCE = 5.0

opening = threading.RLock()
"""Held while a lock file is opened. A fork waits for it: no child gets a descriptor that nobody knows of yet."""

_open: dict[int, tuple[int, tuple[int, int]]] = {}
"""The descriptors on lock files: which process opened them, and on what; in it before they may hold a lock."""


def abandon_inherited() -> None:
    """In a child: closes the parent's descriptors, which would keep its locks alive after its death.

    To unlock them would take the locks from the parent. Checked first: the child may have reused the numbers. And makes
    an `opening` that nobody holds.
    """
    global opening  # noqa: PLW0603 - the old one may be held by a thread of the parent
    opening = threading.RLock()
    for fd, (pid, file) in list(_open.items()):
        if pid != os.getpid() and _open.pop(fd, None) is not None:  # another thread of the child may lead already
            with interrupts.suppress(OSError):
                if platform.is_open_on(fd, file):
                    os.close(fd)


class LeaderLock:
    """The lock on `leader.lock`: flock, as filelock's `FileLock` takes it, which contends with it.

    Rejected: filelock itself. Imported by a thread while another one forks, its fork hooks run by halves: 6 of 20
    starts of a threaded host printed its traceback, 2 of 22 stalled the host's fork for 5 s, until our hook gave up.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._file = (0, 0)
        self._pid = 0
        self._taken = False

    def acquire(self) -> bool:
        """Takes the lock if it is free.

        Raises:
            OSError: the file cannot be opened or locked.
        """
        calm = opening.acquire(timeout=_PATIENCE)
        try:
            fd = platform.open_own(self.path, os.O_RDWR | os.O_CREAT)
            self._file, self._pid = platform.file_of(os.fstat(fd)), os.getpid()
            _open[fd] = self._pid, self._file
        finally:
            if calm:
                opening.release()
        self._fd = fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            interrupts.let_through(error)
            if error.errno in _HELD_ELSEWHERE:
                return False
            raise
        self._taken = True
        if not self.held():
            self.release()
        return self._fd >= 0

    def held(self) -> bool:
        """Whether the lock is held, and on the file its path names: an unlinked file permits a second leader."""
        with interrupts.suppress(OSError):
            named = platform.file_of(os.stat(self.path))
            return self._taken and named == self._file and platform.is_open_on(self._fd, self._file)
        return False

    def release(self) -> None:
        """Gives the lock back. The file stays: to unlink it would permit a second leader."""
        self._taken = False  # first: it may be another's as soon as it is unlocked, and an interrupt come then
        fd = self._fd
        if fd >= 0 and fd in _open and platform.is_open_on(fd, self._file):
            with interrupts.suppress(OSError):
                if self._pid == os.getpid():
                    # Not by closing alone: a child that was forked without hooks, and is idle, has the descriptor too.
                    fcntl.flock(fd, fcntl.LOCK_UN)
        self._fd = -1  # not before: an interrupt would leave the lock taken, and now it costs a descriptor at most
        if _open.pop(fd, None) is not None and platform.is_open_on(fd, self._file):
            os.close(fd)

    def forget(self) -> None:
        """In a child: the descriptor is the parent's, and closed by `abandon_inherited`."""
        self._fd, self._taken = -1, False
