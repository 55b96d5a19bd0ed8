"""What a call costs the application that makes it, beside those of other clients: medians of interleaved rounds.

In a round all are measured on one core, in the next one on another, and a ratio is the median of those of each round:
cores of a virtual machine differ, by their neighbours, and a process stays on one.
"""

from __future__ import annotations

import operator
import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from stress.bench import ours, peers
from stress.bench.contender import ALL, FLOOR, Contender
from stress.bench.row import Row, at_most
from stress.bench.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator

YARDSTICK = "eppo-server-sdk"
_ROUNDS = 15
_CALLS = 10_000
_BARS = {"experiment(report_event=False)": 0.5, "experiment()": 1.0, "kpi_event()": 1.0}


def measure() -> Iterator[Row]:
    """All of them, those that are installed."""
    left_out = {peer.name: reason for peer in peers.PEERS if (reason := peers.missing(peer))}
    for reason in left_out.values():
        print(f"left out: {reason}")
    cores = sorted(os.sched_getaffinity(0))
    there = [FLOOR, *ours.OURS, *(peer for peer in peers.PEERS if peer.name not in left_out)]
    with Sink() as sink, ExitStack() as stack:
        running = {peer.name: stack.enter_context(Contender(peer.name, sink.url)) for peer in there}
        took: dict[str, list[float]] = {name: [] for name in running}
        for n in range(_ROUNDS):
            for name, contender in running.items():
                took[name].append(contender.measure(_CALLS, cores[n % len(cores)]))
    base = took.get(YARDSTICK)
    for name, each in took.items():
        cost = median(each)
        ratio = median(map(operator.truediv, each, base)) if base else None
        bar = _BARS.get(name)
        held = at_most(ratio, bar, f"<= {bar} x Eppo") if bar and ratio else {}
        yield Row("calls", f"{name}: {ALL[name].what}", cost, "us", YARDSTICK if base else "", ratio, **held)
