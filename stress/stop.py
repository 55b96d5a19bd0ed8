"""How long a host takes to stop while the server is away, with the SDK and without: medians of one run, interleaved.

The bar: not slower than without the SDK by more than flush_timeout, and with flush_events off by 0.2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from stress.running import WITHOUT, running
from tests.hosts.celery import Celery
from tests.hosts.event_loops import Uvicorn
from tests.hosts.gunicorn import GEVENT, GTHREAD, Gunicorn
from tests.hosts.host import Host
from tests.hosts.uwsgi import MASTER, Uwsgi
from tests.server_process import ServerProcess

_FLUSH_TIMEOUT = 1.0
_MOST = 0.2  # s
_FLUSH = {"HT_FLUSH_EVENTS": "true", "HT_FLUSH_TIMEOUT": str(_FLUSH_TIMEOUT)}
_HOSTS: dict[str, Callable[..., Host]] = {
    "gunicorn sync": partial(Gunicorn, "sync"),
    "gunicorn gthread": partial(Gunicorn, "gthread", *GTHREAD),
    "gunicorn gevent": partial(Gunicorn, "gevent", *GEVENT),
    "uwsgi --master": partial(Uwsgi, "master", *MASTER),
    "celery prefork": partial(Celery, "prefork"),
    "uvicorn --workers 2": partial(Uvicorn, "workers", "--workers", "2"),
}
_WAYS = {"without": WITHOUT, "flush off": {}, "flush on": _FLUSH}


def main(rounds: str = "5") -> int:
    """Measures in so many rounds, and prints the table; 1 if a stop takes longer than it may."""
    times, missed = int(rounds), 0
    for away, what in ((ServerProcess.kill, "unreachable"), (ServerProcess.pause, "hung")):
        print(f"server {what}: seconds to stop, median of {times}; flush_timeout {_FLUSH_TIMEOUT:g} s")
        print(f"{'':22}{'without':>10}{'flush off':>11}{'more':>8}{'flush on':>11}{'more':>8}")
        for name, make in _HOSTS.items():
            seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
            for _ in range(times):
                for way, env in _WAYS.items():
                    with running(make, env, away) as site:
                        seconds[way].append(site.stop())
            without, off, on = (median(seconds[way]) for way in _WAYS)
            print(f"{name:22}{without:10.2f}{off:11.2f}{off - without:+8.2f}{on:11.2f}{on - without:+8.2f}", flush=True)
            missed += off - without > _MOST or on - without > _FLUSH_TIMEOUT + _MOST
    print(f"a stop may take {_MOST} s more, and flush_timeout where it flushes: {missed} do not keep to it")
    return int(missed > 0)
