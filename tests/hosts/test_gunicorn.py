"""gunicorn: its workers are forked by os.fork, from a master that may have loaded the application."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.gunicorn import GEVENT, GTHREAD, Gunicorn
from tests.hosts.proof import prove
from tests.hosts.trials import hang, kill_the_leader, recycle, reload_by

pytest.importorskip("gunicorn", reason="gunicorn is not installed")

HOOKS = ("--config", "python:tests.hosts.gunicorn_hooks")
KILL = (kill_the_leader,)
HANG = hang("hang", "WORKER TIMEOUT")
STUCK = hang("stuck", "was sent SIGKILL")
# It ends requests, and logs where each was: any line of the application's, or of ours, such as `if error is not None`.
QUIT: dict[str, Any] = {"stop_signal": signal.SIGQUIT, "usual": "Error handling request|Traceback|^ |During handling"}
# gunicorn itself hangs, in 9 of 150 quick stops under load without us, if the signal comes while a gthread worker hands
# a request to its threads: the handler takes the lock of the pool once more, for ever. And a worker that is still
# booting, as one of those that come and go may be, never hears of a stop.
AT_REST: dict[str, Any] = {"stops_at_rest": True}

MODES = [
    Gunicorn("sync", trials=KILL),
    Gunicorn("sync, preloaded", "--preload", trials=KILL),
    Gunicorn("sync, preloaded, SDK used in the master", "--preload", early=True, trials=KILL),
    Gunicorn("gthread", *GTHREAD, trials=KILL),
    Gunicorn("gthread, preloaded", *GTHREAD, "--preload", trials=KILL),
    Gunicorn("gthread, preloaded, SDK used in the master", *GTHREAD, "--preload", early=True, trials=KILL),
    Gunicorn("gevent", *GEVENT, trials=KILL),
    Gunicorn("gevent, preloaded", *GEVENT, "--preload", trials=KILL),
    Gunicorn("gevent, preloaded, SDK used in the master", *GEVENT, "--preload", early=True, trials=KILL),
    Gunicorn("sync, max_requests", "--max-requests", "200", trials=(recycle, kill_the_leader), **AT_REST),
    Gunicorn(
        "gthread, preloaded, max_requests", *GTHREAD, "--preload", "--max-requests", "200", trials=(recycle,), **AT_REST
    ),
    Gunicorn("gevent, max_requests", *GEVENT, "--max-requests", "200", trials=(recycle,), **AT_REST),
    Gunicorn("sync, worker timeout by SIGABRT", "--timeout", "2", trials=(HANG, kill_the_leader)),
    Gunicorn("sync, worker timeout by SIGKILL", "--timeout", "2", trials=(STUCK,)),
    Gunicorn("sync, reload by SIGHUP", trials=(reload_by(signal.SIGHUP), kill_the_leader)),
    Gunicorn("gthread, preloaded, reload by SIGHUP", *GTHREAD, "--preload", trials=(reload_by(signal.SIGHUP),)),
    Gunicorn("sync, stop by SIGQUIT", trials=KILL, **QUIT),
    Gunicorn("gthread, stop by SIGQUIT", *GTHREAD, trials=KILL, **QUIT, **AT_REST),
    Gunicorn(
        "sync, hypotest.integrations", *HOOKS, "--max-requests", "200", trials=(recycle, kill_the_leader), **AT_REST
    ),
    Gunicorn("gthread, preloaded, hypotest.integrations", *HOOKS, *GTHREAD, "--preload", trials=KILL),
    Gunicorn("gevent, hypotest.integrations", *HOOKS, *GEVENT, trials=KILL),
]


@pytest.mark.parametrize("host", MODES, ids=str)
def test_gunicorn(host: Gunicorn, tmp_path: Path) -> None:
    """With each kind of worker of gunicorn nothing is lost or doubled, and no answer is stale."""
    prove(host, tmp_path)
