"""What a host can tell us earlier than the first call would: that a worker starts, and that it ends. A module a host.

None of it is needed. Without it, a process joins the campaign and loads the settings at its first call; and what a
process leaves behind at its end is taken up by another, after the silence by which the loss of a leader is noticed.

With it, a worker has both before its first request, and its end is orderly: it waits for its events if `flush_events`
says so, finishes its files, and signs a leadership off. A hook returns within 50 ms, except that the end waits up to
`flush_timeout` with `flush_events`; and it never raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from hypotest import interrupts, log, runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def hook(function: Callable[..., None]) -> Callable[..., None]:
    """Makes `function` one that never raises: a host may end a worker whose hook does."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the outermost guard
            interrupts.let_through(error)
            log.limited(
                log.ERROR,
                f"hook:{function.__name__}:{type(error).__name__}",
                "%s() failed, the application goes on: %s",
                function.__name__,
                log.shown(error),
            )

    return guarded


@hook
def worker_starts() -> None:
    """Does now what the first call of this process would: joins the campaign, and loads the settings of the last run.

    Does and says nothing where no token is known yet, or with `connect_to_server=False`.
    """
    runtime.begin()


@hook
def worker_ends() -> None:
    """Ends the work of this process in order. With `flush_events`, waits up to `flush_timeout` for its events first.

    Not final: a later call starts anew.
    """
    runtime.finish()
