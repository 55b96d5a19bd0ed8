"""How long a host is without a leader when its leader is SIGKILLed: until another process has polled."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stress.bench.row import Row, at_most
from tests.processes import WORKER, Script, leader_pid, sdk_env
from tests.server_process import ServerProcess, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_KILLS = 20
_WORKERS = 6


def measure() -> Iterator[Row]:
    """Twenty kills among six processes."""
    with tempfile.TemporaryDirectory() as name, ServerProcess(Path(name)) as server:
        delays = list(_delays(server, Path(name)))
    typical, worst = statistics.median(delays), max(delays)
    what = f"SIGKILL of the leader until another of {_WORKERS} processes has polled, {_KILLS} times"
    yield Row("takeover", f"{what}: median", typical, "s", **at_most(typical, 0.5, "<= 0.5 s"))
    yield Row("takeover", f"{what}: worst", worst, "s", **at_most(worst, 1.0, "<= 1 s"))


def _delays(server: ServerProcess, directory: Path) -> Iterator[float]:
    env = sdk_env(server, directory / "state")
    with contextlib.ExitStack() as stack:
        workers: list[Script] = []
        for _ in range(_KILLS):
            while len(workers) < _WORKERS:
                workers.append(stack.enter_context(Script(WORKER, env)))
                workers[-1].wait_for("ready")
            leader = next(worker for worker in workers if worker.pid == leader_pid(server, directory))
            yield _delay(server, directory, leader)
            workers.remove(leader)


def _delay(server: ServerProcess, directory: Path, leader: Script) -> float:
    polls = server.polls()
    killed = time.monotonic()
    leader.kill()
    wait_for(lambda: server.polls() > polls, "another process polls")
    delay = time.monotonic() - killed
    wait_for(lambda: leader_pid(server, directory) not in (0, leader.pid), "another process leads")
    return delay
