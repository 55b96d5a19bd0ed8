"""celery: prefork's children are forked by billiard, and never run atexit; other pools work in the main process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hypotest.control import EPOCH
from tests.hosts.celery import FOLDERS, REDIS, Celery
from tests.hosts.doors import Unanswered
from tests.hosts.proof import Proof, prove
from tests.hosts.trials import hang, kill_the_leader, recycle, reload_by
from tests.server_process import wait_for

pytest.importorskip("celery", reason="celery is not installed")


def kill_the_main(proof: Proof) -> None:
    """SIGKILL for the main process: its children end with it, and an operator starts it again."""
    words = proof.site.page().words
    children = set(proof.site.processes()) - {proof.site.process.pid}
    proof.site.process.kill()
    proof.site.process.wait()
    wait_for(lambda: not children & set(proof.site.processes()), "the children end with their parent")
    epoch, killed = words[EPOCH], time.monotonic()
    proof.start()
    wait_for(lambda: words[EPOCH] > epoch, "another leader")
    proof.row["takeover"] = max(time.monotonic() - killed, proof.row.get("takeover", 0.0))


def redeliver(proof: Proof) -> None:
    """SIGKILL for a child in the middle of a task, which comes again to another one: the events of both are there."""
    before = len(proof.load.answers)
    wait_for(lambda: _answered(proof, "dies"), "a task that was redelivered")
    assert any(len(answer.done) == 2 for answer in proof.load.answers[before:])


def _answered(proof: Proof, name: str) -> int:
    """Asks; tells how much work was done by the answer, 0 if there is none."""
    try:
        return len(proof.load.ask(name, patience=60).done)
    except Unanswered:
        return 0


def soft_limits(name: str, times: int) -> Any:
    """The trial of tasks that run into their soft time limit, `times` of them in each of two threads; all answer."""

    def run(proof: Proof, answered: list[int]) -> None:
        answered += [_answered(proof, name) for _ in range(times)]

    def soft_limits_(proof: Proof) -> None:
        answered: list[int] = []
        threads = [threading.Thread(target=run, args=(proof, answered)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answered), f"{answered} done in each: {proof.load.trouble}"

    return soft_limits_


KILL = (kill_the_leader,)
MAIN = (kill_the_main,)  # with a broker of files, children share a lock; the SIGKILL of one that waits blocks the pool
ONE: dict[str, Any] = {"workers": 1, "lone": True}
BY_FOLDERS = {"broker": FOLDERS}
HANG = hang("hang", "Hard time limit")
STUCK = hang("stuck", "Hard time limit")
# celery hangs for ever, in its own code, if a stop comes while it makes a child, which it then takes for a dead one
# ("pid:None exited with 'exitcode None'"), and a cold one if it comes in the middle of handing a task to a child, which
# then waits for the rest (it does all of it in the signal's handler).
AT_REST: dict[str, Any] = {"stops_at_rest": True}
RECYCLE = ("--max-tasks-per-child", "30", "--concurrency", "3")  # three: while none of two is there, nobody polls
CONNECT = {"HOSTS_CONNECT": "1"}
COLD: dict[str, Any] = {"stop_signal": signal.SIGQUIT, "statuses": (0, 1), **AT_REST}

MODES = [
    Celery("prefork", trials=KILL),
    Celery("prefork, SDK used in the main process", early=True, trials=KILL),
    Celery("prefork, max_tasks_per_child", *RECYCLE, trials=(recycle, kill_the_leader), **AT_REST),
    Celery("prefork, broker of files, max_tasks_per_child", *RECYCLE, trials=(recycle,), **BY_FOLDERS, **AT_REST),
    Celery("prefork, soft time limit while it waits", trials=(soft_limits("soft", 5), kill_the_leader)),
    Celery("prefork, soft time limit in our calls", trials=(soft_limits("loop", 10), kill_the_leader)),
    Celery("prefork, hard time limit by SIGTERM", trials=(HANG, kill_the_leader)),
    Celery("prefork, hard time limit by SIGKILL", trials=(STUCK, kill_the_leader)),
    Celery("prefork, main process killed", trials=MAIN),
    Celery("prefork, tasks retried", env={"HOSTS_TASK": "retried"}, trials=KILL),
    Celery("prefork, acks_late", env={"HOSTS_TASK": "late"}, trials=(redeliver, kill_the_leader)),
    Celery("prefork, cold shutdown", trials=KILL, **COLD),
    Celery(
        "prefork, restart by SIGHUP, SDK used in the main process",
        early=True,
        trials=(reload_by(signal.SIGHUP), kill_the_leader),
    ),
    Celery(
        "prefork, hypotest.integrations.celery, max_tasks_per_child",
        *RECYCLE,
        env=CONNECT,
        trials=(recycle, kill_the_leader),
        **AT_REST,
    ),
    Celery("prefork, hypotest.integrations.celery, SDK used in the main process", env=CONNECT, early=True, trials=KILL),
    Celery("prefork, hypotest.integrations.celery, broker of files", env=CONNECT, trials=MAIN, **BY_FOLDERS),
    Celery("threads, hypotest.integrations.celery", "--pool", "threads", env=CONNECT, trials=KILL, **ONE),
    Celery("gevent, hypotest.integrations.celery", "--pool", "gevent", env=CONNECT, trials=KILL, **ONE),
    Celery("prefork by spawn", env={"HOSTS_START_METHOD": "spawn"}, early=True, trials=KILL),
    Celery("threads", "--pool", "threads", trials=KILL, **ONE),
    Celery("solo, broker of files", "--pool", "solo", trials=KILL, **ONE, **BY_FOLDERS),
    Celery("gevent, SDK used while it loads", "--pool", "gevent", early=True, trials=KILL, **ONE),
]


def missing(host: Celery) -> str:
    """What this mode needs and cannot have here."""
    needed = {"redis": host.broker == REDIS, "gevent": "gevent" in host.options}
    lacking = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    if host.broker == REDIS and shutil.which("redis-server") is None:
        lacking.append("redis-server")
    return ", ".join(lacking)


@pytest.mark.parametrize("host", MODES, ids=str)
def test_celery(host: Celery, tmp_path: Path) -> None:
    """With each pool and broker of celery nothing is lost or doubled, and no answer is stale."""
    lacking = missing(host)
    assert not (lacking and os.environ.get("CI")), f"not installed: {lacking}"
    if lacking:
        pytest.skip(f"not installed: {lacking}")
    prove(host, tmp_path)
