"""The leader's work is done in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from hypotest import pace, validation
from hypotest.publisher import Publisher
from tests.entries import entry
from tests.namespace import Namespace

Rests = list[float]


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    """How long each rest was, where each look at the clock finds it a tenth of a piece further."""
    taken: Rests = []
    clock = count()
    monkeypatch.setattr(pace, "_alone", [])
    monkeypatch.setattr(pace.time, "sleep", taken.append)
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(pace.time, name, lambda: next(clock) * 0.25e-4)
    monkeypatch.setattr(pace, "_mine", pace._Mine())
    return taken


def test_a_rest_after_each_piece(rests: Rests) -> None:
    """All items come, in order, and there is a rest after each piece of work on them."""
    assert list(pace.in_pieces(range(100))) == list(range(100))
    assert 8 <= len(rests) <= 12
    assert 0 < max(rests) < 1e-4


def test_a_process_without_requests_does_not_rest(rests: Rests) -> None:
    """Once a process has said that it is alone, it goes on without a rest."""
    pace.alone()
    pace.rest()
    assert list(pace.in_pieces(range(100))) == list(range(100))
    assert not rests


def test_settings_are_read_and_written_in_pieces(rests: Rests, tmp_path: Path) -> None:
    """Of many experiments only some are looked at, or written, between two rests."""
    namespace = Namespace(tmp_path)
    body = json.dumps({"tests": {f"experiment-{n}": entry() for n in range(1_000)}}).encode()
    steps: list[Callable[[], object]] = [lambda: validation.parse_document(body)]
    records = validation.parse_document(body).records
    steps.append(lambda: Publisher(namespace.state.path, namespace.page).publish(records))
    for step in steps:
        rests.clear()
        step()
        assert len(rests) > 80


def test_a_long_rest_is_followed_by_a_long_piece(rests: Rests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each rest lasts as long as two busy threads make it, a leader still has a quarter of that for itself."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(pace.time, "thread_time", lambda: now[0])

    def sleep(_: float) -> None:
        rests.append(now[0])
        now[0] += 10e-3

    monkeypatch.setattr(pace.time, "sleep", sleep)
    for _ in range(1_000):
        pace.rest()
        now[0] += 0.1e-3
    worked, rested = 0.1, 10e-3 * len(rests)
    assert worked / rested == pytest.approx(0.25, rel=0.1)


def test_a_batch_is_claimed_in_pieces(rests: Rests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 1,000 events is claimed with rests between, and is whole."""
    monkeypatch.setattr(pace, "_PIECE", 0.0)
    namespace = Namespace(tmp_path)
    for n in range(1_000):
        namespace.spool.append(b'{"n":%d}' % n)
    backlog = namespace.backlog()
    backlog.scan()
    rests.clear()
    batch = backlog.claim(1_000, 1 << 20)
    assert batch.payloads == [b'{"n":%d}' % n for n in range(1_000)]
    assert len(rests) > 1
