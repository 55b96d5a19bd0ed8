"""The benchmark's tail sees what visitors would: whoever waits behind a worker that stands still."""

from __future__ import annotations

import pytest

from stress.bench.row import Row, at_most, in_spite_of
from stress.bench.tail import percentiles
from stress.bench.tailing import PERIOD, as_long_as, on_schedule

_MS = 1_000_000
_REQUESTS = 1_000


class Clock:
    """A clock that only sleeping and serving move."""

    def __init__(self) -> None:
        self.now = 17

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def _served(stalls: dict[int, int]) -> list[int]:
    """What requests of a millisecond take where some of them stand still for so many ms besides."""
    clock = Clock()

    def serve(number: int) -> None:
        clock.now += _MS * (1 + stalls.get(number, 0))

    return on_schedule(_REQUESTS, serve, clock, clock.sleep).tolist()


def test_without_a_stall_each_request_takes_what_it_takes() -> None:
    """The clock stands still between what is served."""
    assert _served({}) == [_MS] * _REQUESTS


def test_a_stall_is_as_many_late_requests_as_were_due_meanwhile() -> None:
    """A worker that stands still for 100 ms makes 10 requests late and works off what has piled up; then none is."""
    took = _served({500: 100})
    late = [(at, each // _MS) for at, each in enumerate(took) if each > 2 * _MS]
    assert late == [(500 + n, 101 - 9 * n) for n in range(12) if 101 - 9 * n > 2]
    assert max(took) == 101 * _MS


def test_the_99th_percentile_sees_one_long_stall() -> None:
    """So it does of 1,000 requests, where the slowest is one: a schedule that is put off would hide it."""
    assert PERIOD == 10 * _MS
    assert percentiles(_served({500: 150}))["p99"] > 50_000
    assert percentiles(_served({500: 150}))["max"] == 151_000


@pytest.mark.parametrize("sought", [0, 1, 77.5, 4_095, 1e9])
def test_the_empty_loop_is_as_long_as_it_is_to_be(sought: float) -> None:
    """The least one that takes so long; the longest there is where none does."""
    loops = as_long_as(sought, float)
    assert loops == min(4_096, -(-sought // 1))


@pytest.mark.parametrize(
    ("ours", "machine", "outcome"),
    [
        (24, 26.0, "holds"),
        (30, None, "missed"),
        (30, 20.0, "missed"),
        (30, 26.0, "missed; the machine's own: 26.0 us"),
    ],
)
def test_a_missed_bar_stays_missed_on_a_slow_machine(ours: float, machine: float | None, outcome: str) -> None:
    """It only says besides what that machine does to nothing at all, where this is above the bar as well."""
    bar = in_spite_of(at_most(ours, 25, "<= 25 us"), machine=machine, limit=25, unit="us")
    assert Row("tail", "p99", ours, "us", **bar).outcome == outcome
