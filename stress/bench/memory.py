"""What a process has in memory, and what a client adds to it: `python -m stress.bench.memory` is such a process.

It is looked at from outside: what the look itself needs would stand in its figures, or hide what the client needs.
"""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stress.bench.formats import VARIANTS, name
from stress.bench.peers import PEERS
from tests.server_process import ROOT, clean_env

if TYPE_CHECKING:
    from stress.bench.peer import Call

OURS = "ours"
_SETTINGS = ".snap"
_MARK = "bench: "
_MIB = 1024
_SETTLED = 0.1
"""So long after the first answer a client's threads have begun: ours have done what they do once a second."""
_PATIENCE = 60


class Memory(NamedTuple):
    """Of a process, in MiB.

    Attributes:
        private: what no other process has, without the pages of the settings' file. The host has those once, in its
            page cache, in whatever pieces it was read or written (4 KiB to 2 MiB), and the kernel calls them private to
            a process as long as only one has mapped them.
        settings: the pages of the settings' file that it has mapped, alone or with others.
        share: all that it has, by its share of what it has in common with others.
    """

    private: float
    settings: float
    share: float


class Load(NamedTuple):
    """What a client costs a process that has imported it, until its first answer.

    Attributes:
        memory: private memory in MiB, without the settings' file; its threads' as well.
        settings: MiB of the settings' file that it has mapped.
        took: ms.
    """

    memory: float
    settings: float
    took: float


def memory_of(pid: int) -> Memory:
    """What it has now."""
    private = settings = share = 0
    of_settings = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        field, *rest = line.split()
        if not field.endswith(":"):
            of_settings = line.removesuffix(" (deleted)").endswith(_SETTINGS)
        elif field == "Pss:":
            share += int(rest[0])
        elif field == "Rss:" and of_settings:
            settings += int(rest[0])
        elif field in ("Private_Clean:", "Private_Dirty:") and not of_settings:
            private += int(rest[0])
    return Memory(private / _MIB, settings / _MIB, share / _MIB)


class Start(NamedTuple):
    """A client to be made in a process of its own: a peer's, or ours beside the leader that `env` tells of."""

    client: str
    url: str = ""
    experiments: int = 0
    env: dict[str, str] | None = None


def loads(starts: list[Start]) -> list[Load]:
    """What each costs. All processes import at once; then one after the other makes its client, and the rest rests."""
    with ExitStack() as stack:
        processes = [stack.enter_context(talking(_command(start), start.env or clean_env())) for start in starts]
        for process in processes:
            heard(process)
        before, took = [], []
        for process in processes:
            before.append(memory_of(process.pid).private)
            say(process, "go")
            took.append(float(heard(process)))
        time.sleep(_SETTLED)
        after = [memory_of(process.pid) for process in processes]
    return [Load(now.private - then, now.settings, ms) for then, now, ms in zip(before, after, took, strict=True)]


def _command(start: Start) -> list[str]:
    return [sys.executable, "-m", "stress.bench.memory", start.client, start.url, str(start.experiments)]


@contextmanager
def talking(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that answers lines with lines, and ends in order with its standard input."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT, env=env
    )
    guard = threading.Timer(_PATIENCE, process.kill)
    guard.start()
    try:
        yield process
        process.communicate(timeout=_PATIENCE)
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Tells it a line."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")


def heard(process: subprocess.Popen[str]) -> str:
    """Its next line that is for us: some clients print, too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_MARK):
            return line.removeprefix(_MARK).strip()
    raise RuntimeError(f"ended: {process.args!r}")


def answer(line: object) -> None:
    """In such a process: says a line that `heard` gives."""
    print(f"{_MARK}{line}", flush=True)


def _ours(_url: str, _experiments: int) -> Call:
    import hypotest

    def call(user: str) -> str:
        return hypotest.experiment(name(0), user).variant

    assert call("ready") in VARIANTS
    return call


def main(client: str, url: str, experiments: str) -> None:
    """The process: its package is imported before; what was only needed to load is given back."""
    module, make = next(((peer.module, peer.make) for peer in PEERS if peer.name == client), ("hypotest", _ours))
    importlib.import_module(module)
    gc.collect()
    answer("imported")
    sys.stdin.readline()
    began = time.perf_counter()
    call = make(url, int(experiments))
    took = time.perf_counter() - began
    gc.collect()
    call("user-1")
    answer(took * 1e3)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
