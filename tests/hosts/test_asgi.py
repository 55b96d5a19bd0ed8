"""uvicorn, hypercorn, granian: event loops, in one process or in several that are spawned or forked."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.hosts.doors import Door, HttpDoor
from tests.hosts.host import Host, Site
from tests.hosts.proof import prove
from tests.hosts.trials import hang, kill_the_leader, recycle, reload_by

APPLICATION = "tests.hosts.asgi:application"


class Asgi(Host):
    """A host that serves HTTP."""

    packages: tuple[str, ...] = ()

    def door(self, site: Site) -> Door:
        return HttpDoor(site.socket)


class Uvicorn(Asgi):
    """uvicorn, whose workers are spawned; its main process starts those anew that end."""

    name = "uvicorn"
    packages = ("uvicorn",)
    statuses = (0, -signal.SIGTERM)  # a single process ends by the signal itself, afterwards

    def command(self, site: Site) -> Sequence[str]:
        common = ("--uds", str(site.socket), "--no-access-log", "--timeout-graceful-shutdown", "5")
        return ["uvicorn", *common, *self.options, APPLICATION]


class UvicornWorker(Asgi):
    """gunicorn with uvicorn's worker, which does not look whether gunicorn's main process lives."""

    name = "gunicorn with uvicorn's worker"
    packages = ("gunicorn", "uvicorn_worker")
    usual = "INFO. Error while closing socket .Errno 9. Bad file descriptor"
    orphans = True

    def command(self, site: Site) -> Sequence[str]:
        common = ("--bind", f"unix:{site.socket}", "--workers", str(self.workers), "--graceful-timeout", "5")
        kind = ("--worker-class", "uvicorn_worker.UvicornWorker", "--no-control-socket")
        return ["gunicorn", *common, *kind, *self.options, APPLICATION]


class Hypercorn(Asgi):
    """hypercorn, whose workers are spawned. When one is killed it ends itself: an operator has to start it anew.

    A connection that is accepted right at the stop is cancelled, of which Python 3.11's asyncio prints a traceback, and
    3.13's one of its transport's destructor.
    """

    name = "hypercorn"
    usual = (
        r"StreamReaderProtocol|Traceback|task\.exception\(\)|propagate_cancellation_error|CancelledError"
        r"|_SelectorTransport\.__del__|TypeError: 'NoneType' object is not iterable"
    )
    mortal = True
    packages = ("hypercorn",)

    def command(self, site: Site) -> Sequence[str]:
        common = ("--bind", f"unix:{site.socket}", "--graceful-timeout", "5")
        return ["hypercorn", *common, *self.options, APPLICATION]


class Granian(Asgi):
    """granian, whose workers are forked, until Python 3.14."""

    name = "granian"
    packages = ("granian",)
    # Its own: of 72 stops of an application without us, on a busy machine, 15 ended so, 10 of them without any load.
    usual = "WARNING. Killing worker-. after it refused to gracefully stop"

    def command(self, site: Site) -> Sequence[str]:
        common = ("--uds", str(site.socket), "--workers", str(self.workers), "--workers-kill-timeout", "5")
        again = ("--respawn-failed-workers", "--respawn-interval", "0.1")
        return ["granian", *common, *again, *self.options]


KILL = (kill_the_leader,)
TWO = ("--workers", "2")
GRANIAN_ASGI = ("--interface", "asgi", APPLICATION)
GRANIAN_WSGI = ("--interface", "wsgi", "tests.hosts.wsgi:application")
SPAWNING = {"HOSTS_SUBPROCESSES": "1"}
# Not all at once: while no worker is there nobody polls.
RECYCLED = ("--max-requests", "100", "--max-requests-jitter", "100")
LIMITED = ("--limit-max-requests", "100", "--limit-max-requests-jitter", "100")
UVLOOP = {"packages": ("uvicorn", "uvloop")}

MODES = [
    Uvicorn("one process, asyncio", "--loop", "asyncio", workers=1, trials=KILL),
    Uvicorn("one process, uvloop", "--loop", "uvloop", workers=1, trials=KILL, **UVLOOP),
    Uvicorn("two workers, asyncio", *TWO, "--loop", "asyncio", trials=KILL),
    Uvicorn("two workers, uvloop", *TWO, "--loop", "uvloop", trials=KILL, **UVLOOP),
    Uvicorn("two workers, limit_max_requests", *TWO, *LIMITED, trials=(recycle, kill_the_leader)),
    Uvicorn("two workers, reload by SIGHUP", *TWO, trials=(reload_by(signal.SIGHUP), kill_the_leader)),
    Uvicorn("one process, asyncio, spawning subprocesses", "--loop", "asyncio", workers=1, env=SPAWNING, trials=KILL),
    Uvicorn(
        "two workers, uvloop, spawning subprocesses", *TWO, "--loop", "uvloop", env=SPAWNING, trials=KILL, **UVLOOP
    ),
    Uvicorn("two workers, work in threads", *TWO, env={"HOSTS_THREADS": "1"}, trials=KILL),
    UvicornWorker("two workers", trials=KILL),
    UvicornWorker("two workers, preloaded, SDK used in the master", "--preload", early=True, trials=KILL),
    UvicornWorker("two workers, max_requests", *RECYCLED, trials=(recycle, kill_the_leader)),
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
