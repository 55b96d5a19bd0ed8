"""A look at a namespace from outside: finds the state of a server and token, and changes nothing.

What diagnoses must be inert: a `status` that made the directory it looks for would hide that the application uses
another one, and one that campaigned would repair what it was asked to describe.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from hypotest import accounts, control, settings, snapshot, statedir
from hypotest.client import Client
from hypotest.config import Config
from hypotest.errors import StorageError
from hypotest.spool import Spool
from hypotest.survey import server_of, survey

_BEAT_PATIENCE = 0.5
_POLL = 0.02


class Neighbour(NamedTuple):
    """Another namespace on this host: another server, token or state directory.

    Attributes:
        path: its directory. pending: events that wait in it.
        root: its state directory. server_url: of its last leader, "" if it had none.
        own: whether it is of the same server and token, in another state directory.
    """

    path: str
    pending: int
    root: str
    server_url: str
    own: bool


class Onlooker(Client):
    """A client that only looks: creates nothing, starts no thread, and is never asked to keep an event.

    Attributes:
        looked_in: the state directories that were looked for, best first.
        passed: those of them that the SDK does not use, and why.
    """

    def __init__(self, settled: Config) -> None:
        """Opens the state of `settled`, which has a token; `state` is None if nothing has run with it here."""
        self.looked_in = list(statedir.candidates(settled.state_dir, os.environ))
        self.passed: dict[str, str] = {}
        super().__init__(settled)

    def _open_state(self, token: str) -> None:
        self.namespace = statedir.namespace_of(self.config.server_url, token)
        for root in self.looked_in:
            try:
                state = statedir.examine(root, self.namespace)
            except StorageError as error:
                self.passed[root] = str(error)
                continue
            if state is None:
                continue
            page = control.open_existing(state.path)
            if page is None:
                self._pass_damaged(state)
            else:
                self.state, self.page = state, page
                self.reader = snapshot.Reader(state.path, page, settings.decode)
                self.spool = Spool(state.spool, self.config.max_spool_bytes, self._spool_bytes)
                return

    def _pass_damaged(self, state: statedir.StateDir) -> None:
        path = f"{state.path}/{control.NAME}"
        fault = "is damaged" if os.path.lexists(path) else "is missing" if survey(state, {}).marks else ""
        if fault:
            self.passed[state.root] = f"{path} {fault}: the application, or `hypotest agent`, makes it anew"

    def leader_is_alive(self) -> bool:
        """Whether the leader's heart beats: looks for up to half a second."""
        return self.state is not None and bool(_moving([self.state.path]))

    def newest_settings(self) -> snapshot.Snapshot | None:
        """The settings in force, None if none have arrived."""
        if self.state is None or self.page is None:
            return None
        with contextlib.suppress(OSError):
            return snapshot.open_newest(self.state.path, self.page.words[control.GENERATION])
        return None

    def neighbours(self) -> list[Neighbour]:
        """The namespaces in which events wait that nobody delivers: no leader of theirs is alive."""
        found = [each for root in self.looked_in for each in self._neighbours_in(root)]
        alive = _moving([other.path for other in found])
        return [other for other in found if other.path not in alive]

    def _neighbours_in(self, root: str) -> Iterator[Neighbour]:
        own = statedir.StateDir(root, self.namespace)
        here = self.state is not None and self.state.root == root
        for state in own.others() + ([] if here else [own]):
            with contextlib.suppress(OSError):  # of somebody else
                pending = accounts.pending(survey(state, {}).counters)
                if pending > 0:
                    yield Neighbour(state.path, pending, root, server_of(state), state.namespace == self.namespace)


def _moving(paths: list[str]) -> set[str]:
    """Those of these namespaces in which a leader's heart beats: looks for up to half a second."""
    pages = {path: page for path in paths if (page := control.open_existing(path)) is not None}
    first = {path: page.words[control.HEARTBEAT] for path, page in pages.items()}
    deadline, moving = time.monotonic() + _BEAT_PATIENCE, set[str]()
    while len(moving) < len(pages) and time.monotonic() < deadline:
        time.sleep(_POLL)
        moving |= {path for path, page in pages.items() if page.words[control.HEARTBEAT] not in (0, first[path])}
    return moving
