"""A script that works on lines in threads of its own: `python -m tests.hosts.script [daemon | forks]`.

With `daemon` it turns itself into one, by two forks. With `forks` one piece of work in four is done by a child that is
forked in the thread, while other threads work. It ends at the end of its input, or by SIGTERM.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypotest
from tests.hosts.doors import reply
from tests.hosts.work import early, work

PID_FILE = "pid"
_THREADS = 4
_IN_CHILDREN = 4


def lines() -> Iterator[str]:
    """Lines of the standard input, to its end or SIGTERM."""
    stop: list[int] = []
    reader = os.getpid()

    def handle(number: int, _: object) -> None:
        if os.getpid() != reader:  # a forked child that has not come to set its own yet: nobody would tell it again
            os._exit(128 + number)
        stop.append(number)

    signal.signal(signal.SIGTERM, handle)
    buffered = b""
    while not stop:
        if select.select([0], [], [], 0.05)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *whole, buffered = (buffered + data).split(b"\n")
            yield from (line.decode() for line in whole)


def do(name: str) -> None:
    """One piece of work. `fall` asks for the death of the leader, in the middle of it."""
    told = work(name)
    if name.startswith("fall") and hypotest.status().is_leader:
        os.kill(os.getpid(), signal.SIGKILL)
    reply(name, told)


def do_in_child(name: str) -> None:
    """The same in a child, forked in whatever thread this is."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        do(name)
    except BaseException:  # noqa: BLE001 - to be seen in the log; a child must not return
        traceback.print_exc()
    finally:
        os._exit(0)


def become_daemon() -> None:
    """Leaves the session and the parent, as daemons do; whoever wants to stop it finds its pid in a file."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    Path(PID_FILE).write_text(str(os.getpid()), encoding="ascii")


def main(role: str = "") -> None:
    """Runs to the end."""
    early()
    if role == "daemon":
        become_daemon()
    with ThreadPoolExecutor(_THREADS) as threads:
        for number, name in enumerate(lines()):
            threads.submit(do_in_child if role == "forks" and number % _IN_CHILDREN == 0 else do, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
