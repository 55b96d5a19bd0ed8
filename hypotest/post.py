"""Where a campaign takes place: everything that a candidate and a leader work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypotest.config import Config
from hypotest.control import ControlPage
from hypotest.segment import Segment
from hypotest.statedir import StateDir


class Post:
    """One namespace, as one process works on it.

    Attributes:
        config: this process's configuration; a leader's own is in force for the host.
        state: the directory. page: its control page.
        own: the open segments of this process's writer, by path.
        start: starts a daemon thread of a name; the only way to one.
    """

    __slots__ = ("config", "own", "page", "start", "state")

    def __init__(
        self,
        config: Config,
        state: StateDir,
        page: ControlPage,
        own: Callable[[], Mapping[str, Segment]],
        start: Callable[[str, Callable[[], None]], object],
    ) -> None:
        self.config = config
        self.state = state
        self.page = page
        self.own = own
        self.start = start
