"""The leader's side of the spool: crashes between two steps, age, many segments, and what others see meanwhile."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypotest import accounts, backlog, control, segment
from hypotest.accounts import ACCEPTED
from hypotest.accounts import DELIVERED as DELIVERED_SLOT
from hypotest.backlog import DELIVERED, Backlog
from hypotest.control import LIVED, NAMES, SPOOL_BYTES
from hypotest.events import is_older
from hypotest.header import FIRST_SEEN
from hypotest.spool import Spool
from hypotest.survey import is_settled, survey
from tests.namespace import NOTHING, SPOOL, Namespace, drain, event, event_of, marks, payloads, running_python

if TYPE_CHECKING:
    from collections.abc import Iterable

AGE = 1000.0


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


def finished_segments(home: Namespace, count: int, each: int = 3) -> None:
    for _ in range(count):
        writer = Spool(home.state.spool, 1 << 30, lambda: 0)
        for n in range(each):
            writer.append(event(n))
        writer.close()


class Crash(Exception):
    """Stands for SIGKILL at one point of the leader's work."""


def crash_before_unlink(home: Namespace, monkeypatch: pytest.MonkeyPatch, leader: Backlog) -> str:
    """Let a leader die between fold and unlink, and return the name of the segment it was at."""

    def unlink(path: str) -> None:
        if path.endswith(".seg"):
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(backlog.os, "unlink", unlink)
        with pytest.raises(Crash):
            drain(leader)
    return home.page.accounts()[0][-1]


def orders(names: Iterable[str], first: str) -> list[list[str]]:
    rest = [name for name in names if name != first]
    return [[first, *rest], [*rest, first]]


def test_a_leader_that_ends_folds_nothing_more(home: Namespace) -> None:
    """It may be in the middle of a scan, on a slow disk, when the next one begins: the totals are that one's."""
    for _ in range(20):
        home.spool.append(b"x")
        home.spool.close()
    ended: list[Backlog] = []
    leader = home.backlog(sync_data=lambda _: [old.close() for old in ended] and None)
    leader.scan()
    batch = leader.claim(1000, 1 << 20)
    assert leader.settle(batch, [DELIVERED] * 20) == 20
    ended.append(leader)
    before = home.totals()
    leader.scan()
    assert home.totals() == before
    drain(home.backlog())
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT]) == (20, 20)


@pytest.mark.parametrize("last", [False, True], ids=["found first", "found last"])
def test_a_crash_between_fold_and_unlink(home: Namespace, monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    """A leader killed between the two leaves counts that are right whatever its successor finds first."""
    finished_segments(home, NAMES + 2)
    folded = crash_before_unlink(home, monkeypatch, home.backlog())
    assert folded
    names = os.listdir(home.state.spool)
    assert f"{folded}.seg" in names
    order = orders(names, f"{folded}.seg")[last]
    scandir = os.scandir

    class Sorted:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: order.index(entry.name) if entry.name in order else -1)

        def __enter__(self) -> object:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(backlog.os, "scandir", Sorted)
    drain(home.backlog())
    assert os.listdir(home.state.spool) == []
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT], accounts.pending(totals)) == (3 * (NAMES + 2), 3 * (NAMES + 2), 0)


def test_a_crash_before_the_fold(home: Namespace) -> None:
    """What was settled and not folded yet is folded by the successor, and resent by none."""
    finished_segments(home, 2)
    leader = home.backlog()
    leader.scan()
    batch = leader.claim(1000, 1 << 20)
    leader.settle(batch, [DELIVERED] * 6)
    assert drain(home.backlog()) == []
    assert home.totals()[DELIVERED_SLOT] == 6


def test_a_resend_is_the_same(home: Namespace) -> None:
    """A leader killed after the server's answer and before settling: its successor resends the very same events."""
    finished_segments(home, 2)
    leader = home.backlog()
    leader.scan()
    sent = leader.claim(1000, 1 << 20).events
    assert sorted(drain(home.backlog())) == sorted(sent)


@pytest.mark.parametrize(
    ("written", "lived", "dropped"),
    [(AGE + 100, AGE, 1), (AGE + 100, AGE - 2, 0), (AGE - 100, AGE, 0)],
    ids=["both clocks", "a wall clock that jumped", "long seen, new event"],
)
def test_expired_by_both_clocks(home: Namespace, written: float, lived: float, dropped: int) -> None:
    """An event is dropped only if it is too old by its own time and by the time that leaders have lived with it."""
    now = time.time()

    def leader() -> Backlog:
        return home.backlog(expired=lambda payload: is_older(payload, now - AGE), max_age=AGE)

    home.spool.append(event_of(now - written))
    leader().scan()
    home.page.words[LIVED] += int(lived)
    home.spool.append(event_of(now + 1e9))
    assert len(drain(leader())) == 2 - dropped
    (held,) = home.spool.segments.values()
    counters = held.counters()
    assert accounts.dropped(counters) == ({"age": 1} if dropped else {})
    assert (counters[ACCEPTED], accounts.pending(counters)) == (2, 0)


