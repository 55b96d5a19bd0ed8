"""One run, and its table."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypotest import control
from stress import chaos
from stress.chaos import checker, history
from stress.chaos.director import DISK, TOKEN, Director, Place
from tests.server_process import ServerProcess

_FAULTS = 0.15
_EVERY = 10.0
_SHOWN = 20
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = (1 << 14) | (1 << 18)
_MNT_DETACH = 2


def main(*words: str) -> int:
    """Runs for so many seconds, prints what happened, and returns 1 if anything was lost, doubled or unexplained."""
    parser = argparse.ArgumentParser(prog="python -m stress chaos", description=chaos.__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second that the writers aim at")
    parser.add_argument("--keep", type=Path, help="an empty directory to work in, which is left as it is")
    given = parser.parse_args(words)
    print(f"chaos: seed {given.seed}, {given.seconds:g} s", flush=True)
    if given.keep is not None:
        return _run(given.keep, given.seconds, given.seed, given.rate)
    with tempfile.TemporaryDirectory() as directory:
        return _run(Path(directory), given.seconds, given.seed, given.rate)


def _run(root: Path, seconds: float, seed: int, rate: float) -> int:
    place = Place(root)
    with _small_disk(place.disk) as mounted:
        print(f"state: {'a tmpfs of its own' if mounted else 'on the disk, which nobody may fill here'}", flush=True)
        return _run_at(place, seconds, seed, rate)


def _run_at(place: Place, seconds: float, seed: int, rate: float) -> int:
    began = time.monotonic()
    ports = random.Random(seed)
    with (
        ServerProcess(place.root, port=_free_port(ports), tokens=(TOKEN,), experiments={}) as server,
        _proxy(server.port, _free_port(ports), seed) as proxy,
    ):
        director = Director(place, server, proxy.port, seed, rate)
        server.set_experiments(director.settings())
        try:
            director.run(seconds, lambda passed: _progress(passed, place, server, director), _EVERY)
        finally:
            director.end()
        ran = time.monotonic() - began
        faults = proxy.behave()
        if not server.running:
            server.restart()
        director.drain()
        status = director.status()
    found = checker.examine(place.histories)
    verdict = checker.judge(found, server.db, status)
    verdict.unexplained += director.trouble
    verdict.unexplained += [line for line in place.log.read_text(errors="replace").splitlines() if _is_trouble(line)]
    _print_table(ran, director, faults, found, verdict, status)
    return int(bool(verdict.lost or verdict.twice or verdict.unexplained))


def _is_trouble(line: str) -> bool:
    return line.startswith(("Traceback", "Fatal Python error")) or "failed, the application goes on" in line


@contextmanager
def _small_disk(directory: Path) -> Iterator[bool]:
    """Mounts a small disk that only this process and its children see; yields whether we may."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={DISK},mode=700".encode()
    mounted = not (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
        or libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, options)
    )
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(os.fsencode(directory), _MNT_DETACH)


def _free_port(rng: random.Random) -> int:
    """One that the kernel gives nobody, not even a client that connects to it while it is closed, and so to itself."""
    while True:
        port = rng.randrange(10_000, 32_000)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


class _Proxy:
    """The proxy's process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def behave(self) -> Counter[str]:
        """Ends its misbehaviour; returns what it did how often."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Counter(json.loads(self._read()))


@contextmanager
def _proxy(upstream: int, port: int, seed: int) -> Iterator[_Proxy]:
    with subprocess.Popen(
        [sys.executable, "-m", "stress.chaos.proxy", str(upstream), str(port), str(seed), str(_FAULTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _Proxy(process, port)
        finally:
            process.kill()


def _progress(passed: float, place: Place, server: ServerProcess, director: Director) -> None:
    calls = sum(entry.stat().st_size for entry in os.scandir(place.histories)) // (2 * history.SIZE)
    ((stored,),) = server.query("SELECT coalesce(max(seq), 0) FROM events")
    page = director.page()
    print(
        f"{passed:6.0f} s  {sum(director.kills.values()):6,} kills  {calls:10,} calls  {stored:10,} at the server"
        f"  leader {page.words[control.EPOCH] if page else 0:5,}  {len(director.trouble)} in trouble",
        flush=True,
    )


def _print_table(
    ran: float,
    director: Director,
    faults: Counter[str],
    found: checker.Findings,
    verdict: checker.Verdict,
    status: dict[str, object],
) -> None:
    director.kills["timer, in a call"] = found.by_timer
    two = sum(len(pids) > 1 for pids in found.leaders.values())
    honest = faults.pop("honest", 0)
    rows: list[tuple[str, object]] = [
        ("seconds", f"{ran:.0f}"),
        ("kills", f"{sum(director.kills.values()):,}  {_shown(director.kills)}"),
        ("other deeds", _shown(director.done)),
        ("requests answered as they should be", f"{honest:,}"),
        ("requests that met a fault", f"{sum(faults.values()):,}  {_shown(faults)}"),
        ("processes and threads that wrote", f"{len(found.fates):,}"),
        ("leaders", f"{status['leaders']:,}, {len(found.leaders):,} of them seen, {two} times two at once"),
        ("versions of the settings seen", f"{found.versions:,}, {len(found.stale)} times one that was older"),
        ("events accepted", f"{found.kept:,}"),
        ("events refused", f"{sum(found.refused.values()):,}  {_shown(found.refused)}"),
        ("calls interrupted", f"{found.interrupted:,}"),
        ("refusals that died with their process", f"{sum(found.unwritten.values()):,}"),
        ("events delivered", f"{status['delivered']:,}"),
        ("events lost", verdict.lost),
        ("events counted twice", verdict.twice),
        ("unexplained", len(verdict.unexplained)),
    ]
    for name, value in rows:
        print(f"{name:40}{value}")
    for line in verdict.unexplained[:_SHOWN]:
        print(f"unexplained: {line}")


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
