"""The writer's side of the spool."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from collections import ChainMap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hypotest import accounts, platform, segment
from hypotest.accounts import ACCEPTED, refused
from hypotest.errors import EventRefused
from hypotest.header import DONE, FINISHED, FULL_SIZE, POSITION
from hypotest.segment import MAX_PAYLOAD
from hypotest.spool import Spool
from tests.namespace import NOTHING, SPOOL, Namespace, drain, event, payloads, refused_by, run_python

if TYPE_CHECKING:
    from hypotest.segment import Segment, Writer


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


def files(home: Namespace) -> list[Segment]:
    """The spool's files as another process finds them, in the order of their making."""
    found = [segment.open_segment(entry.path) for entry in os.scandir(home.state.spool)]
    return sorted(found, key=lambda held: held.number)


def writer_of(home: Namespace) -> Writer:
    """What the process appends to its one segment with."""
    (held,) = home.spool.segments.values()
    assert held.writer is not None
    writer = held.writer()
    assert writer is not None
    return writer


def in_order(found: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Events of one writer, oldest first: the leader takes the segments in no certain order."""
    return sorted(found, key=lambda each: [int(part, 16) for part in each[0].split("-")])


def test_opens_nothing_before_the_first_event(home: Namespace) -> None:
    """A process that reports nothing leaves no file."""
    assert os.listdir(home.state.spool) == []
    home.spool.append(b"x")
    assert len(os.listdir(home.state.spool)) == len(home.spool.segments) == 1


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "written"])
def test_round_trip(home: Namespace, monkeypatch: pytest.MonkeyPatch, mapped: bool) -> None:
    """What was appended is claimed by a leader, byte for byte and in order, in both modes."""
    monkeypatch.setattr(platform, "mappable", lambda _: mapped)
    sent = [event(number, text="ü" * (number % 50)) for number in range(3000)]
    for payload in sent:
        home.spool.append(payload)
    assert payloads(in_order(drain(home.backlog()))) == sent
    modes = {type(held.map).__name__ for held in home.spool.segments.values()}
    assert modes == {"mmap" if mapped else "FileBytes"}


def test_every_size(home: Namespace) -> None:
    """Each length around the alignment, and up to the cap, comes back; one byte more is refused and counted."""
    sizes = [*range(1, 600), *range(60_000, MAX_PAYLOAD - 600, 997), *range(MAX_PAYLOAD - 20, MAX_PAYLOAD + 1)]
    sent = [bytes([size % 251]) * size for size in sizes]
    for payload in sent:
        home.spool.append(payload)
    with pytest.raises(EventRefused) as caught:
        home.spool.append(bytes(MAX_PAYLOAD + 1))
    assert caught.value.reason == "too_large"
    assert payloads(in_order(drain(home.backlog()))) == sent
    assert refused(accounts.add(held.counters() for held in files(home))) == {"too_large": 1}


def test_the_first_event_may_be_the_largest(home: Namespace) -> None:
    """The first segment has room for any event; one that is too large leaves a count in a small file."""
    with pytest.raises(EventRefused):
        home.spool.append(bytes(MAX_PAYLOAD + 1))
    assert [entry.stat().st_size for entry in os.scandir(home.state.spool)] == [4096]
    home.spool.append(b"x" * MAX_PAYLOAD)
    assert home.spool.unreported() == [0] * 16
    assert refused_by(home.spool) == {"too_large": 1}


def test_segments_grow_while_the_process_is_busy(home: Namespace) -> None:
    """A full segment is finished, and followed by one of twice the size, up to 2 MiB."""
    while len(home.spool.segments) == 0 or max(held.number for held in home.spool.segments.values()) < 8:
        home.spool.append(b"x" * 60_000)
    held = files(home)
    assert [each.words[FULL_SIZE] >> 10 for each in held] == [64, 128, 256, 512, 1024, 2048, 2048, 2048, 2048]
    assert [each.words[FINISHED] for each in held] == [DONE] * 8 + [0]
    assert list(home.spool.segments) == [held[-1].path]


def test_many_threads(home: Namespace) -> None:
    """Threads that append at once lose nothing, double nothing, and need at most a segment each."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        each, threads = 2000, 8

        def work(number: int) -> None:
            for n in range(number * each, (number + 1) * each):
                home.spool.append(event(n))

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(home.spool.segments) <= threads
    found = drain(home.backlog())
    assert sorted(payloads(found)) == sorted(event(n) for n in range(each * threads))
    assert len({event_id for event_id, _ in found}) == len(found)


class Fault(Exception):
    """Raised in the middle of an append."""


class FaultyWords:
    """The words of a segment, of which the next store of the position fails."""

    def __init__(self, words: Any) -> None:
        self.words = words

    def __getitem__(self, index: int) -> int:
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if index == POSITION:
            raise Fault
        self.words[index] = value


def test_an_exception_before_the_position_leaves_nothing(home: Namespace) -> None:
    """An event whose append is broken off after its frame was written is not there; the next takes its place."""
    home.spool.append(b"before")
    writer = writer_of(home)
    words = writer.words
    writer.words = FaultyWords(words)  # type: ignore[assignment]
    with pytest.raises(Fault):
        home.spool.append(b"broken off, and longer than what comes after")
    writer.words = words
    assert writer.segment.unsettled() == 1
    home.spool.append(b"after")
    assert payloads(drain(home.backlog())) == [b"before", b"after"]
    home.spool.close()
    assert drain(home.backlog()) == []
    assert home.totals()[ACCEPTED] == 2


def test_an_append_inside_an_append(home: Namespace) -> None:
    """An append that comes in while a segment is checked out, as of a signal handler, goes to another one."""
    home.spool.append(b"1")
    writer = writer_of(home)

    class Words(FaultyWords):
        def __setitem__(self, index: int, value: int) -> None:
            if index == POSITION and self.words is words:
                writer.words = words
                home.spool.append(b"within")
            self.words[index] = value

    words = writer.words
    writer.words = Words(words)  # type: ignore[assignment]
    home.spool.append(b"2")
    home.spool.append(b"3")
    assert sorted(payloads(drain(home.backlog()))) == [b"1", b"2", b"3", b"within"]
    assert len(home.spool.segments) == 2


def test_a_signal_handler_that_appends(home: Namespace) -> None:
    """Events of a handler that interrupts appends at any bytecode are kept, and so are the interrupted ones."""
    from_handler: list[bytes] = []

    def handler(*_: object) -> None:
        from_handler.append(event(-len(from_handler) - 1))
        home.spool.append(from_handler[-1])

    before = signal.signal(signal.SIGALRM, handler)
    try:
        count = 0
        for _ in range(200):
            handled = len(from_handler)
            signal.setitimer(signal.ITIMER_REAL, 5e-5)
            while len(from_handler) == handled:
                home.spool.append(event(count))
                count += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    expected = sorted([*from_handler, *map(event, range(count))])
    assert sorted(payloads(drain(home.backlog()))) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it raises in a `__del__`
def test_a_handler_that_raises_loses_only_its_own_call(home: Namespace) -> None:
    """A timeout exception at any bytecode of an append hides no event that was accepted before or after."""

    def handler(*_: object) -> None:
        raise Fault

    accepted, attempts, faults = set(), 0, 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        while faults < 200:
            attempts += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, (10 + attempts % 90) * 1e-6)
                for number in range(attempts * 1000, attempts * 1000 + 1000):
                    home.spool.append(event(number))
                    accepted.add(event(number))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Fault:
                faults += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = payloads(drain(home.backlog()))
    assert len(found) == len(set(found))
    assert accepted <= set(found)
    assert len(found) <= len(accepted) + faults


