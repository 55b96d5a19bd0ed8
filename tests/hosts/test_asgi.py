"""uvicorn, hypercorn, granian: event loops, in one process or in several that are spawned or forked."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.event_loops import APPLICATION, Asgi, Granian, Hypercorn, Uvicorn, UvicornWorker
from tests.hosts.proof import prove
from tests.hosts.trials import hang, kill_the_leader, recycle, reload_by

KILL = (kill_the_leader,)
TWO = ("--workers", "2")
GRANIAN_ASGI = ("--interface", "asgi", APPLICATION)
GRANIAN_WSGI = ("--interface", "wsgi", "tests.hosts.wsgi:application")
SPAWNING = {"HOSTS_SUBPROCESSES": "1"}
# Not all at once: while no worker is there nobody polls.
RECYCLED = ("--max-requests", "100", "--max-requests-jitter", "100")
LIMITED = ("--limit-max-requests", "100", "--limit-max-requests-jitter", "100")
# Some of the workers that have done enough are asked for their health as they end, and missed as one that is killed
# then. The other one ends meanwhile: nobody answers, and no stop is heard, until the time for the answer is over.
MISSED: dict[str, Any] = {"unnoticed": 10.0}
UVLOOP = {"packages": ("uvicorn", "uvloop")}

MODES = [
    Uvicorn("one process, asyncio", "--loop", "asyncio", workers=1, trials=KILL),
    Uvicorn("one process, uvloop", "--loop", "uvloop", workers=1, trials=KILL, **UVLOOP),
    Uvicorn("two workers, asyncio", *TWO, "--loop", "asyncio", trials=KILL),
    Uvicorn("two workers, uvloop", *TWO, "--loop", "uvloop", trials=KILL, **UVLOOP),
    Uvicorn("two workers, limit_max_requests", *TWO, *LIMITED, trials=(recycle, kill_the_leader), **MISSED),
    Uvicorn("two workers, reload by SIGHUP", *TWO, trials=(reload_by(signal.SIGHUP), kill_the_leader)),
    Uvicorn("one process, asyncio, spawning subprocesses", "--loop", "asyncio", workers=1, env=SPAWNING, trials=KILL),
    Uvicorn(
        "two workers, uvloop, spawning subprocesses", *TWO, "--loop", "uvloop", env=SPAWNING, trials=KILL, **UVLOOP
    ),
    Uvicorn("two workers, work in threads", *TWO, env={"HOSTS_THREADS": "1"}, trials=KILL),
    UvicornWorker("two workers", trials=KILL),
    UvicornWorker("two workers, preloaded, SDK used in the master", "--preload", early=True, trials=KILL),
    UvicornWorker(  # one that is forked just then never hears of the stop
        "two workers, max_requests", *RECYCLED, trials=(recycle, kill_the_leader), stops_at_rest=True
    ),
    UvicornWorker("worker timeout by SIGABRT", "--timeout", "2", trials=(hang("hang", "WORKER TIMEOUT"),)),
    Hypercorn("two workers", *TWO, trials=KILL),
    Hypercorn("two workers, max_requests", *TWO, *RECYCLED, trials=(recycle, kill_the_leader)),
    Granian("asgi", *GRANIAN_ASGI, trials=KILL),
    Granian(
        "asgi, reload by SIGHUP", *GRANIAN_ASGI, trials=(reload_by(signal.SIGHUP),)
    ),  # for 5.5 s after it granian is mortal
    Granian("wsgi", *GRANIAN_WSGI, trials=KILL),
    Granian("wsgi, threads", *GRANIAN_WSGI, "--blocking-threads", "4", trials=KILL),
]


@pytest.mark.parametrize("host", MODES, ids=str)
def test_asgi(host: Asgi, tmp_path: Path) -> None:
    """Under uvicorn, hypercorn and granian nothing is lost or doubled, and no answer is stale."""
    for package in host.packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    prove(host, tmp_path)
