"""The application as WSGI: `GET /?<name of the work>`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from tests.hosts.work import early, work

if os.environ.get("HOSTS_UWSGI_HOOKS"):
    importlib.import_module("hypotest.integrations.uwsgi")
early()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Works, and hangs afterwards if the name of the work says so: to be ended by the host's own timeout."""
    ask = environ["QUERY_STRING"]
    answer = json.dumps(work(ask)).encode()
    if ask.startswith("stuck"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # only SIGKILL ends this worker
    if ask.startswith(("hang", "stuck")):
        threading.Event().wait()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