def test_counts_of_refusals_reach_the_file(home: Namespace) -> None:
    """A refusal is counted in the open segment; before there is one, in one for counts alone."""
    home.spool.refuse("no_token")
    home.spool.refuse("no_token")
    home.spool.append(b"x")
    home.spool.refuse("error")
    assert [refused(held.counters()) for held in files(home)] == [{"no_token": 2}, {"error": 1}]
    assert home.spool.unreported() == [0] * 16
    home.spool.close()
    assert payloads(drain(home.backlog(NOTHING))) == [b"x"]
    assert refused(home.totals()) == {"no_token": 2, "error": 1}


def test_close_finishes(home: Namespace) -> None:
    """After close a leader retires the segments although the process lives on."""
    home.spool.append(b"x")
    home.spool.close()
    assert [held.words[FINISHED] for held in files(home)] == [DONE]
    assert home.spool.segments == {}
    assert payloads(drain(home.backlog(NOTHING))) == [b"x"]
    assert os.listdir(home.state.spool) == []


def test_an_append_under_way_at_close(home: Namespace) -> None:
    """A segment that is checked out while the spool is closed is finished when the append is done, with its event."""
    home.spool.append(b"1")
    writer = writer_of(home)
    words = writer.words

    class Words(FaultyWords):
        def __setitem__(self, index: int, value: int) -> None:
            writer.words = words
            home.spool.close()
            assert words[FINISHED] == 0
            words[index] = value

    writer.words = Words(words)  # type: ignore[assignment]
    home.spool.append(b"2")
    assert words[FINISHED] == DONE
    assert payloads(drain(home.backlog(NOTHING))) == [b"1", b"2"]


