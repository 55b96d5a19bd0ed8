"""The application of celery's workers; names of tasks are the first words of names of work.

celery may run a task more than once, as when it is told to stop before it has acknowledged it. So each run does work of
a name of its own, `<what was asked>/<the run>`, and answers by it: whatever is then there twice is our doing.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import billiard.pool
from celery.exceptions import SoftTimeLimitExceeded

import hypotest
from tests.hosts.broker import connected
from tests.hosts.doors import reply
from tests.hosts.work import early, work

SOFT_LIMIT = 1.5
"""Seconds; a limit that comes before the task is in its `try` makes it fail: celery counts from before its own code."""
LOST = 30.0
"""Seconds after which a task whose limit did not reach it ends without an answer."""
RETRIES = 2

# At a stop, a child waits for the main process to read its last result, which it may do no more: up to 30 s, without
# the SDK, too. It is seen at every third stop under load, and 1 s of it is enough here.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10

app = connected()
if os.environ.get("HOSTS_CONNECT"):
    from hypotest.integrations.celery import connect

    connect()
early()


def _run_of(ask: str) -> str:
    return f"{ask}/{os.getpid()}-{time.monotonic_ns()}"


def plain(ask: str) -> None:
    name = _run_of(ask)
    reply(ask, work(name) | {"done": [name]})


app.task(plain, name="work")
app.task(plain, name="late", acks_late=True, reject_on_worker_lost=True)


@app.task(name="retried", bind=True, max_retries=RETRIES)
def retried(self: Any, ask: str, done: Sequence[str] = ()) -> None:
    """Each attempt does work; the last one answers for all."""
    name = _run_of(ask)
    told = work(name)
    done = [*done, name]
    if self.request.retries < RETRIES:
        raise self.retry(args=(ask, done), countdown=0)
    reply(ask, told | {"done": done})


@app.task(name="dies", bind=True, acks_late=True, reject_on_worker_lost=True)
def dies(self: Any, ask: str) -> None:
    """Works, and is killed; when it comes again, it answers for both."""
    first, again = f"{ask}/first", _run_of(ask)
    if not self.request.delivery_info["redelivered"]:
        work(first)
        os.kill(os.getpid(), signal.SIGKILL)
    reply(ask, work(again) | {"done": [first, again]})


@app.task(name="hang", time_limit=1)
def hang(ask: str) -> None:
    """Until the hard time limit: SIGTERM, then SIGKILL."""
    work(_run_of(ask))
    threading.Event().wait()


@app.task(name="stuck", time_limit=1)
def stuck(ask: str) -> None:
    """The same, when only SIGKILL ends the process."""
    work(_run_of(ask))
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Event().wait()


@app.task(name="soft", soft_time_limit=SOFT_LIMIT)
def soft(ask: str) -> None:
    """Waits for the soft time limit, and answers after it."""
    told, name = None, _run_of(ask)
    try:
        told = work(name)
        time.sleep(LOST)
    except SoftTimeLimitExceeded:
        _reply_after_the_limit(ask, told, [name])


@app.task(name="loop", soft_time_limit=SOFT_LIMIT)
def loop(ask: str) -> None:
    """Is inside our calls nearly all the time when the soft time limit comes."""
    told, name = None, _run_of(ask)
    done = [name]
    try:
        told = work(name)
        time.sleep(SOFT_LIMIT - 0.01)
        end = time.monotonic() + LOST
        for number in itertools.count():
            part = f"{name}/{number}"
            _quick(part)
            done.append(part)
            if time.monotonic() > end:
                break
    except SoftTimeLimitExceeded:
        _reply_after_the_limit(ask, told, done)


def _quick(part: str) -> None:
    tags = {"request": part}
    hypotest.experiment("left", visitor_id=part, tags=tags)
    hypotest.experiment("right", visitor_id=part, tags=tags)
    hypotest.kpi_event("done", visitor_id=part, tags=tags)


def _reply_after_the_limit(ask: str, told: dict[str, Any] | None, done: list[str]) -> None:
    if told is None:  # the limit came even before that
        name = _run_of(ask)
        told, done = work(name), [name]
    reply(ask, told | {"done": done})
