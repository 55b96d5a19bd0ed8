"""The leader's side of the spool: claim, settle, retire."""

from __future__ import annotations

import errno
import os
from collections import ChainMap
from pathlib import Path

import pytest

from hypotest import accounts, control, platform, quarantine, segment, source
from hypotest.accounts import ACCEPTED
from hypotest.accounts import DELIVERED as DELIVERED_SLOT
from hypotest.backlog import DELIVERED, Backlog
from hypotest.events import sent
from hypotest.header import HEADER, POSITION
from hypotest.segment import Segment
from hypotest.spool import Spool
from hypotest.survey import is_settled, survey
from tests.namespace import NOTHING, SPOOL, Namespace, drain, event, marks, payloads, run_python, running_python

WRITER = SPOOL + 'for n in range(int(sys.argv[2])): spool.append(b"%d" % n)\nprint("done", flush=True)\n'


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


def own_segment(home: Namespace) -> Segment:
    (held,) = home.spool.segments.values()
    return held


def killed_writer(home: Namespace, count: int) -> None:
    with running_python(WRITER, home.state.spool, count):
        pass


def is_locked(path: str) -> bool:
    """Ask another process whether somebody holds the writer's lock."""
    look = "import sys; from hypotest import segment; print(segment.open_segment(sys.argv[1]).lock())"
    return run_python(look, path) == "False\n"


def test_claim_changes_nothing(home: Namespace) -> None:
    """What is claimed and not settled is claimed again, with the same ids, also by the next leader."""
    for n in range(10):
        home.spool.append(event(n))
    leader = home.backlog()
    leader.scan()
    first = leader.claim(1000, 1 << 20).events
    assert payloads(first) == [event(n) for n in range(10)]
    assert leader.claim(1000, 1 << 20).events == first
    successor = home.backlog()
    successor.scan()
    assert successor.claim(1000, 1 << 20).events == first
    assert len({event_id for event_id, _ in first}) == 10


def test_a_batch_keeps_to_its_limits(home: Namespace) -> None:
    """A batch has at most so many events, and not much more than so many bytes."""
    for _ in range(10):
        home.spool.append(b"x" * 100)
    leader = home.backlog()
    leader.scan()
    assert len(leader.claim(3, 1 << 20).events) == 3
    assert len(leader.claim(1000, 250).events) == 3