def test_a_segment_without_its_name_yet_is_not_deleted(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our thread looks for deleted files while an append is making one, which is not where its path says yet."""
    rename, looked = os.rename, []

    def rename_late(draft: str, path: str) -> None:
        looked.append(home.spool.check())
        rename(draft, path)

    monkeypatch.setattr(os, "rename", rename_late)
    home.spool.append(b"x")
    assert looked == [0]
    assert home.spool.check() == 0
    assert sum(home.spool.unreported()) == 0
    assert payloads(drain(home.backlog())) == [b"x"]


def test_a_killed_writer_loses_nothing(home: Namespace) -> None:
    """What was appended before SIGKILL is there."""
    child = SPOOL + "for n in range(5000): spool.append(b'%d' % n)\nprint('done', flush=True)\nos.kill(os.getpid(), 9)"
    with pytest.raises(AssertionError, match="exit status -9\ndone"):
        run_python(child, home.state.spool)
    assert payloads(in_order(drain(home.backlog(NOTHING)))) == [b"%d" % n for n in range(5000)]


def test_instances_differ(home: Namespace) -> None:
    """Two spools of one process share neither files nor ids."""
    other = Spool(home.state.spool, 1 << 30, lambda: 0)
    for each in (home.spool, other):
        each.append(b"x")
    found = drain(home.backlog(ChainMap(home.spool.segments, other.segments)))
    assert {event_id.partition("-")[0] for event_id, _ in found} == {home.spool.instance.name, other.instance.name}


def test_a_full_segment_is_given_up_outside_of_the_call(home: Namespace) -> None:
    """What a signal handler of the host raises while Python takes an object down would be lost to it."""
    home.spool.append(b"x")
    (first,) = (weakref.ref(held) for held in home.spool.segments.values())
    while len(home.spool.segments) == 1 and first() in home.spool.segments.values():
        home.spool.append(bytes(50_000))
    assert first() is not None
    home.spool.check()
    assert first() is None


def test_few_segments_are_held_where_nobody_gives_them_up(home: Namespace) -> None:
    """As where no thread of ours can run."""
    alive: weakref.WeakSet[Segment] = weakref.WeakSet()
    for _ in range(600):
        home.spool.append(bytes(60_000))
        alive.update(home.spool.segments.values())
    assert len(alive) <= 6
