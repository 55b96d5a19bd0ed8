"""Signals of celery's workers.

    import hypotest.integrations.celery
    hypotest.integrations.celery.connect()

in the module of the celery application. Where tasks run decides what happens:

| pool | worker_init | worker_process_init | worker_process_shutdown | worker_shutdown |
|---|---|---|---|---|
| prefork | main: nothing, since it forks | child: start | child: end | main: end of what the application did there |
| solo | nothing | main: start | not sent | main: end |
| threads, gevent, eventlet | main: start, unless an embedded beat will be forked | not sent | not sent | main: end |

The children of prefork end by `os._exit`, after their signal: no exit handler runs there.
"""

from __future__ import annotations

import importlib

from hypotest.integrations import hook, worker_ends, worker_starts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IN_MAIN_PROCESS = ("thread", "threads", "gevent", "eventlet")


@hook
def connect() -> None:
    """Connects the four signals. May be called again: each is connected once."""
    signals = importlib.import_module("celery.signals")
    for signal, receiver in (
        (signals.worker_init, _on_worker_init),
        (signals.worker_process_init, _on_start),
        (signals.worker_process_shutdown, _on_end),
        (signals.worker_shutdown, _on_end),
    ):
        signal.connect(receiver, weak=False)


def _on_start(**_: Any) -> None:
    worker_starts()


def _on_end(**_: Any) -> None:
    worker_ends()


@hook
def _on_worker_init(sender: Any = None, **_: Any) -> None:
    """In the main process, before it has made its pool. A thread of ours must not be there when it forks."""
    pool = sender.pool_cls  # a name, "module:class", or a class
    module = pool.partition(":")[0] if isinstance(pool, str) else pool.__module__
    if module.rpartition(".")[2] in _IN_MAIN_PROCESS and not sender.options.get("beat"):
        worker_starts()
