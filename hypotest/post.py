"""Where a campaign takes place: everything that a candidate and a leader work on."""

from __future__ import annotations

from collections.abc import Callable

from hypotest.config import Config
from hypotest.control import ControlPage
from hypotest.instance import Instance
from hypotest.statedir import StateDir

StartThread = Callable[[str, Callable[[], None]], object]
"""Starts a daemon thread of a name. Returns None where it is too early for one; raises RuntimeError where none can be
started."""


class Post:
    """One namespace, as one process works on it.

    Attributes:
        config: this process's configuration; a leader's own is in force for the host.
        state: the directory. page: its control page.
        instance: this process, as a writer there.
        start: the only way to a thread.
    """

    __slots__ = ("config", "instance", "page", "start", "state")

    def __init__(
        self,
        config: Config,
        state: StateDir,
        page: ControlPage,
        instance: Instance,
        start: StartThread,
    ) -> None:
        self.config = config
        self.state = state
        self.page = page
        self.instance = instance
        self.start = start
