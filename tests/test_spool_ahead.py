"""The next segment is made before a call needs it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hypotest.accounts import refused
from hypotest.header import DONE, FINISHED
from hypotest.instance import Instance
from tests.namespace import Namespace, drain, event, payloads

HALF = 40 << 10
REST = 40 << 10


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


def fill(home: Namespace, size: int) -> int:
    """Appends events of so many bytes; returns how many."""
    for _ in range(size // 1024):
        home.spool.append(event(0, tag="x" * 900))
    for held in home.spool.segments.values():
        held.opened = time.monotonic()  # as on a machine that did that at once
    return size // 1024


def no_file(*_: Any, **__: Any) -> None:
    raise AssertionError("a call made a file")


def test_a_segment_that_is_full_soon_has_a_successor(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fills a segment opens no file: the next one is there, is used, and all events are delivered."""
    written = fill(home, HALF)
    home.spool.prepare()
    assert len(os.listdir(home.state.spool)) == len(home.spool.segments) == 2
    home.spool.prepare()
    assert len(home.spool.segments) == 2, "one is enough"
    with monkeypatch.context() as patch:
        patch.setattr(Instance, "create", no_file)
        written += fill(home, REST)
    assert len(home.spool.segments) == 1
    assert len(payloads(drain(home.backlog()))) == written


def test_none_is_made_for_a_segment_that_lasts(home: Namespace) -> None:
    """A process with few events, or slow ones, has one segment."""
    fill(home, 4 << 10)
    home.spool.prepare()
    assert len(home.spool.segments) == 1
    fill(home, HALF)
    (held,) = home.spool.segments.values()
    held.opened -= 60
    home.spool.prepare()
    assert len(home.spool.segments) == 1


def test_a_successor_that_was_deleted_is_not_used(home: Namespace) -> None:
    """Where the file made ahead is gone, the call makes another, and no event is lost."""
    fill(home, HALF)
    (first,) = home.spool.segments
    home.spool.prepare()
    (made,) = home.spool.segments.keys() - {first}
    os.unlink(made)
    assert home.spool.check() == 0
    fill(home, REST)
    assert made not in home.spool.segments
    assert len(payloads(drain(home.backlog()))) == (HALF + REST) // 1024


def test_a_successor_that_is_too_small_is_finished(home: Namespace) -> None:
    """An event that does not fit into the segment made ahead gets one of its own."""
    fill(home, HALF)
    home.spool.prepare()
    for ahead in home.spool._ahead:
        ahead.limit = 1024
    fill(home, REST)
    assert len(home.spool.segments) == 1
    assert len(payloads(drain(home.backlog()))) == (HALF + REST) // 1024


def test_no_room_for_a_successor_refuses_nothing(tmp_path: Path) -> None:
    """At the cap nothing is made ahead, and nothing is counted as refused before an event is."""
    home = Namespace(tmp_path, max_bytes=64 << 10)
    fill(home, HALF)
    home.spool.prepare()
    (held,) = home.spool.segments.values()
    assert refused(held.counters()) == {}
    home.spool.append(event(1))


def test_the_end_finishes_the_successor(home: Namespace) -> None:
    """A spool that is closed leaves no segment open, and makes none any more; the leader retires them all."""
    fill(home, HALF)
    home.spool.prepare()
    held = list(home.spool.segments.values())
    home.spool.close()
    assert [each.words[FINISHED] for each in held] == [DONE, DONE]
    home.spool.prepare()
    backlog = home.backlog()
    assert len(drain(backlog)) == HALF // 1024
    backlog.scan()
    assert os.listdir(home.state.spool) == []
