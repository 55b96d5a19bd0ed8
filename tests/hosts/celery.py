"""How a celery worker is started, with its broker, and asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tests.hosts.doors import Door, LineDoor
from tests.hosts.host import Host, Site
from tests.server_process import wait_for

FOLDERS, REDIS = "filesystem", "redis"
PATIENCE = 2.0


class Celery(Host):
    """A celery worker with two children; its broker is a Redis of its own, or folders."""

    name = "celery"
    broker = REDIS
    # A child that was killed is reported a second later, perhaps at the stop, with the traceback of celery's own error.
    usual = (
        "Requeuing undeliverable message|could not ensure all messages were consumed|signal 9 .SIGKILL.|WorkerLostError"
        "|Traceback|ExceptionWithTraceback|WorkerShutdown: 0|another exception occurred"
    )

    def before(self, site: Site) -> None:
        site.env["HOSTS_BROKER"] = self.broker
        if self.broker == REDIS:
            options = ("--port", "0", "--unixsocket", "redis", "--save", "", "--appendonly", "no")
            site.run_beside(["redis-server", *options], stdout=subprocess.DEVNULL)
            wait_for((site.home / "redis").exists, "Redis listens")
        else:  # as kombu writes it, which does so in two steps: who begins between them finds it empty, and ends
            (site.home / "control").mkdir()
            (site.home / "control" / "celery.exchange").write_text('[["celery", "", "celery"]]', encoding="ascii")

    def command(self, site: Site) -> Sequence[str]:
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        return ["celery", "-A", "tests.hosts.tasks", "worker", "--concurrency", "2", *quiet, *self.options]

    def door(self, site: Site) -> Door:
        door = LineDoor(site.answers, patience=PATIENCE)
        sender = site.run_beside([sys.executable, "-m", "tests.hosts.broker"], stdin=subprocess.PIPE)
        assert sender.stdin is not None
        door.write_to(sender.stdin)
        return door
