"""The quarantine of a namespace: events that the server refused for good, and files that cannot be read. For people.

Bounded by size and age: beyond the one, what comes is only counted, or deleted; beyond the other, what is there is.
"""

from __future__ import annotations

import contextlib
import os
import time

from hypotest import log, platform
from hypotest.events import sent

_MOST_BYTES = 16 << 20
_BLOCK = 4096


class Quarantine:
    """One directory, in the hands of the leader."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._size: int | None = None

    def look_anew(self) -> None:
        """Forgets what it holds, which is looked up once in each scan: 10,000 damaged files are one look."""
        self._size = None

    def keep(self, event_id: str, payload: bytes, reason: str) -> None:
        """Writes an event down that is given up.

        A disk that is full must not keep what the server has acknowledged from being settled: no error is raised.
        """
        with contextlib.suppress(OSError):
            if not self._has_room(len(payload)):
                return
            path = f"{self._directory}/{reason}-{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
            fd = platform.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                if os.fstat(fd).st_nlink > 1:  # another file of ours, linked here by somebody else
                    return
                os.write(fd, b'{"event_id":"%b","event":{%b}\n' % (event_id.encode(), *sent([payload])))
            finally:
                os.close(fd)

    def take(self, path: str, lost: int = 0) -> None:
        """Moves a file here, or deletes it if there is no room for it.

        Args:
            path: the file.
            lost: how many of its events are counted as corrupt.
        """
        log.limited(
            log.ERROR,
            "isolated",
            "damaged, goes to quarantine/, %d events are counted as corrupt: %s",
            lost,
            log.shown(os.path.basename(path)),
        )
        if self._has_room(_least(os.lstat(path).st_size)):
            target = f"{self._directory}/{os.path.basename(path)}"
            os.rename(path, f"{target}.{os.urandom(4).hex()}" if os.path.lexists(target) else target)
        else:
            os.unlink(path)

    def sweep(self, max_age: float) -> None:
        """Deletes what nothing was added to for `max_age` seconds: it may be about people."""
        now = time.time()
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > max_age:
                        os.unlink(entry.path)

    def _has_room(self, more: int) -> bool:
        """Whether there is room for so many bytes, which are then taken."""
        if self._size is None:
            with os.scandir(self._directory) as entries:
                self._size = sum(_least(entry.stat(follow_symlinks=False).st_size) for entry in entries)
        self._size += more
        return self._size - more < _MOST_BYTES


def _least(size: int) -> int:
    return max(size, _BLOCK)  # an empty file takes room, too
