"""What a power cut must not take: files of the spool that wait to be sent, their names, and the totals.

A process's end loses nothing that is written, a power cut all that the kernel has not put on the disk. The leader syncs
once a second what has changed; so it takes the last second, and nothing that was there before comes back to be counted
a second time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from hypotest import header, platform, segment
from hypotest.control import NAMES, ControlPage
from hypotest.header import SUFFIX
from hypotest.segment import Segment
from hypotest.statedir import StateDir


class Durability:
    """Syncs the spool of one namespace and its control page."""

    def __init__(
        self,
        state: StateDir,
        control: ControlPage,
        held: Callable[[str], Segment | None],
        sync_data: Callable[[int], None],
    ) -> None:
        """Syncs nothing yet.

        Args:
            state: the namespace's directory.
            control: its control page.
            held: the segment of a path if this process has it open, which must then not be opened a second time.
            sync_data: forces what is written of a file, or the names in a directory, to the disk.
        """
        self._state = state
        self._control = control
        self._held = held
        self._sync_data = sync_data
        self._synced: dict[str, int] = {}
        self._finished: set[str] = set()
        self._synced_totals: tuple[tuple[str, ...], list[int]] | None = None
        self._folded = NAMES  # since deletions were synced; who knows what the leader before left

    def about_to_fold(self) -> None:
        """To be called before a segment's counts go into the totals, which then may no longer name an older one.

        A power cut must not bring back one that they name no longer: it would be folded again.
        """
        if self._folded == NAMES:
            with contextlib.suppress(OSError):
                platform.sync_names(self._state.spool, self._sync_data)
            self._folded = 0
        self._folded += 1

    def sync(self) -> None:
        """Forces to the disk what waits to be sent, the names of its files, and the totals.

        Also of segments that no scan has met: while the server is away the next scan may be an hour off.

        Raises:
            OSError: a directory or the control page cannot be synced.
        """
        synced = {}
        with os.scandir(self._state.spool) as entries:
            for path in (entry.path for entry in entries if entry.name.endswith(SUFFIX)):
                if path in self._finished and path in self._synced:  # thousands, where workers recycle in an outage
                    synced[path] = self._synced[path]
                    continue
                with contextlib.suppress(OSError, ValueError):  # one that cannot be synced keeps no other from it
                    synced[path] = self._sync_segment(path)
        totals = self._control.accounts()
        if totals != self._synced_totals:
            self._control.sync(self._sync_data)
        if self._synced_totals is None:
            for directory in (self._state.path, os.path.dirname(self._state.path), self._state.root):
                platform.sync_names(directory, self._sync_data)
        if not synced.keys() <= self._synced.keys():
            platform.sync_names(self._state.spool, self._sync_data)
        self._synced, self._synced_totals = synced, totals
        self._finished &= synced.keys()

    def _sync_segment(self, path: str) -> int:
        """Syncs a segment if it has grown since it last was, and has something to send; returns its position."""
        held = self._held(path)
        if held is not None:
            position = held.position()
            if position != self._synced.get(path) and held.unsettled():
                self._sync_data(held.fd)
            return position
        fd = platform.open_own(path, os.O_RDONLY)
        try:
            head = segment.read_header(fd)
            position, settled = header.marks(path, head)
            if position != self._synced.get(path) and header.frames(position) > header.frames(settled):
                self._sync_data(fd)
        finally:
            os.close(fd)
        if header.is_finished(head):
            self._finished.add(path)
        return position
