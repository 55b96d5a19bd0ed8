"""How uvicorn, hypercorn and granian are started and asked."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from tests.hosts.doors import Door, HttpDoor
from tests.hosts.host import Host, Site

APPLICATION = "tests.hosts.asgi:application"


class Asgi(Host):
    """A host that serves HTTP."""

    packages: tuple[str, ...] = ()

    def door(self, site: Site) -> Door:
        return HttpDoor(site.socket)


class Uvicorn(Asgi):
    """uvicorn, whose workers are spawned; its main process starts those anew that end.

    One that is killed while the main process asks whether it is well is missed when the time for the answer is over.
    """

    name = "uvicorn"
    packages = ("uvicorn",)
    unnoticed = 30.0
    statuses = (0, -signal.SIGTERM)  # a single process ends by the signal itself, afterwards

    def command(self, site: Site) -> Sequence[str]:
        common = ("--uds", str(site.socket), "--no-access-log", "--timeout-graceful-shutdown", "5")
        # Not its default of 5 s: a worker that is not ready by then ends a restart for good.
        patient = ("--timeout-worker-healthcheck", f"{self.unnoticed:.0f}")
        return ["uvicorn", *common, *patient, *self.options, APPLICATION]


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

    Unless that one held the lock of the event that says `stop`, which each looks at ten times a second: then the others
    and the main process wait for the lock for ever, and the operator has to kill them.

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
