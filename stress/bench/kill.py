"""Four forked workers accept 1,000 events each, and all are SIGKILLed at once: how many of them are delivered?

A contender's client is made once before the fork, or by each worker after it; nothing else is done about the fork than
what its package does by itself. The parent lives on, and may send what it has. A worker that hangs in its calls, as one
may that was forked from a process with threads, is killed with the others after `_PATIENCE`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stress.bench.peer import Call
from stress.bench.peers import DELIVERING, KPI, PEERS, missing
from stress.bench.row import Row
from stress.bench.sink import Sink
from tests.server_process import ROOT, ServerProcess, clean_env

WORKERS = 4
EVENTS = 1_000
WHEN = ("before", "after")
_OURS = "ours"
_ALL = WORKERS * EVENTS
_DELIVERY = 10
_PATIENCE = 30


def measure() -> Iterator[Row]:
    """Delivered events: of each peer that delivers any, and of ours, which has to deliver all."""
    for peer in PEERS:
        if peer.name in DELIVERING and not missing(peer):
            for when in WHEN:
                yield _row(peer.name, when, _delivered_of(peer.name, when))
    for when in WHEN:
        ours = _delivered_of_ours(when)
        yield _row(_OURS, when, ours.stored, bar=f"{_ALL:,}, each once", met=ours.once == ours.stored == _ALL)
        yield Row("kill", f"{_OURS}, client made {when} the fork: sent twice, stored once", ours.again, "events")


def _row(who: str, when: str, delivered: int, bar: str = "", met: bool | None = None) -> Row:
    what = f"{who}, client made {when} the fork: delivered of {_ALL:,}"
    return Row("kill", what, delivered, "events", bar=bar, met=met)


def _delivered_of(peer: str, when: str) -> int:
    """What a peer brought to the sink until 10 s after the kill."""
    with Sink() as sink, _family(peer, when, sink.url, clean_env()):
        end = time.monotonic() + _DELIVERY
        while (count := sink.count()) < _ALL and time.monotonic() < end:
            time.sleep(0.1)
        return count


class Stored(NamedTuple):
    """What our own server has.

    Attributes:
        stored: events, whosoever's.
        once: the calls that are there, and there once: each has a user of its own. An event id cannot tell, since the
            server stores one only once; a call that was kept twice would have two.
        again: events that arrived once more, and were known by their ids.
    """

    stored: int
    once: int
    again: int


def _delivered_of_ours(when: str) -> Stored:
    """What there is after a process that only flushes; the parent has ended, and may have sent a part."""
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        env = clean_env() | {
            "HT_TOKEN": server.token,
            "HT_SERVER_URL": server.url,
            "HT_STATE_DIR": f"{directory}/state",
        }
        with _family(_OURS, when, server.url, env):
            pass
        flush = f"import hypotest; hypotest.flush({_DELIVERY})"
        subprocess.run([sys.executable, "-c", flush], env=env, check=True, timeout=_PATIENCE, stdout=subprocess.DEVNULL)
        users = Counter(user for (user,) in server.query("SELECT user_id FROM events"))
        once = sum(users[_user(worker, event)] == 1 for worker in range(WORKERS) for event in range(EVENTS))
        return Stored(users.total(), once, server.accounts()["duplicates"])


@contextmanager
def _family(who: str, when: str, url: str, env: dict[str, str]) -> Iterator[None]:
    """A process whose workers have been killed, and which ends with the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stress.bench.kill", who, when, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=env,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert b"killed\n" in process.stdout, f"{who} failed"
        yield
        process.stdin.close()
        process.wait(_PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main(who: str, when: str, url: str) -> None:
    """Is the parent: makes the workers, kills them, and waits to be told to end."""
    make = next((peer.make for peer in PEERS if peer.name == who), _ours)
    call = make(url, 1) if when == "before" else None
    _kill_workers(lambda: call or make(url, 1))
    print("killed", flush=True)
    sys.stdin.read()


def _ours(_url: str, _experiments: int) -> Call:
    import hypotest

    assert hypotest.wait_until_ready(_PATIENCE)
    return lambda user: hypotest.kpi_event(KPI, user_id=user)


def _kill_workers(make: Callable[[], Call]) -> None:
    told, tell = os.pipe()
    heard, say = os.pipe()
    workers = [_worker(number, make, told, say) for number in range(WORKERS)]
    try:
        for _ in ("ready", "done"):
            _hear_all(heard)
            os.write(tell, bytes(WORKERS))
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for pid in workers:
            os.waitpid(pid, 0)


def _worker(number: int, make: Callable[[], Call], told: int, say: int) -> int:
    """Forks one, which is ready, begins when it is told, is done, and waits for its end."""
    if pid := os.fork():
        return pid
    try:
        call = make()
        os.write(say, b".")
        os.read(told, 1)
        for event in range(EVENTS):
            call(_user(number, event))
        os.write(say, b".")
        time.sleep(2 * _PATIENCE)
    finally:
        os._exit(1)


def _user(worker: int, event: int) -> str:
    return f"worker-{worker}-{event}"


def _hear_all(heard: int) -> None:
    """Returns when every worker has said a byte, or when they have had their time."""
    end = time.monotonic() + _PATIENCE
    left = WORKERS
    while left and select.select([heard], [], [], max(0.0, end - time.monotonic()))[0]:
        left -= len(os.read(heard, left))


if __name__ == "__main__":
    main(*sys.argv[1:])
