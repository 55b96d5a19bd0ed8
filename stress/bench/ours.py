"""Our own calls, as the benchmark makes them: a worker beside an agent that leads, or the leader itself."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypotest
from stress.bench.peer import Peer
from tests.server_process import ServerProcess, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from stress.bench.peer import Call

_TAGS = {"country": "DE", "plan": "pro"}
_TWO: dict[str, Any] = {"variants": {"control": 0.5, "b": 0.5}}
_FIVE = {"variants": dict.fromkeys(("control", "b", "c", "d", "e"), 0.2)}
_ASKED = {
    "button": _TWO,
    "five": _FIVE,
    "germans": _TWO | {"condition": 'country == "DE" and plan in ["pro", "team"]', "tags": ["country", "plan"]},
}


def experiments(count: int) -> dict[str, Any]:
    """So many experiments at least, among them those that are asked for."""
    return _ASKED | {f"experiment-{n}": _TWO for n in range(len(_ASKED), count)}


def begin(count: int, *, leads: bool = False) -> None:
    """Makes this process one of a host whose leader has the settings, or the leader; until it ends."""
    directory = Path(tempfile.mkdtemp(prefix="hypotest-bench-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = ServerProcess(directory, experiments=experiments(count)).start()
    atexit.register(server.kill)
    os.environ |= {
        "HT_TOKEN": server.token,
        "HT_SERVER_URL": server.url,
        "HT_STATE_DIR": str(directory / "state"),
        "HT_LOG_LEVEL": "WARNING",
    }
    if not leads:
        agent = subprocess.Popen([sys.executable, "-m", "hypotest", "agent"], stdin=subprocess.DEVNULL)
        atexit.register(agent.wait)
        atexit.register(agent.kill)
        os.environ["HT_LEADER"] = "off"
    assert hypotest.wait_until_ready(30), hypotest.status()
    wait_for(lambda: hypotest.status().is_leader == leads, "the leader is the one that is meant to be")
    assert {hypotest.experiment("button", user_id=f"u{n}").variant for n in range(100)} == {"control", "b"}


def _experiment(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.experiment("button", user)


def _leading(count: int) -> Call:
    begin(count, leads=True)
    return lambda user: hypotest.experiment("button", user)


def _silent(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.experiment("button", user, report_event=False)


def _tagged(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.experiment("button", user, tags=_TAGS)


def _conditional(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.experiment("germans", user, tags=_TAGS, report_event=False)


def _of_five(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.experiment("five", user, report_event=False)


def _kpi(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.kpi_event("purchase", user)


def _match(count: int) -> Call:
    begin(count)
    return lambda user: hypotest.match_user_visitor(user, "v-1")


def _ours(name: str, what: str, make: Callable[[int], Call]) -> Peer:
    return Peer(
        name, "hypotest-python3-sdk", "hypotest", what, lambda _, count: make(count), settle=lambda: hypotest.flush(30)
    )


OURS = tuple(
    _ours(*row)
    for row in (
        ("experiment(report_event=False)", "a decision", _silent),
        ("experiment()", "a decision, and its exposure in a file that outlives the process", _experiment),
        ("kpi_event()", "an event in a file that outlives the process", _kpi),
        ("experiment(), in the leader", "the process polls and sends too", _leading),
        ("experiment(tags=...)", "two tags in the exposure", _tagged),
        ("experiment(report_event=False), condition", "of two tags", _conditional),
        ("experiment(report_event=False), 5 variants", "a decision", _of_five),
        ("match_user_visitor()", "an event", _match),
    )
)