def test_a_segment_that_cannot_be_read_keeps_no_other_waiting(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk in one file: the others are delivered, and so is that one once it can be read."""
    killed_writer(home, 3)
    home.spool.append(event(17))
    leader = home.backlog()
    leader.scan()
    bad = next(path for path in leader._sources if path not in home.spool.segments)
    read = Segment.frames

    def frames(held: Segment, *where: int) -> tuple[list[int], list[bytes]]:
        if held.path == bad:
            raise OSError(errno.EIO, "disk")
        return read(held, *where)

    monkeypatch.setattr(Segment, "frames", frames)
    assert payloads(drain(leader)) == [event(17)]
    monkeypatch.undo()
    assert payloads(drain(leader)) == [b"0", b"1", b"2"]


def test_settled_events_do_not_return(home: Namespace) -> None:
    """After settling the next claim goes on behind."""
    for n in range(10):
        home.spool.append(event(n))
    leader = home.backlog()
    leader.scan()
    batch = leader.claim(4, 1 << 20)
    assert leader.settle(batch, [DELIVERED] * 4) == 4
    assert payloads(drain(leader)) == [event(n) for n in range(4, 10)]
    counters = own_segment(home).counters()
    assert (counters[ACCEPTED], counters[DELIVERED_SLOT]) == (10, 10)


def test_partial_settle(home: Namespace) -> None:
    """Events are settled up to the first undecided one; the rest is claimed again; the rejected ones are set aside."""
    for n in range(6):
        home.spool.append(event(n))
    leader = home.backlog()
    leader.scan()
    batch = leader.claim(1000, 1 << 20)
    assert leader.settle(batch, [DELIVERED, "rejected", DELIVERED, None, DELIVERED, DELIVERED]) == 3
    assert payloads(leader.claim(1000, 1 << 20).events) == [event(n) for n in range(3, 6)]
    assert accounts.dropped(own_segment(home).counters()) == {"rejected": 1}
    (kept,) = Path(home.state.quarantine).glob("rejected-20??-??-??.jsonl")
    as_sent = b"{" + sent([event(1)])[0]
    assert kept.read_bytes() == b'{"event_id":"%b","event":%b}\n' % (batch.events[1][0].encode(), as_sent)


def test_fates_go_to_the_right_segments(home: Namespace) -> None:
    """A batch over several segments settles each by its own part of the fates."""
    writers = [Spool(home.state.spool, 1 << 30, lambda: 0) for _ in range(3)]
    for number, writer in enumerate(writers):
        for n in range(3):
            writer.append(event(n, writer=number))
    leader = home.backlog(ChainMap(*(each.segments for each in writers)))
    leader.scan()
    batch = leader.claim(1000, 1 << 20)
    undecided = [event_id for event_id, payload in batch.events if payload == event(1, writer=1)]
    fates = [None if event_id in undecided else DELIVERED for event_id, _ in batch.events]
    assert leader.settle(batch, fates) == 7
    assert payloads(leader.claim(1000, 1 << 20).events) == [event(1, writer=1), event(2, writer=1)]


def test_a_dead_writers_segments_are_drained_and_removed(home: Namespace) -> None:
    """After SIGKILL every event is delivered, the files go, and the accounts balance."""
    killed_writer(home, 20_000)
    found = drain(home.backlog())
    assert sorted(payloads(found), key=int) == [b"%d" % n for n in range(20_000)]
    assert os.listdir(home.state.spool) == []
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT], accounts.pending(totals)) == (20_000, 20_000, 0)


def test_a_living_writers_segment_is_no_orphan(home: Namespace) -> None:
    """A leader in another process drains a living writer's segment and leaves it in place."""
    child = (
        SPOOL
        + "spool.append(b'1')\nprint('ready', flush=True)\nsys.stdin.readline()\nspool.append(b'2')\nprint('done')"
    )
    with running_python(child, home.state.spool) as writer:
        leader = home.backlog()
        assert payloads(drain(leader)) == [b"1"]
        assert len(os.listdir(home.state.spool)) == 1
        writer.communicate("go\n")
        assert payloads(drain(leader)) == [b"2"]
    assert os.listdir(home.state.spool) == []


def test_the_leaders_own_segments_keep_their_lock(home: Namespace) -> None:
    """Whatever a leader does with the segments of its own process, their lock stays held: none is opened twice."""
    home.spool.append(b"1")
    path = own_segment(home).path
    leader = home.backlog()
    assert payloads(drain(leader)) == [b"1"]
    found = survey(home.state, home.spool.segments)
    assert found.marks == marks(home.spool)
    assert is_settled(path, found.marks[path], home.spool.segments)
    leader.sync()
    del leader
    assert is_locked(path)
    home.spool.append(b"2")
    assert payloads(drain(home.backlog())) == [b"2"]


def test_new_segments_of_the_leaders_own_process(home: Namespace) -> None:
    """A leader that scans without pause while its own process opens segment after segment loses none of them."""
    leader = home.backlog()
    total, found = 3000, []

    class Busy(Spool):
        def _finish(self, done: Segment) -> None:
            super()._finish(done)
            found.extend(drain(leader))

    home.spool = Busy(home.state.spool, 1 << 30, lambda: 0, instance=home.spool.instance)
    for n in range(total):
        home.spool.append(b"%06d" % n + b"x" * 1000)
    found += drain(leader)
    assert sorted(payload[:6] for payload in payloads(found)) == [b"%06d" % n for n in range(total)]


def test_a_damaged_frame_hides_nothing(home: Namespace) -> None:
    """The events behind a damaged one are delivered, and the damaged one is counted."""
    killed_writer(home, 10)
    (path,) = Path(home.state.spool).iterdir()
    raw = bytearray(path.read_bytes())
    raw[HEADER + 3 * 16 + 8] ^= 0xFF
    path.write_bytes(raw)
    assert payloads(drain(home.backlog())) == [b"%d" % n for n in range(10) if n != 3]
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT], accounts.dropped(totals)) == (10, 9, {"corrupt": 1})
    assert os.listdir(home.state.spool) == []


