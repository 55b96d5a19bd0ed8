"""A process as the writer of segments, whichever configurations it goes through."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from itertools import count

from hypotest import accounts, interrupts, platform
from hypotest.header import DONE, FINISHED, HEADER, SUFFIX, Identity
from hypotest.segment import Segment, Writer


class Instance:
    """What all segments of a process have in common. A child has another one.

    Attributes:
        numbers: of its segments; a count is atomic: a file of the same name would be replaced.
        segments: the open ones by path: a leader in this process must not open them a second time.
        unreported: counts that stand in no file yet, by slot.
        pid: the process.
    """

    __slots__ = ("_drawn", "_unfinished", "numbers", "pid", "segments", "unreported")

    def __init__(self) -> None:
        self._drawn: dict[str, bytes] = {}
        self._unfinished: list[Segment] = []
        self.numbers = count()
        self.segments: dict[str, Segment] = {}
        self.unreported = [0] * accounts.SLOTS
        self.pid = os.getpid()

    @property
    def id(self) -> bytes:
        """128 random bits, the first part of every event id; drawn for the first file.

        Not before: of a process, or a machine, that is copied in the meantime, the copies must differ.
        """
        return self._drawn.get("id") or self._drawn.setdefault("id", os.urandom(16))

    @property
    def used(self) -> bool:
        """Whether there was ever a file."""
        return bool(self._drawn)

    @property
    def name(self) -> str:
        """The id as the names of its files begin with it."""
        return self.id.hex()

    def create(self, directory: str, size: int, *, mapped: bool) -> Writer:
        """Makes a segment: whole and locked before it has a name that the leader looks at.

        It is in `segments` before it has its name: another thread of this process that came upon the name first would
        open the file, and by closing it drop the lock.

        Args:
            directory: the spool directory.
            size: bytes, a multiple of 4096.
            mapped: False to write by pwrite, where a mapping cannot be trusted.

        Raises:
            OSError: no space, no inode, no descriptor, or the directory is gone; or a signal handler has forked in the
                midst, and this is the child.
        """
        number = next(self.numbers)
        path = f"{directory}/{self.name}-{number:x}{SUFFIX}"
        draft = f"{directory}/.{self.name}-{number:x}"
        segment = Segment(path)
        self._unfinished.append(segment)
        try:
            self._require_process()
            segment.make(draft)
            fd = segment.fd
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mapped = mapped and platform.preallocate(fd, size)
            identity = Identity(int.from_bytes(os.urandom(4), "little"), self.id, number, size)
            if os.pwrite(fd, identity.header(), 0) != HEADER:
                raise OSError(errno.ENOSPC, "short write: the disk is full")
            segment.attach(size, mapped=mapped)
            if isinstance(segment.map, mmap.mmap):
                platform.populate(segment.map)
            writer = Writer(segment)
            self.segments[path] = segment
            self._require_process()
            os.rename(draft, path)
            segment.named = True
        except BaseException:
            if self.segments.pop(path, None) is None:
                segment.close()
            else:  # a leader of this process may be reading it
                segment.words[FINISHED] = DONE
            with interrupts.suppress(OSError):
                if os.getpid() == self.pid:  # in a child, it is the parent's
                    os.unlink(draft)
            raise
        finally:
            with interrupts.suppress(ValueError):  # an interrupt
                self._unfinished.remove(segment)
        return writer

    def _require_process(self) -> None:
        if os.getpid() != self.pid:
            raise OSError(errno.ECANCELED, "forked in the midst of a call")

    def abandon(self) -> None:
        """In a child: turns from the parent's segments.

        From those, too, that a call of the parent's was making which the fork cut in two, and which goes on here: it
        would write a header over the parent's. Their descriptors stay taken, or a file of the host's could get one.
        """
        for segment in list(self.segments.values()):
            segment.disown()
        for segment in self._unfinished:
            if segment.fd >= 0:
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, segment.fd, inheritable=False)
                os.close(nothing)
