"""How gunicorn runs the demo's application: preloaded, four workers; all its files are in its current directory.

`address` and `workers/<pid>` tell the demo where to ask and who is there. HypoTest itself needs no line here.
"""

from __future__ import annotations

import os
from typing import Any

_HERE = os.getcwd()
ADDRESS, WORKERS = "address", "workers"

bind = "127.0.0.1:0"
workers = 4
preload_app = True
worker_class = "gthread"  # keeps connections open, so that a visitor, and the demo, stay with one worker
threads = 4
keepalive = 60
timeout = 30
graceful_timeout = 3
worker_tmp_dir = _HERE
control_socket_disable = True  # gunicorn 25.1 and later would put it into the user's home


def when_ready(server: Any) -> None:
    """Tells the port."""
    host, port = server.LISTENERS[0].sock.getsockname()[:2]
    draft = f"{_HERE}/.{ADDRESS}"
    with open(draft, "w", encoding="ascii") as file:
        file.write(f"http://{host}:{port}")
    os.rename(draft, f"{_HERE}/{ADDRESS}")


def post_worker_init(worker: Any) -> None:
    """Signs a worker on."""
    os.close(os.open(f"{_HERE}/{WORKERS}/{worker.pid}", os.O_CREAT | os.O_WRONLY, 0o600))


def child_exit(_server: Any, worker: Any) -> None:
    """Signs a worker off, in the master."""
    try:
        os.unlink(f"{_HERE}/{WORKERS}/{worker.pid}")
    except FileNotFoundError:
        return  # it ended before it had begun
