"""A disk that may lose power: what could be left of a directory, by what was synced of it and what was only written.

The files are real, and so is what writes them; the disk only looks on. It remembers each sector as it was at the last
sync of its file and as it was seen since, and each file's names in the same way. After a power cut every sector, every
name and every size is, independently of all others, as it was synced or as at any later moment.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

SECTOR, PAGE = 512, 4096
SYNCED, WRITTEN, MIXED, TORN = POLICIES = ("synced", "written", "mixed", "torn")
"""What a power cut leaves: nothing that was not synced; everything; a mixture; a mixture with one sector torn.

That one was under way to the disk while it was written to, as a mapped one may be: of each word the old or the new.
"""
_GONE = ""


@dataclass
class _File:
    """A file: what is on the disk for sure, first, and what may be there instead.

    Attributes:
        fd: kept open to the end: by closing it this process would drop the locks it has on the file.
        seen: the content as last seen.
        names, sizes: from the synced one to the newest. sectors: the same, of those that changed since the sync.
    """

    fd: int
    seen: bytes = b""
    synced: bytes = b""
    names: list[str] = field(default_factory=lambda: [_GONE])
    sizes: list[int] = field(default_factory=lambda: [0])
    sectors: dict[int, list[bytes]] = field(default_factory=dict)

    def look(self) -> None:
        found = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        if found == self.seen:
            return
        for at in range(0, len(found), SECTOR):
            part = found[at : at + SECTOR].ljust(SECTOR, b"\0")
            if part != self.seen[at : at + SECTOR].ljust(SECTOR, b"\0"):
                before = self.synced[at : at + SECTOR].ljust(SECTOR, b"\0")
                self.sectors.setdefault(at, [before]).append(part)
        if len(found) != self.sizes[-1]:
            self.sizes.append(len(found))
        self.seen = found

    def sync(self) -> None:
        self.look()
        self.synced, self.sizes = self.seen, self.sizes[-1:]
        self.sectors.clear()


def _chooser(policy: str, rng: random.Random) -> Callable[[list[Any]], Any]:
    newest = rng.choice((0.1, 0.5, 0.9))

    def choose(versions: list[Any]) -> Any:
        if policy in (SYNCED, WRITTEN):
            return versions[0 if policy == SYNCED else -1]
        return versions[-1] if rng.random() < newest else rng.choice(versions)

    return choose


class Disk:
    """Looks on a directory whose files are all there for sure at the start."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._files: dict[int, _File] = {}
        self.observe()
        for file in self._files.values():
            file.sync()
            file.names = file.names[-1:]

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.fd)
        self._files.clear()

    def observe(self) -> None:
        """Takes note of what is written now: from now on it may be what a power cut leaves."""
        present: dict[int, str] = {}
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = f"{directory}/{name}"
                present[os.stat(path).st_ino] = path[len(self._root) :]
                if os.stat(path).st_ino not in self._files:
                    self._files[os.stat(path).st_ino] = _File(os.open(path, os.O_RDWR))
        for inode, file in self._files.items():
            file.look()
            name = present.get(inode, _GONE)
            if name != file.names[-1]:
                file.names.append(name)

    def sync(self, fd: int) -> None:
        """Stands in for fdatasync: what is written of a file, or the names in a directory, are there for sure now."""
        self.observe()
        found = os.fstat(fd)
        if not stat.S_ISDIR(found.st_mode):
            self._files[found.st_ino].sync()
            return
        for file in self._files.values():
            if any(os.stat(os.path.dirname(self._root + name)).st_ino == found.st_ino for name in file.names if name):
                file.names = file.names[-1:]

    def flip(self, at: int, path: str) -> None:
        """Damages a byte."""
        fd = self._files[os.stat(path).st_ino].fd
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x10]), at)

    def cut(self, target: Path, policy: str, rng: random.Random, *, names: str = "") -> None:
        """Builds in `target` what a power cut right now leaves; of the names by a policy of their own, if given."""
        self.observe()
        choose, choose_name = _chooser(policy, rng), _chooser(names or policy, rng)
        for directory, _, _ in os.walk(self._root):
            os.makedirs(f"{target}{directory[len(self._root) :]}", 0o700, exist_ok=True)
        changed = [(file, at) for file in self._files.values() for at in file.sectors]
        torn = rng.choice(changed) if policy == TORN and changed else None
        for file in self._files.values():  # in the order they were made: of two with one name the later one is there
            name = choose_name(file.names)
            if name != _GONE:
                left = {at: choose(versions) for at, versions in file.sectors.items()}
                if torn is not None and torn[0] is file:
                    left[torn[1]] = _tear(file.sectors[torn[1]], rng)
                    for at in range(torn[1] + SECTOR, (torn[1] & -PAGE) + PAGE, SECTOR):
                        if at in left:  # behind it the page was not written any more
                            left[at] = file.sectors[at][0]
                _leave(file, f"{target}{name}", left, choose(file.sizes))


def _tear(versions: list[bytes], rng: random.Random) -> bytes:
    after = rng.randrange(1, len(versions))
    return b"".join(rng.choice(versions[after - 1 : after + 1])[word : word + 8] for word in range(0, SECTOR, 8))


def _leave(file: _File, path: str, sectors: dict[int, bytes], size: int) -> None:
    content = bytearray(file.synced.ljust(max([size, *(at + SECTOR for at in sectors)]), b"\0"))
    for at, sector in sectors.items():
        content[at : at + SECTOR] = sector
    with open(path, "wb") as made:
        made.write(content[:size])
    os.chmod(path, 0o600)
    os.utime(path, (0, 0))  # the machine was off for long: drafts of before are old
