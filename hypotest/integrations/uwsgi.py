"""Hooks for uWSGI, registered by importing this module where the application is loaded.

    import hypotest.integrations.uwsgi

With a master, each worker starts the SDK's work as soon as it is forked; with `lazy-apps`, at this import, which
therefore comes after `hypotest.config()`. Without a master, and outside uWSGI, the import does nothing. uWSGI's gevent
loop replaces the threads of Python after the fork, so there the first call of a worker starts the work.

At its end a worker signs off. uWSGI calls no exit function of a worker that is busy, of one with an asynchronous loop
(gevent), or with `skip-atexit`; what these leave behind is taken up by another process.
"""

from __future__ import annotations

import importlib
import sys

from hypotest.integrations import hook, worker_ends, worker_starts
from hypotest.runtime import uwsgi_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@hook
def _register() -> None:
    uwsgi = uwsgi_module()
    if uwsgi is None:
        return
    if uwsgi.worker_id() > 0:
        _on_fork(uwsgi)
    elif uwsgi.masterpid() > 0:
        _decorators(uwsgi).postfork(lambda: _on_fork(uwsgi))


def _decorators(uwsgi: Any) -> Any:
    """The module of decorators, whose first import puts functions of its own in place of the application's."""
    if "uwsgidecorators" in sys.modules:
        return importlib.import_module("uwsgidecorators")
    forked, spooled = getattr(uwsgi, "post_fork_hook", None), getattr(uwsgi, "spooler", None)
    decorators = importlib.import_module("uwsgidecorators")
    if forked is not None:
        decorators.postfork(forked)
    if spooled is not None:
        uwsgi.spooler = spooled
    return decorators


@hook
def _on_fork(uwsgi: Any) -> None:
    green = "gevent" in uwsgi.opt or uwsgi.opt.get("loop") == b"gevent"
    if uwsgi.worker_id() > 0 and not green:  # 0 in mules and spoolers, which may never use the SDK
        _at_end(uwsgi)
        worker_starts()


def _at_end(uwsgi: Any) -> None:
    """Has uWSGI call us after the application's function, if it has one; also where Python's own are skipped."""
    own = getattr(uwsgi, "atexit", None)

    def end() -> None:
        try:
            if own is not None:
                own()
        finally:
            worker_ends()

    uwsgi.atexit = end


_register()
