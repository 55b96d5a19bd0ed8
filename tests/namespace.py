"""A namespace on disk as the unit tests of files want it, and other processes at work on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hypotest import accounts, control, platform, statedir
from hypotest.backlog import DELIVERED, Backlog
from hypotest.spool import Spool
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hypotest.segment import Segment

TIMEOUT = 60.0
NOTHING: dict[str, Any] = {}
ACCEPTED = time.time()
"""When an `event` was accepted: lately, since a leader drops what is too old."""

SPOOL = """
import os, sys
from hypotest.spool import Spool
spool = Spool(sys.argv[1], 1 << 30, lambda: 0)
"""
"""Begins a child that writes: `spool` is its spool, in the directory of its first argument."""


class Namespace:
    """A state directory with its control page, one writer, and a leader's view of it."""

    def __init__(self, root: Path, *, max_bytes: int = 1 << 30) -> None:
        self.state = statedir.prepare(str(root / "state"), "0" * 32)
        self.page = control.open_control(self.state.path)
        self.spool = Spool(self.state.spool, max_bytes, lambda: 0)

    def backlog(
        self,
        own: Mapping[str, Segment] | None = None,
        *,
        expired: Callable[[bytes], bool] = lambda _: False,
        max_age: float = 1e9,
        sync_data: Callable[[int], None] = platform.sync_data,
    ) -> Backlog:
        """A leader starts: in the writer's process, or, with `own=NOTHING`, as if in another."""
        return Backlog(
            self.state,
            self.page,
            self.spool.segments if own is None else own,
            expired=expired,
            max_age=max_age,
            sync_data=sync_data,
            patience=0.0,
        )

    def totals(self) -> list[int]:
        return self.page.accounts()[1]


def drain(backlog: Backlog, *, most: int = 1000) -> list[tuple[str, bytes]]:
    """Deliver everything there is, and return it in order."""
    backlog.scan()
    found: list[tuple[str, bytes]] = []
    while events := (batch := backlog.claim(most, 1 << 20)).events:
        found += events
        assert backlog.settle(batch, [DELIVERED] * len(events)) == len(events)
    backlog.scan()
    return found


def refused_by(spool: Spool) -> dict[str, int]:
    """Return what a writer refused, whether it stands in a file already or not."""
    written = [held.counters() for held in spool.segments.values()]
    return accounts.refused(accounts.add([spool.unreported(), *written]))


def marks(spool: Spool) -> dict[str, int]:
    """Return what a writer has written so far: the position of each open segment, by path."""
    return {path: held.position() for path, held in spool.segments.items()}


def payloads(events: list[tuple[str, bytes]]) -> list[bytes]:
    return [payload for _, payload in events]


def run_python(code: str, *arguments: object, **more: Any) -> str:
    """Run `code` in a fresh interpreter, with warnings as errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=clean_env() | more.pop("env", {}),
        check=False,
        **more,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr
    return done.stdout


@contextmanager
def running_python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in a fresh interpreter until it has printed a line, and SIGKILL it at the end."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_env(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the child died early"
            yield process
        finally:
            process.kill()


def event(number: int, **more: Any) -> bytes:
    """Return an event of one time for all, as the spool has it, told from others by its number."""
    fields = json.dumps({"number": number, **more}, separators=(",", ":"))
    return event_of(ACCEPTED, b"," + fields[1:-1].encode())


def event_of(accepted: float, rest: bytes = b"") -> bytes:
    """Return an event that was accepted at that Unix time, as the spool has it."""
    return b'{"time":1%019d%b}' % (accepted * 1e9, rest)
