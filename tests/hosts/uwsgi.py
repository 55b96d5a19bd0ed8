"""How uWSGI is started, asked and stopped.

With a master it is asked to stop by SIGTERM and --die-on-term, without which SIGTERM means reload; with that
option it is SIGQUIT that means reload. Without a master each process has to be told by itself, SIGTERM or SIGINT
alike, and returns 30, or 17 under gevent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.doors import Door, HttpDoor
from tests.hosts.host import Host, Site
from tests.packages import installed

MASTER = ("--master", "--die-on-term")


class Uwsgi(Host):
    """uWSGI with a master and two workers."""

    name = "uwsgi"

    def command(self, site: Site) -> Sequence[str]:
        common = ("--http-socket", str(site.socket), "--processes", str(self.workers), "--disable-logging")
        return ["uwsgi", *common, "--need-app", "--module", "tests.hosts.wsgi:application", *self.options]

    def door(self, site: Site) -> Door:
        return HttpDoor(site.socket)


class OldUwsgi(Uwsgi):
    """The last version in which no thread moves between requests, but with --enable-threads or --threads."""

    name = "uwsgi 2.0.26"

    def before(self, site: Site) -> None:
        site.env["PYTHONPATH"] = os.pathsep.join([str(self._folder()), site.env["PYTHONPATH"]])

    def command(self, site: Site) -> Sequence[str]:
        return [sys.executable, str(self._folder() / "bin" / "uwsgi"), *super().command(site)[1:]]

    def _folder(self) -> Path:
        return installed(f"uwsgi-2.0.26-{sys.implementation.cache_tag}", "pyuwsgi==2.0.26")
