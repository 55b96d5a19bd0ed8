"""What an import adds to the start of a Python process: medians of interleaved starts."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from stress.bench.peers import PACKAGE, PEERS, missing
from stress.bench.row import Row, at_most
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 21
_OURS = "hypotest"


def measure() -> Iterator[Row]:
    """Ours, requests', which most applications import anyway, and the peers'."""
    modules = [_OURS, "requests", *(peer.module for peer in PEERS if peer.module != PACKAGE and not missing(peer))]
    took: dict[str, list[float]] = {module: [] for module in ("", *modules)}
    for module in modules:
        _start(f"import {module}")  # compiles it
    for _ in range(_ROUNDS):
        for module, times in took.items():
            times.append(_start(f"import {module}" if module else "pass"))
    bare = median(took.pop(""))
    for module, times in took.items():
        above = median(times) - bare
        held = at_most(above, 30.0, "<= 30 ms") if module == _OURS else {}
        yield Row("imports", f"import {module}, above bare Python's {bare:.0f} ms", above, "ms", **held)


def _start(code: str) -> float:
    began = time.perf_counter()
    env = clean_env()
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdin=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - began)