def test_first_seen_is_set_once(home: Namespace) -> None:
    """A new leader does not make a segment young again."""
    home.spool.append(b"x")
    home.page.words[LIVED] = 100
    home.backlog().scan()
    home.page.words[LIVED] = 200
    home.backlog().scan()
    (held,) = home.spool.segments.values()
    assert held.words[FIRST_SEEN] == 101


def test_more_segments_than_the_leader_opens(home: Namespace) -> None:
    """More writers than the leader keeps open at once are drained all the same, in turn."""
    writers = [Spool(home.state.spool, 1 << 30, lambda: 0) for _ in range(300)]
    for number, writer in enumerate(writers):
        writer.append(event(number))
        writer.close()
    leader = home.backlog()
    leader.scan()
    assert len(leader.waiting) == 300 - 128
    found = [each for _ in range(4) for each in drain(leader)]
    assert sorted(payloads(found)) == sorted(event(number) for number in range(300))
    assert os.listdir(home.state.spool) == []
    assert home.totals()[ACCEPTED] == 300


def test_idle_writers_do_not_keep_others_out(home: Namespace) -> None:
    """Segments of living writers with nothing to send give their place to those with something."""
    child = """
keep = [Spool(sys.argv[1], 1 << 30, lambda: 0) for _ in range(280)]
for start in (0, 280):
    for n, each in enumerate(keep, start):
        each.append(b"%d" % n)
    print("done", flush=True)
    sys.stdin.readline()
"""
    with running_python(SPOOL + child, home.state.spool) as writer:
        leader = home.backlog()
        found = [each for _ in range(3) for each in payloads(drain(leader))]
        assert sorted(map(int, found)) == list(range(280))
        writer.stdin.write("go\n")
        writer.stdin.flush()
        writer.stdout.readline()
        found = [each for _ in range(4) for each in payloads(drain(leader))]
        assert sorted(map(int, found)) == list(range(280, 560))
        assert len(os.listdir(home.state.spool)) == 280


