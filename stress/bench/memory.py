"""What a process has in memory, and what a client adds to it: `python -m stress.bench.memory` is such a process."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stress.bench.formats import VARIANTS, name
from stress.bench.peers import PEERS
from tests.server_process import ROOT, clean_env

if TYPE_CHECKING:
    from stress.bench.peer import Call

OURS = "ours"
_MIB = 1024
_PATIENCE = 60


class Memory(NamedTuple):
    """Of a process, in MiB.

    Attributes:
        private: what no other process has.
        share: that, and its share of what it has in common with others.
    """

    private: float
    share: float


class Load(NamedTuple):
    """What a client costs a process, from its import to its first answer: private memory in MiB, and time in ms."""

    memory: float
    took: float


def memory_of(pid: int | str) -> Memory:
    """What it has now."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        fields[name.rstrip(":")] = int(size)
    return Memory((fields["Private_Clean"] + fields["Private_Dirty"]) / _MIB, fields["Pss"] / _MIB)


def load(client: str, url: str = "", experiments: int = 0, env: dict[str, str] | None = None) -> Load:
    """What a peer's client costs, made in a process of its own; or ours, beside the leader that `env` tells of."""
    command = [sys.executable, "-m", "stress.bench.memory", client, url, str(experiments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_PATIENCE, cwd=ROOT, env=env or clean_env()
    )
    memory, took = map(float, done.stdout.split()[-2:])
    return Load(memory, took)


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
    before, began = memory_of("self"), time.perf_counter()
    call = make(url, int(experiments))
    took = time.perf_counter() - began
    gc.collect()
    call("user-1")
    print(memory_of("self").private - before.private, took * 1e3, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
