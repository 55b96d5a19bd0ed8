"""What an import adds to the start of a Python process: medians of interleaved starts."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from stress.bench.peers import PEERS, missing
from stress.bench.row import Row, at_most
from tests.oracle import PACKAGE
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 21
_OURS, _YARDSTICK = "hypotest", "requests"
_BAR = 30 / 82  # ms, both measured on one machine; on another, the ratio is what can be compared


def measure() -> Iterator[Row]:
    """Ours, requests', which most applications import anyway, and the peers'."""
    modules = [_OURS, _YARDSTICK, *(peer.module for peer in PEERS if peer.module != PACKAGE and not missing(peer))]
    took: dict[str, list[float]] = {module: [] for module in ("", *modules)}
    for module in modules:
        _start(f"import {module}")  # compiles it
    for _ in range(_ROUNDS):
        for module, times in took.items():
            times.append(_start(f"import {module}" if module else "pass"))
    bare = median(took.pop(""))
    above = {module: median(times) - bare for module, times in took.items()}
    for module, took_ms in above.items():
        ratio = took_ms / above[_YARDSTICK]
        held = at_most(ratio, _BAR, f"<= {_BAR:.3f} x requests: 30 ms where that takes 82") if module == _OURS else {}
        what = f"import {module}, above bare Python's {bare:.0f} ms"
        yield Row("imports", what, took_ms, "ms", _YARDSTICK, ratio, **held)


def _start(code: str) -> float:
    began = time.perf_counter()
    env = clean_env()
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdin=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - began)