def test_a_damaged_frame_of_a_living_writer(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its writer lives, an unsound frame may just be on its way: it is passed over only after a while."""
    for n in range(3):
        home.spool.append(b"%d" % n)
    held = own_segment(home)
    held.map[HEADER + 24 : HEADER + 25] = b"?"
    leader = home.backlog()
    monkeypatch.setattr(source, "_UNSOUND_PATIENCE", 600)
    assert payloads(drain(leader)) == [b"0"]
    monkeypatch.setattr(source, "_UNSOUND_PATIENCE", -1)
    assert payloads(drain(leader)) == [b"2"]


def test_frames_behind_an_old_position(home: Namespace) -> None:
    """If a power cut kept frames and lost the position, the frames are delivered and counted as accepted."""
    killed_writer(home, 10)
    (path,) = Path(home.state.spool).iterdir()
    with path.open("r+b") as file:
        file.seek(POSITION * 8)
        file.write((4 << 40 | HEADER + 4 * 16).to_bytes(8, "little"))
    assert len(drain(home.backlog())) == 10
    assert (home.totals()[ACCEPTED], home.totals()[DELIVERED_SLOT]) == (10, 10)


@pytest.mark.parametrize("size", [0, 100, HEADER, HEADER + 16 * 5, HEADER + 16 * 5 + 8, 30_000])
def test_a_truncated_file(home: Namespace, size: int) -> None:
    """Of a truncated file what is left is delivered; what is missing is counted; nothing crashes, nothing stays."""
    killed_writer(home, 10)
    (path,) = Path(home.state.spool).iterdir()
    os.truncate(path, size)
    left = min(10, max(0, (size - HEADER) // 16))
    assert payloads(drain(home.backlog())) == [b"%d" % n for n in range(left)]
    assert os.listdir(home.state.spool) == []
    if size >= HEADER:
        totals = home.totals()
        assert (totals[ACCEPTED], totals[DELIVERED_SLOT], accounts.pending(totals)) == (10, left, 0)
    else:
        assert os.listdir(home.state.quarantine) == [path.name]


def test_segments_of_its_own_process_keep_no_others_waiting(home: Namespace) -> None:
    """However many a leader's process has: those in which nothing waits make room."""
    held = [home.spool._open(10) for _ in range(150)]
    for n, writer in enumerate(held):
        home.spool._idle.append(writer)
        home.spool.append(event(n))
        home.spool._idle.clear()
    killed_writer(home, 20)
    leader = home.backlog()
    found = [payload for _ in range(5) for payload in payloads(drain(leader))]
    assert sorted(found) == sorted([*(event(n) for n in range(150)), *(b"%d" % n for n in range(20))])


def test_finished_segments_are_synced_once(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them, left by workers that recycle in an outage, cost the leader nothing each second."""
    for n in range(20):
        home.spool.append(event(n))
        home.spool.close()
    synced: list[int] = []
    leader = home.backlog(sync_data=synced.append)
    leader.sync()
    assert len(synced) >= 20
    opened: list[int] = []
    monkeypatch.setattr(segment, "read_header", opened.append)
    synced.clear()
    leader.sync()
    assert (opened, synced) == ([], [])
    monkeypatch.undo()
    assert len(payloads(drain(leader))) == 20


def test_a_leader_without_descriptors_gives_some_back(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what it has open: it needs some to send with, and the application does."""
    for _ in range(12):
        killed_writer(home, 1)
    leader = home.backlog(NOTHING)
    room, real = [8], segment.open_segment

    def opened(path: str, *, mapped: bool) -> Segment:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, mapped=mapped)

    monkeypatch.setattr(segment, "open_segment", opened)
    leader.scan()
    assert len(leader._sources) == 4
    assert len(leader.waiting) == 3
    monkeypatch.undo()
    assert len([payload for _ in range(3) for payload in payloads(drain(leader))]) == 12


def unmapped(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> Backlog:
    """A leader where files are not to be written through mappings, and the segment of a writer that is full there."""
    monkeypatch.setattr(platform, "mappable", lambda _: False)
    home.page = control.open_control(home.state.path)
    writer = Spool(home.state.spool, 1 << 30, lambda: 0)
    while not (sizes := [held.full for held in writer.segments.values() if held.end() == held.full]):
        writer.append(b"x" * 312)  # with its frame's head a divisor of what is behind the header
    assert sizes == [64 << 10]
    writer.close()
    leader = home.backlog(NOTHING)
    leader.scan()
    return leader


def test_a_full_file_is_not_mapped_either_where_none_is(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written through the mapping of one may be SIGBUS on a full disk."""
    (found,) = unmapped(home, monkeypatch)._sources.values()
    assert isinstance(found.segment.map, platform.FileBytes)


def test_what_is_settled_on_a_full_disk_is_not_sent_again(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files are not mapped, it cannot be written down: the leader knows it all the same, and sends the next."""
    leader = unmapped(home, monkeypatch)

    def full(_words: platform.FileWords, _index: int, _value: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(platform.FileWords, "__setitem__", full)
        sent_ones = drain(leader, most=100)
    assert len({event_id for event_id, _ in sent_ones}) == len(sent_ones) == (65536 - HEADER) // 320
    leader.scan()
    assert os.listdir(home.state.spool) == []
    assert home.totals()[DELIVERED_SLOT] == home.totals()[ACCEPTED] == len(sent_ones)


def test_a_leader_has_a_share_of_the_descriptors() -> None:
    """The others are the application's."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    assert run_python(code + "from hypotest import backlog; print(backlog._most_open())") == "12\n"


@pytest.mark.parametrize("folded", [False, True], ids=["now", "by the leader before"])
def test_a_file_that_cannot_be_deleted(home: Namespace, monkeypatch: pytest.MonkeyPatch, folded: bool) -> None:
    """All others are sent; and it is counted once, however long it stays."""
    killed_writer(home, 3)
    (stays,) = os.scandir(home.state.spool)
    unlink = os.unlink

    def refused(path: str) -> None:
        if path == stays.path:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refused)
    leader = home.backlog()
    if folded:
        assert len(drain(leader)) == 3
        leader = home.backlog()
    killed_writer(home, 20)
    home.spool.append(event(17))
    assert len([payload for _ in range(3) for payload in payloads(drain(leader))]) == (21 if folded else 24)
    monkeypatch.undo()
    home.spool.close()
    for _ in range(2):
        leader.scan()
    assert os.listdir(home.state.spool) == []
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT]) == (24, 24)


def test_many_files_that_cannot_be_deleted(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a leader opens keep no other from being sent, and each is counted once when they can be."""

    def refused(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(os, "unlink", refused)
    for number in range(300):
        writer = Spool(home.state.spool, 1 << 30, lambda: 0)
        writer.append(event(number))
        writer.close()
    leader = home.backlog()
    found = [payload for _ in range(6) for payload in payloads(drain(leader))]
    assert sorted(found) == sorted(event(number) for number in range(300))
    monkeypatch.undo()
    for _ in range(4):
        leader.scan()
    assert os.listdir(home.state.spool) == []
    totals = home.totals()
    assert (totals[ACCEPTED], totals[DELIVERED_SLOT]) == (300, 300)


def test_a_damaged_header_goes_to_quarantine(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no segment is set aside and does not keep the others; without room there, it is removed."""
    for name in ("bad-0.seg", "bad-1.seg"):
        Path(home.state.spool, name).write_bytes(b"garbage" * 100)
        home.spool.append(b"good")
        assert payloads(drain(home.backlog())) == [b"good"]
        monkeypatch.setattr(quarantine, "_MOST_BYTES", 0)
    assert os.listdir(home.state.quarantine) == ["bad-0.seg"]
    assert os.listdir(home.state.spool) == [f"{own_segment(home).name}.seg"]


def test_a_quarantine_that_cannot_be_written(home: Namespace) -> None:
    """What the server has acknowledged is settled although the rejected event cannot be set aside."""
    for n in range(3):
        home.spool.append(event(n))
    os.rmdir(home.state.quarantine)
    leader = home.backlog()
    leader.scan()
    assert leader.settle(leader.claim(1000, 1 << 20), [DELIVERED, "rejected", DELIVERED]) == 3
    assert accounts.dropped(own_segment(home).counters()) == {"rejected": 1}
