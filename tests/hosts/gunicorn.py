"""How gunicorn is started and asked."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hosts.doors import Door, HttpDoor
from tests.hosts.host import Host, Site

GTHREAD = ("--worker-class", "gthread", "--threads", "4")
GEVENT = ("--worker-class", "gevent")


class Gunicorn(Host):
    """gunicorn with two workers."""

    name = "gunicorn"
    usual = "MonkeyPatchWarning"  # gunicorn's own, of a preloaded gevent worker that took the place of a killed one

    def command(self, site: Site) -> Sequence[str]:
        common = ("--bind", f"unix:{site.socket}", "--workers", str(self.workers), "--graceful-timeout", "5")
        return ["gunicorn", *common, "--no-control-socket", *self.options, "tests.hosts.wsgi:application"]

    def door(self, site: Site) -> Door:
        return HttpDoor(site.socket)