def test_busy_writers_have_their_turns(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the leader has open at once, each with an event at any moment: all are sent, about equally often."""
    child = """
keep = [Spool(sys.argv[1], 1 << 30, lambda: 0) for _ in range(300)]
print("ready", flush=True)
for _ in sys.stdin:
    for n, each in enumerate(keep):
        each.append(b"%d" % n)
    print("done", flush=True)
"""
    rounds = 15
    turns: Counter[int] = Counter()
    with running_python(SPOOL + child, home.state.spool) as writer:
        leader = home.backlog()
        for _ in range(rounds):
            writer.stdin.write("go\n")
            writer.stdin.flush()
            writer.stdout.readline()
            leader.scan()  # while something waits in each
            batch = leader.claim(10_000, 1 << 20)
            leader.settle(batch, [DELIVERED] * len(batch.ids))
            turns.update(set(map(int, batch.payloads)))
        assert set(turns) == set(range(300))
        fair = rounds * 128 // 300
        assert fair - 1 <= min(turns.values()) <= max(turns.values()) <= fair + 2
        while drain(leader):
            pass
        opened: list[str] = []
        monkeypatch.setattr(segment, "open_segment", opened.append)
        leader.scan()
        assert opened == [], "what has nothing to send is not opened"


def test_the_files_of_ended_writers_go_though_more_live_than_the_leader_opens(home: Namespace) -> None:
    """What is settled and has no writer is deleted, wherever it stands in the directory beside many that live."""
    child = """
live = [Spool(sys.argv[1], 1 << 30, lambda: 0) for _ in range(180)]
for n, each in enumerate(live):
    each.append(b"%d" % n)
print("done", flush=True)
while sys.stdin.readline():
    ended = [Spool(sys.argv[1], 1 << 30, lambda: 0) for _ in range(60)]
    for n, each in enumerate(ended):
        each.append(b"%d" % n)
    print("done", flush=True)
    sys.stdin.readline()
    for each in ended:
        each.close()
    del ended, each
    print("done", flush=True)
"""
    with running_python(SPOOL + child, home.state.spool) as writer:

        def told() -> None:
            writer.stdin.write("go\n")
            writer.stdin.flush()
            writer.stdout.readline()

        leader = home.backlog()
        for _ in range(3):
            told()
            assert sum(len(drain(leader)) for _ in range(4)) >= 60
            told()
            for _ in range(4):
                leader.scan()
            assert len(os.listdir(home.state.spool)) == 180


def test_old_drafts_are_swept(home: Namespace) -> None:
    """A draft that a killed writer left is removed when it is old; a fresh one may be at work."""
    for name, age in ((".old", 100), (".new", 10)):
        path = Path(home.state.spool, name)
        path.write_bytes(b"draft")
        os.utime(path, (time.time() - age,) * 2)
    home.backlog().scan()
    assert os.listdir(home.state.spool) == [".new"]


def test_the_size_is_published(home: Namespace) -> None:
    """Writers learn from the control page what the spool holds."""
    home.spool.append(b"x")
    home.backlog().publish_size()
    assert home.page.words[SPOOL_BYTES] == 64 << 10


def test_expire_takes_no_longer_than_it_may(home: Namespace) -> None:
    """It is at the heartbeat of a leader, and a whole spool may be over age: what is left waits for the next visit."""
    for _ in range(3):
        writer = Spool(home.state.spool, 1 << 30, lambda: 0)
        writer.append(event_of(time.time() - 1e9))
        writer.close()
    view = home.backlog(NOTHING, expired=lambda _: True, max_age=AGE)
    view.scan()
    home.page.words[LIVED] += int(AGE)
    dropped = []
    for _ in range(3):
        view.expire(0.0)
        found = accounts.add([home.totals(), survey(home.state, NOTHING).counters])
        dropped.append(accounts.dropped(found))
    assert dropped == [{"age": 1}, {"age": 2}, {"age": 3}]


def test_expire_drops_and_sends_nothing(home: Namespace) -> None:
    """The events of an old token are dropped when they are over age; the younger ones stay as they are."""
    now = time.time()
    home.spool.append(event_of(now - 1e9))
    home.spool.append(event_of(now + 1e9))
    home.spool.close()
    view = home.backlog(NOTHING, expired=lambda payload: is_older(payload, now - AGE), max_age=AGE)
    view.expire(60)
    assert accounts.dropped(home.totals()) == {}
    home.page.words[LIVED] += int(AGE)
    view.expire(60)
    view.expire(60)
    found = accounts.add([home.totals(), survey(home.state, NOTHING).counters])
    assert (found[ACCEPTED], found[DELIVERED_SLOT], accounts.dropped(found)) == (2, 0, {"age": 1})


def test_a_leader_that_ends_settles_nothing_more(home: Namespace) -> None:
    """What was on its way when the leader lost its place is not settled by it: its successor resends it."""
    finished_segments(home, 1)
    leader = home.backlog()
    leader.scan()
    batch = leader.claim(1000, 1 << 20)
    leader.close()
    assert leader.settle(batch, [DELIVERED] * 3) == 0
    assert drain(home.backlog()) == batch.events


def test_a_survey_sees_what_the_leader_sees(home: Namespace) -> None:
    """Any process can count the spool, its own segments and others', without changing or holding anything."""
    home.spool.append(b"x")
    with running_python(SPOOL + "spool.append(b'y'); print('ready', flush=True); sys.stdin.read()", home.state.spool):
        found = survey(home.state, home.spool.segments)
        assert (found.counters[ACCEPTED], found.size, len(found.marks)) == (2, 128 << 10, 2)
        drain(home.backlog())
        again = survey(home.state, home.spool.segments)
        assert (again.counters[ACCEPTED], again.counters[DELIVERED_SLOT]) == (2, 2)
        assert all(is_settled(path, mark, home.spool.segments) for path, mark in found.marks.items())
    (held,) = home.spool.segments.values()
    assert survey(home.state, home.spool.segments, without=[held.name]).counters[ACCEPTED] == 1


def test_is_settled(home: Namespace) -> None:
    """A mark is settled when the leader has settled so many frames, or the segment is gone."""
    home.spool.append(b"1")
    ((path, mark),) = marks(home.spool).items()
    assert not is_settled(path, mark, home.spool.segments)
    leader = home.backlog()
    drain(leader)
    home.spool.append(b"2")
    assert is_settled(path, mark, home.spool.segments)
    ((path, mark),) = marks(home.spool).items()
    assert not is_settled(path, mark, home.spool.segments)
    home.spool.close()
    assert not is_settled(path, mark, NOTHING)
    drain(leader)
    assert is_settled(path, mark, NOTHING)


def test_the_lost_page_loses_counts_only(home: Namespace) -> None:
    """Without its control page a leader goes on delivering; only the totals begin anew."""
    home.spool.append(b"1")
    os.unlink(f"{home.state.path}/control")
    home.page = control.open_control(home.state.path)
    assert payloads(drain(home.backlog())) == [b"1"]
