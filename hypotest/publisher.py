"""Writes snapshots and puts them in force. The format stands in `snapshot.py`, which reads it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Mapping

from hypotest import pace, platform
from hypotest.control import ControlPage
from hypotest.snapshot import (
    CRC,
    HEAD,
    INDEX,
    LENGTHS,
    MAGIC,
    SLOT,
    generations,
    name_hash,
    open_newest,
    open_snapshot,
    slot_crc,
    snapshot_path,
)

_KEEP = 2
_JOINED = 256  # slots: some 70 KiB


class Publisher:
    """Writes snapshots and puts them in force; the leader's."""

    def __init__(self, directory: str, page: ControlPage) -> None:
        self._directory = directory
        self._page = page
        self._published = 0
        self._closed = False

    def close(self) -> None:
        """Publishes nothing any more: the leadership is over, and a successor may know better."""
        self._closed = True

    def _is_closed(self) -> bool:
        """A method: another thread closes this, and mypy takes an attribute for what it was before."""
        return self._closed

    def in_force(self) -> bool:
        """Whether all of the settings in force can be read. Mends the word that says which they are."""
        with contextlib.suppress(OSError):
            generation = self._mended_generation()
            if generation:
                open_snapshot(self._directory, generation).check()
                return True
        return False

    def _mended_generation(self) -> int:
        """The generation in force. We alone store it: if it is not as we left it, it was damaged."""
        generation = self._page.generation()
        if self._published:
            right = self._published
        elif generation:
            return generation
        else:
            newest = open_newest(self._directory)
            right = newest.generation if newest is not None else 0
        if generation != right and not self._closed:
            self._page.set_generation(right)
        return right

    def publish(self, records: Mapping[str, bytes]) -> int:
        """Publishes the settings if they differ from those in force.

        Args:
            records: by name of the experiment.

        Returns:
            The new generation; 0 if nothing changed.

        Raises:
            OSError: no space; the settings in force stay.
        """
        if self._closed:
            return 0
        named = {name.encode("utf-8", "surrogatepass"): data for name, data in pace.in_pieces(records.items())}
        digest = hashlib.blake2b(digest_size=16)
        for name in pace.in_pieces(sorted(named)):
            digest.update(b"%d %d %b%b" % (len(name), len(named[name]), name, named[name]))
        current = self._mended_generation()
        with contextlib.suppress(OSError):
            if current and self._holds(current, digest.digest()):
                self._published = current
                return 0
        generation = max([current, *generations(self._directory)]) + 1
        self._write(snapshot_path(self._directory, generation), _encode(named, generation, digest.digest()))
        if self._is_closed():
            return 0
        self._page.set_generation(generation)  # publish last
        self._published = generation
        for old in generations(self._directory)[_KEEP:]:
            with contextlib.suppress(OSError):
                os.unlink(snapshot_path(self._directory, old))
        return generation

    def _holds(self, generation: int, digest: bytes) -> bool:
        """Whether the file of `generation` has the records of that digest, all of them sound."""
        held = open_snapshot(self._directory, generation)
        if held.digest != digest:
            return False
        held.check()
        return True

    def _write(self, path: str, parts: Iterable[bytes]) -> None:
        if self._is_closed():
            return
        draft = f"{self._directory}/.settings-draft"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | platform.O_SAFE, 0o600)
        try:
            for part in parts:
                left = memoryview(part)
                while left:
                    left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        if not self._is_closed():  # a successor may have given the same number to other settings
            os.rename(draft, path)


def _encode(named: Mapping[bytes, bytes], generation: int, digest: bytes) -> list[bytes]:
    """The parts of a snapshot's file. Not joined: that would hold the GIL, 10,000 experiments for milliseconds."""
    count = len(named)
    slots = [b""] * count
    for name, data in pace.in_pieces(named.items()):
        slots[name_hash(name) % count] += LENGTHS.pack(len(name), len(data)) + name + data
    start = INDEX + SLOT.size * count
    head = HEAD.pack(MAGIC, generation, int(time.time()), count, start + sum(map(len, slots)), digest)
    seed = zlib.crc32(head)
    index = []
    for number, records in enumerate(pace.in_pieces(slots)):
        index.append(SLOT.pack(start, len(records), slot_crc(seed, number, start, records)))
        start += len(records)
    joined = (b"".join(slots[at : at + _JOINED]) for at in pace.in_pieces(range(0, count, _JOINED)))
    parts = [b"".join(index), *joined]
    rest = 0
    for part in parts:
        rest = zlib.crc32(part, rest)
    head += CRC.pack(rest)
    return [head + CRC.pack(zlib.crc32(head)), *parts]
