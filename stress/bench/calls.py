"""What a call costs the application that makes it, beside those of other clients: medians of interleaved rounds.

In a round all are measured on one core, in the next one on another, and a ratio is the median of those of each round:
cores of a virtual machine differ, by their neighbours, and a process stays on one. Calls with a condition are compared
with a peer's that has a rule.
"""

from __future__ import annotations

import operator
import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from stress.bench import conditional, ours, peers
from stress.bench.contender import ALL, FLOOR, Contender
from stress.bench.row import Bar, Row, at_most, unmeasured
from stress.bench.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator

YARDSTICK = "eppo-server-sdk"
_RULE = conditional.EPPO.name
_ROUNDS = 15
_CALLS = 10_000
_BARS = {"experiment(report_event=False)": 0.5, "experiment()": 1.0, "kpi_event()": 1.0}


def measure() -> Iterator[Row]:
    """All of them, those that are installed.

    Raises:
        RuntimeError: some ended, or did not answer in time; told after the figures of the others.
    """
    left_out = {peer.name: reason for peer in peers.PEERS if (reason := peers.missing(peer))}
    for reason in left_out.values():
        print(f"left out: {reason}")
    there = [FLOOR, *ours.OURS, *(peer for peer in peers.PEERS if peer.name not in left_out)]
    if YARDSTICK not in left_out:
        there.append(conditional.EPPO)
    took, failed = _took([peer.name for peer in there])
    for name, each in took.items():
        yardstick = _RULE if name in (*ours.CONDITIONAL, _RULE) else YARDSTICK
        base = took.get(yardstick)
        cost = median(each)
        ratio = median(map(operator.truediv, each, base)) if base else None
        held = _held(ratio, _BARS[name]) if name in _BARS else Bar()
        yield Row("calls", f"{name}: {ALL[name].what}", cost, "us", yardstick if base else "", ratio, **held)
    for name in failed:
        held = _held(None, _BARS[name]) if name in _BARS else Bar()
        yield Row("calls", f"{name}: {ALL[name].what}", None, "us", **held)
    if failed:
        raise RuntimeError("; ".join(failed.values()))


def _held(ratio: float | None, bar: float) -> Bar:
    words = f"<= {bar} x Eppo"
    return unmeasured(words) if ratio is None else at_most(ratio, bar, words)


def _took(names: list[str]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What a call of each took in each round, in us; and why some are not among them."""
    cores = sorted(os.sched_getaffinity(0))
    failed: dict[str, str] = {}
    with Sink() as sink, ExitStack() as stack:
        took: dict[str, list[float]] = {name: [] for name in names}
        running: dict[str, Contender] = {}
        for name in names:
            try:
                running[name] = stack.enter_context(Contender(name, sink.url))
            except RuntimeError as error:
                failed[name] = str(error)
        for number in range(_ROUNDS):
            for name in [name for name in running if name not in failed]:
                try:
                    took[name].append(running[name].measure(_CALLS, cores[number % len(cores)]))
                except RuntimeError as error:
                    failed[name] = str(error)
    return {name: each for name, each in took.items() if name not in failed}, failed
