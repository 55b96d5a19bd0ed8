"""What an import adds to the start of a Python process: medians of interleaved starts.

Client 1.0.9 begins its threads and fetches settings with its import; HT_ASYNC_MODE=false keeps it from that, and its
import alone is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from stress.bench.peers import FOLDER, PEERS, missing
from stress.bench.row import Row, at_most
from tests.oracle import PACKAGE, REQUIREMENTS
from tests.packages import obtained
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 21
_OURS, _YARDSTICK = "hypotest", "requests"
_MOST, _REFERENCE = 30, 82  # ms, both measured on one machine; on another, the ratio is what can be compared
_BAR = _MOST / _REFERENCE
_WORDS = f"<= {_BAR:.3f} x {_YARDSTICK}: {_MOST} ms where that takes {_REFERENCE}"
_NAMES = {PACKAGE: f"{PACKAGE} 1.0.9, without its threads"}


def measure() -> Iterator[Row]:
    """Ours, requests', which most applications import anyway, and the peers'."""
    modules = [_OURS, _YARDSTICK, *(peer.module for peer in PEERS if not missing(peer))]
    took: dict[str, list[float]] = {module: [] for module in ("", *modules)}
    for module in modules:
        _start(module)  # compiles it
    for _ in range(_ROUNDS):
        for module, times in took.items():
            times.append(_start(module))
    bare = median(took.pop(""))
    above = {module: median(times) - bare for module, times in took.items()}
    for module, took_ms in above.items():
        ratio = took_ms / above[_YARDSTICK]
        what = f"import {_NAMES.get(module, module)}, above bare Python's {bare:.0f} ms"
        if module == _OURS:
            what += f": {'within' if took_ms <= _MOST else 'not within'} {_MOST} ms here"
        held = at_most(ratio, _BAR, _WORDS) if module == _OURS else {}
        yield Row("imports", what, took_ms, "ms", _YARDSTICK, ratio, **held)


def _start(module: str) -> float:
    env = clean_env()
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    if module == PACKAGE:
        env["HT_ASYNC_MODE"] = "false"
        env["PYTHONPATH"] = f"{obtained(FOLDER, *REQUIREMENTS)}{os.pathsep}{env['PYTHONPATH']}"
    code = f"import {module}" if module else "pass"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdin=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - began)
