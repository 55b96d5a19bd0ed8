"""Writes snapshots and puts them in force. The format stands in `snapshot.py`, which reads it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Mapping

from hypotest import platform
from hypotest.control import GENERATION, ControlPage
from hypotest.snapshot import CRC, HEAD, INDEX, MAGIC, RECORD, Snapshot, generations, name_hash, snapshot_path

_KEEP = 2


class Publisher:
    """Writes snapshots and puts them in force; the leader's."""

    def __init__(self, directory: str, page: ControlPage) -> None:
        self._directory = directory
        self._page = page
        self._verified = 0
        self._closed = False

    def close(self) -> None:
        """Publishes nothing any more: the leadership is over, and a successor may know better."""
        self._closed = True

    def _is_closed(self) -> bool:
        return self._closed

    def in_force(self) -> bool:
        """Whether the generation in force can be read, as a new worker would."""
        generation = self._page.words[GENERATION]
        with contextlib.suppress(OSError):
            return bool(generation) and Snapshot(snapshot_path(self._directory, generation)).generation == generation
        return False

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
        named = {name.encode("utf-8", "surrogatepass"): data for name, data in records.items()}
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(named):
            digest.update(b"%d %d %b%b" % (len(name), len(named[name]), name, named[name]))
        current = self._page.words[GENERATION]
        with contextlib.suppress(OSError):
            if current and self._holds(current, records, digest.digest()):
                return 0
        generation = max([current, *generations(self._directory)]) + 1
        self._write(snapshot_path(self._directory, generation), _encode(named, generation, digest.digest()))
        if self._is_closed():
            return 0
        self._page.words[GENERATION] = generation  # publish last
        for old in generations(self._directory)[_KEEP:]:
            with contextlib.suppress(OSError):
                os.unlink(snapshot_path(self._directory, old))
        return generation

    def _holds(self, generation: int, records: Mapping[str, bytes], digest: bytes) -> bool:
        """Whether the file of `generation` has these records; read in full the first time, for damage."""
        held = Snapshot(snapshot_path(self._directory, generation))
        if held.digest != digest:
            return False
        if self._verified != generation:
            if any(held.get(name) != data for name, data in records.items()):
                return False
            self._verified = generation
        return True

    def _write(self, path: str, data: bytes) -> None:
        draft = f"{self._directory}/.settings-draft"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | platform.O_SAFE, 0o600)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(draft, path)


def _encode(named: Mapping[bytes, bytes], generation: int, digest: bytes) -> bytes:
    order = sorted(named, key=name_hash)
    offset = INDEX + 16 * len(order)
    offsets, records = [], []
    for name in order:
        data = named[name]
        offsets.append(offset)
        records.append(RECORD.pack(zlib.crc32(name + data), len(name), len(data)) + name + data)
        offset += len(records[-1])
    index = struct.pack(f"={2 * len(order)}Q", *map(name_hash, order), *offsets)
    head = HEAD.pack(MAGIC, generation, int(time.time()), len(order), offset, digest)
    return b"".join([head, CRC.pack(zlib.crc32(index, zlib.crc32(head))), index, *records])
