"""How long a host is without a leader when its leader is SIGKILLed, with the SDK's own intervals.

Two moments count: that another process leads, and that an event is delivered which was made right after the kill. A
fresh leader does not poll settings that are fresh, on purpose: hosts that start together would all ask the server at
once. So that another has polled is told of short intervals, and has no bar.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from hypotest.control import LEADER_PID, POLLS, ControlPage, open_existing
from hypotest.statedir import namespace_of
from stress.bench.row import Bar, Row, at_most
from tests.processes import Script, sdk_env
from tests.server_process import ServerProcess, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KILLS = 20
_WORKERS = 6
_LOOK_EVERY = 0.001
_PATIENCE = 30.0
_SHORT = {"pull_interval": 0.3, "pull_jitter": 0, "send_interval": 0.1}
_WORKER = """
assert hypotest.wait_until_ready(30)
say("ready")
while line := sys.stdin.readline():
    hypotest.kpi_event("meanwhile", user_id=line.strip())
"""


class Host(NamedTuple):
    """A host whose leader has just ended: what there is to look at."""

    page: ControlPage
    dead: int
    polled: int
    server: ServerProcess
    user: str

    def leads(self) -> bool:
        """Whether another leads."""
        return self.page.words[LEADER_PID] not in (0, self.dead)

    def delivered(self) -> bool:
        """Whether the event is delivered that was made after the kill."""
        return bool(self.server.query("SELECT 1 FROM events WHERE user_id = ?", self.user))

    def polls(self) -> bool:
        """Whether anybody has begun to poll since."""
        return self.page.words[POLLS] != self.polled


def measure() -> Iterator[Row]:
    """Twenty kills among six processes, and twenty more with short intervals."""
    leads, delivers = zip(*_kills(Host.delivered), strict=True)
    yield from _rows("another leads", leads, ((0.5, "<= 0.5 s"), (1.0, "<= 1 s")))
    yield from _rows("an event made meanwhile is delivered", delivers)
    _, polls = zip(*_kills(Host.polls, **_SHORT), strict=True)
    yield from _rows(f"another polls, which fresh settings put off: an interval of {_SHORT['pull_interval']} s", polls)


def _rows(until: str, took: tuple[float, ...], bars: tuple[tuple[float, str], ...] = ()) -> Iterator[Row]:
    what = f"SIGKILL of the leader, {_KILLS} times among {_WORKERS} processes, until {until}"
    for at, value in (("median", median(took)), ("worst", max(took))):
        held = at_most(value, *bars[at == "worst"]) if bars else Bar()
        yield Row("takeover", f"{what}: {at}", value, "s", **held)


def _kills(then: Callable[[Host], bool], **intervals: object) -> Iterator[tuple[float, float]]:
    """Seconds from each kill until another leads, and until `then` holds.

    The intervals are the SDK's defaults unless they are given.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = stack.enter_context(ServerProcess(directory))
        env = sdk_env(server, directory / "state", **(dict.fromkeys(_SHORT, "") | intervals))
        workers: list[Script] = []
        for number in range(_KILLS):
            while len(workers) < _WORKERS:
                workers.append(stack.enter_context(Script(_WORKER, env)))
                workers[-1].wait_for("ready")
            page = wait_for(lambda: _page(server, directory), "there is a leader")
            leader = next(worker for worker in workers if worker.pid == page.words[LEADER_PID])
            workers.remove(leader)
            killed = time.monotonic()
            leader.kill()  # it has ended when this returns: what the page counts from here on, the dead one did not do
            host = Host(page, leader.pid, page.words[POLLS], server, f"user-{number}")
            workers[0].tell(host.user)
            yield _until(host.leads, "another leads") - killed, _until(partial(then, host), str(then)) - killed


def _page(server: ServerProcess, directory: Path) -> ControlPage | None:
    """The control page of a host that is led."""
    page = open_existing(str(directory / "state" / "v1" / namespace_of(server.url, server.token)))
    return page if page is not None and page.words[LEADER_PID] else None


def _until(condition: Callable[[], object], what: str) -> float:
    """When it holds."""
    give_up = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not within {_PATIENCE:g} s: {what}")
        time.sleep(_LOOK_EVERY)
    return time.monotonic()
