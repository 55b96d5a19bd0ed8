"""Hooks for gunicorn, to be imported into `gunicorn.conf.py`.

    from hypotest.integrations.gunicorn import post_fork, post_worker_init, worker_exit

All worker classes, with `preload_app` or without. `post_fork` comes first, before a worker loads the application. It
leaves three kinds of workers to `post_worker_init`, which comes last before the first request: those of gevent, those
that change their user, and those whose application calls `hypotest.config(token=...)` when it is loaded.
"""

from __future__ import annotations

import os

from hypotest.integrations import hook, worker_ends, worker_starts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@hook
def post_fork(server: Any, worker: Any) -> None:
    """Starts the SDK's work in a worker that was just forked, where that is sound already.

    Not in a worker that replaces the threads and locks of Python after this hook: with a thread of ours from before,
    one worker of gevent froze until its timeout, and two could not import (3 of 3 starts). And not in one that gives up
    its privileges after it: files made before would be another user's.

    Args:
        server: gunicorn's arbiter.
        worker: the worker, in its own process.
    """
    patches = hasattr(worker, "patch")  # gevent's, and others made after them
    config = server.cfg
    if not patches and (config.uid, config.gid) == (os.geteuid(), os.getegid()):
        worker_starts()


@hook
def post_worker_init(worker: Any) -> None:  # noqa: ARG001 - gunicorn counts the arguments
    """Starts the SDK's work in a worker that has loaded the application, if `post_fork` did not.

    Args:
        worker: the worker, in its own process.
    """
    worker_starts()


@hook
def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn counts the arguments
    """Ends the SDK's work in a worker. With `flush_events`, waits for its events, up to `flush_timeout`.

    Args:
        server: gunicorn's arbiter.
        worker: the worker, in its own process; or in the master's, which calls this too for a worker that is gone.
    """
    if worker.pid == os.getpid():
        worker_ends()
