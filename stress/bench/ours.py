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
    else:  # the least there are: several of each in what is measured
        os.environ |= {"HT_PULL_INTERVAL": "0.1", "HT_PULL_JITTER": "0", "HT_SEND_INTERVAL": "0.05"}
    assert hypotest.wait_until_ready(30), hypotest.status()
    wait_for(lambda: hypotest.status().is_leader == leads, "the leader is the one that is meant to be")
    assert {hypotest.experiment("button", user_id=f"u{n}").variant for n in range(100)} == {"control", "b"}


def _polls() -> tuple[int, ...]:
    """What a leader does beside calls without events."""
    return (hypotest.status().polls,)


def _polls_and_sends() -> tuple[int, ...]:
    status = hypotest.status()
    return status.polls, status.sends


_experiment, _kpi = hypotest.experiment, hypotest.kpi_event
_SILENT = "experiment(report_event=False)"
_PLAIN: dict[str, Call] = {
    _SILENT: lambda user: _experiment("button", user, report_event=False),
    "experiment()": lambda user: _experiment("button", user),
    "kpi_event()": lambda user: _kpi("purchase", user),
}
_FURTHER: dict[str, tuple[str, Call]] = {
    "experiment(tags=...)": ("two tags in the exposure", lambda user: _experiment("button", user, tags=_TAGS)),
    "experiment(report_event=False), condition": (
        "of two tags",
        lambda user: _experiment("germans", user, tags=_TAGS, report_event=False),
    ),
    "experiment(), condition": (
        "of two tags, which are in the exposure",
        lambda user: _experiment("germans", user, tags=_TAGS),
    ),
    "experiment(report_event=False), 5 variants": (
        "a decision",
        lambda user: _experiment("five", user, report_event=False),
    ),
    "experiment(), 5 variants": ("a decision, and its exposure", lambda user: _experiment("five", user)),
    "kpi_event(tags=...)": ("two tags in the event", lambda user: _kpi("purchase", user, tags=_TAGS)),
    "match_user_visitor()": ("an event", lambda user: hypotest.match_user_visitor(user, "v-1")),
}
_WORDS = {
    _SILENT: "a decision",
    "experiment()": "a decision, and its exposure in a file that outlives the process",
    "kpi_event()": "an event in a file that outlives the process",
}


def _ours(name: str, what: str, call: Call, works: Callable[[], tuple[int, ...]] | None = None) -> Peer:
    """One of our calls; in the leader, if it works beside it."""

    def make(_: str, count: int) -> Call:
        begin(count, leads=works is not None)
        return call

    return Peer(
        name,
        "hypotest-python3-sdk",
        "hypotest",
        what,
        make,
        settle=lambda: hypotest.flush(30),
        works=works,
    )


OURS = (
    *(_ours(name, _WORDS[name], call) for name, call in _PLAIN.items()),
    _ours(f"{_SILENT}, in the leader", "which polls meanwhile, beside other work", _PLAIN[_SILENT], _polls),
    *(
        _ours(f"{name}, in the leader", "which polls and sends meanwhile, beside other work", call, _polls_and_sends)
        for name, call in _PLAIN.items()
        if name != _SILENT
    ),
    *(_ours(name, what, call) for name, (what, call) in _FURTHER.items()),
)
CONDITIONAL = ("experiment(report_event=False), condition", "experiment(), condition")
"""Those that evaluate a condition, as a rule of a peer's does."""
