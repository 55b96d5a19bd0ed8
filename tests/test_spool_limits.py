"""The writer's side of the spool at its limits: the cap, the reserve, a full disk, a deleted directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypotest import accounts, segment, spool
from hypotest.accounts import ACCEPTED, refused
from hypotest.errors import EventRefused
from hypotest.header import FULL_SIZE
from hypotest.spool import Spool
from tests.namespace import NOTHING, SPOOL, Namespace, drain, payloads, refused_by, run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1 << 10


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused spool tries again at once, not after a second."""
    monkeypatch.setattr(spool, "_RETRY_AFTER", 0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB, half a MiB of it in use."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", mounted], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount")
    try:
        (mounted / "other").write_bytes(bytes(512 * KIB))
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def held_bytes(home: Namespace) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(home.state.spool))


def append_until_refused(target: Spool, payload: bytes) -> tuple[int, EventRefused]:
    for kept in range(100_000):
        try:
            target.append(payload)
        except EventRefused as refusal:
            return kept, refusal
    raise AssertionError("never refused")


def test_the_cap(home: Namespace) -> None:
    """At the cap new events are refused and counted, and what was kept stays."""
    capped = Spool(home.state.spool, 1 << 20, lambda: held_bytes(home))
    kept, refusal = append_until_refused(capped, b"x" * 1000)
    assert refusal.reason == "spool_full"
    assert 512 * KIB < held_bytes(home) <= (1 << 20) + 4 * KIB
    for _ in range(9):
        with pytest.raises(EventRefused, match="spool_full"):
            capped.append(b"x" * 1000)
    assert refused_by(capped) == {"spool_full": 10}
    assert len(drain(home.backlog(NOTHING))) == kept


@pytest.mark.usefixtures("impatient")
def test_a_full_spool_recovers(home: Namespace) -> None:
    """Once the leader has delivered what fills the spool, events are accepted again, by a process that never ends."""
    capped = Spool(home.state.spool, 1 << 20, lambda: held_bytes(home))
    kept, _ = append_until_refused(capped, b"x" * 1000)
    backlog = home.backlog(capped.segments)
    assert len(drain(backlog)) == kept
    capped.append(b"again")
    assert payloads(drain(backlog)) == [b"again"]
    assert home.totals()[ACCEPTED] == kept
    assert refused(next(iter(capped.segments.values())).counters()) == {"spool_full": 1}


@pytest.mark.usefixtures("impatient")
def test_a_small_segment_where_a_large_one_has_no_room(home: Namespace) -> None:
    """A busy process near the cap turns to small segments before it refuses."""
    others = [0]
    capped = Spool(home.state.spool, 1 << 30, lambda: others[0])
    while max((held.words[FULL_SIZE] for held in capped.segments.values()), default=0) < 1 << 20:
        capped.append(b"x" * 60_000)
    others[0] = (1 << 30) - 100 * KIB
    while len(os.listdir(home.state.spool)) < 6:
        capped.append(b"x" * 60_000)
    assert [held.words[FULL_SIZE] for held in capped.segments.values()] == [64 * KIB]


def test_a_spool_that_stays_the_same_size(home: Namespace) -> None:
    """Where the leader keeps up, its figure may be the same at each look: that is no reason to refuse."""
    capped = Spool(home.state.spool, 1 << 20, lambda: 64 * KIB)
    leader = home.backlog(capped.segments)
    for _ in range(3000):
        capped.append(b"x" * 1000)
        if len(os.listdir(home.state.spool)) > 2:
            drain(leader)
    assert capped.unreported() == [0] * 16


def test_the_cap_holds_between_two_looks(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process opened since the leader's last look counts as well."""
    monkeypatch.setattr(spool, "_PUBLISHED_FOR", 1e9)
    capped = Spool(home.state.spool, 1 << 20, lambda: 0)
    append_until_refused(capped, b"x" * 1000)
    assert held_bytes(home) <= (1 << 20) + 4 * KIB


def test_two_threads_at_the_cap_do_not_both_find_room(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread looks whether a segment fits, another one, such as our own, does not take the same room."""
    capped = Spool(home.state.spool, 100 * KIB, lambda: 0)
    real, refused_too = os.statvfs, []

    def looked(path: str) -> os.statvfs_result:
        monkeypatch.setattr(os, "statvfs", real)
        other = threading.Thread(target=lambda: refused_too.append(append_until_refused(capped, b"x")[1].reason))
        other.start()
        other.join()
        return real(path)

    monkeypatch.setattr(os, "statvfs", looked)
    capped.append(b"x")
    assert refused_too == ["spool_full"]
    assert held_bytes(home) == 64 * KIB + 4 * KIB  # the events' and that which counts the refusal


def test_after_a_refusal_the_disk_has_a_moment_of_peace(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a refusal is fresh, the next ones do not look at the disk."""
    monkeypatch.setattr(spool, "_RETRY_AFTER", 1e9)
    looks = []
    capped = Spool(home.state.spool, 0, lambda: looks.append(1) or 0)
    for _ in range(100):
        with pytest.raises(EventRefused):
            capped.append(b"x")
    assert len(looks) == 1
    assert refused_by(capped) == {"spool_full": 100}


def test_the_reserve_is_left_to_the_host(small_disk: Path) -> None:
    """A twentieth of a small disk stays free, however much there is to keep."""
    home = Namespace(small_disk)
    kept, refusal = append_until_refused(home.spool, b"x" * 1000)
    assert refusal.reason == "disk"
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize >= (1 << 20) * 0.05
    assert len(drain(home.backlog())) == kept > 100


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "written"])
def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool) -> None:
    """A disk without a free byte is a counted refusal, never SIGBUS, and costs nothing that was kept before."""
    monkeypatch.setattr(spool, "_RESERVE", 0)
    monkeypatch.setattr(spool.platform, "mappable", lambda _: mapped)
    home = Namespace(small_disk)
    home.spool.append(b"first")
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        size = 0
        for block in (65536, 4096):
            try:
                while True:
                    size += filler.write(bytes(block))
            except OSError:
                pass
    kept, refusal = append_until_refused(home.spool, b"x" * 1000)
    assert refusal.reason == "disk"
    assert kept < 100
    assert payloads(drain(home.backlog())) == [b"first"] + [b"x" * 1000] * kept
    (small_disk / "filler").unlink()
    home.spool._refuse_until = (0.0, "")
    home.spool.append(b"last")
    assert payloads(drain(home.backlog())) == [b"last"]


def test_a_file_size_limit(home: Namespace) -> None:
    """Under RLIMIT_FSIZE the writer is refused what does not fit, survives, and counts."""
    child = (
        SPOOL
        + """
import resource
from hypotest import accounts
from hypotest.errors import EventRefused
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
kept = 0
try:
    while kept < 100_000:
        spool.append(b"x" * 1000)
        kept += 1
        if kept == 200:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 100_000))
except EventRefused as refusal:
    held = [segment.counters() for segment in spool.segments.values()]
    print(kept, refusal.reason, *accounts.add([spool.unreported(), *held]))
"""
    )
    kept, reason, *counted = run_python(child, home.state.spool).split()
    assert int(kept) > 200  # in several small segments, since large ones were refused
    assert reason == "disk"
    assert refused([int(n) for n in counted]) == {"disk": 1}
    assert len(drain(home.backlog(NOTHING))) == int(kept)


def test_no_descriptor_left(home: Namespace) -> None:
    """A process that is out of descriptors refuses and counts, and keeps again when it has one."""
    child = (
        SPOOL
        + """
import resource, time
import hypotest.spool as module
from hypotest.errors import EventRefused
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
try:
    spool.append(b"x")
except EventRefused as refusal:
    print(refusal.reason)
for fd in taken:
    os.close(fd)
module._RETRY_AFTER = 0
spool._refuse_until = (0.0, "")
spool.append(b"y")
print(sum(next(iter(spool.segments.values())).counters()[2:]))
"""
    )
    assert run_python(child, home.state.spool) == "disk\n1\n"


def test_a_deleted_file_is_given_up(home: Namespace) -> None:
    """When its file is deleted, a writer notices, counts what went with it as lost, and turns to a new file."""
    home.spool.append(b"1")
    home.spool.append(b"2")
    assert home.spool.check() == 0
    (path,) = home.spool.segments
    os.unlink(path)
    assert home.spool.check() == 0  # what may be under way is over a second later
    assert accounts.dropped(home.spool.unreported()) == {"lost": 2}
    assert [home.spool.check() for _ in range(2)] == [2, 0]
    assert accounts.dropped(home.spool.unreported()) == {"lost": 2}
    home.spool.append(b"3")
    assert path not in home.spool.segments
    home.spool.close()
    assert payloads(drain(home.backlog())) == [b"3"]
    totals = home.totals()
    assert (totals[ACCEPTED], accounts.pending(totals), accounts.dropped(totals)) == (3, 0, {"lost": 2})


def test_a_leader_and_a_writer_agree_on_a_deleted_file(home: Namespace) -> None:
    """Where the leader still has the deleted file open, its events are counted once all the same."""
    home.spool.append(b"1")
    home.spool.append(b"2")
    backlog = home.backlog()
    backlog.scan()
    os.unlink(next(iter(home.spool.segments)))
    assert [home.spool.check() for _ in range(3)] == [0, 2, 0]
    home.spool.append(b"3")
    home.spool.close()
    assert payloads(drain(backlog)) == [b"3"]
    totals = home.totals()
    assert (totals[ACCEPTED], accounts.pending(totals), accounts.dropped(totals)) == (3, 0, {"lost": 2})


@pytest.mark.parametrize("how", ["moved", "linked elsewhere", "in a directory that was replaced"])
def test_a_file_that_is_elsewhere(home: Namespace, tmp_path: Path, how: str) -> None:
    """One that is not where its name says is not found by any leader: it is given up, though it has a link."""
    home.spool.append(b"1")
    (path,) = home.spool.segments
    if how == "linked elsewhere":
        os.link(path, tmp_path / "backup")
        os.unlink(path)
    elif how == "moved":
        os.rename(path, tmp_path / "moved")
    else:
        os.rename(home.state.spool, tmp_path / "old")
        os.mkdir(home.state.spool, 0o700)
    assert [home.spool.check() for _ in range(3)] == [0, 1, 0]
    home.spool.append(b"2")
    home.spool.close()
    assert payloads(drain(home.backlog())) == [b"2"]
    totals = home.totals()
    assert (totals[ACCEPTED], accounts.pending(totals), accounts.dropped(totals)) == (2, 0, {"lost": 1})


def test_a_finished_file_that_is_deleted(home: Namespace) -> None:
    """Its writer has done with it: the leader, which has it open, counts what is lost."""
    home.spool.append(b"1")
    (path,) = home.spool.segments
    home.spool.close()
    backlog = home.backlog()
    backlog.scan()
    os.unlink(path)
    backlog.scan()
    totals = home.totals()
    assert (totals[ACCEPTED], accounts.pending(totals), accounts.dropped(totals)) == (1, 0, {"lost": 1})


def test_refusals_after_the_tally_was_deleted(tmp_path: Path) -> None:
    """They are counted in another one."""
    home = Namespace(tmp_path, max_bytes=0)
    home.spool.refuse("spool_full")
    (path,) = home.spool.segments
    os.unlink(path)
    assert [home.spool.check() for _ in range(2)] == [0, 0]
    home.spool._tally_after = 0.0
    for _ in range(10):
        home.spool.refuse("spool_full")
    assert refused_by(home.spool) == {"spool_full": 11}
    assert path not in home.spool.segments


def test_an_event_that_is_kept_while_its_file_is_given_up(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went with the file, and counts as lost like the others."""
    home.spool.append(b"1")
    (path,) = home.spool.segments

    def deleted_meanwhile(*words: int) -> bytes:
        monkeypatch.undo()
        os.unlink(path)
        assert home.spool.check() == 0
        return segment.pack_frame_head(*words)

    monkeypatch.setattr(spool, "pack_frame_head", deleted_meanwhile)
    home.spool.append(b"2")
    assert [home.spool.check() for _ in range(2)] == [2, 0]


def test_refusals_while_our_thread_looks_for_deleted_files(home: Namespace) -> None:
    """Each is counted, though no file has room for a count."""
    writing = Spool(home.state.spool, 1 << 20, NOTHING)
    writing._tally_made = True  # as if there was one, lent out
    usual, n = sys.getswitchinterval(), 50_000
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=lambda: [writing.refuse("disk") for _ in range(n)])
        thread.start()
        while thread.is_alive():
            writing._write_off_deleted()
    finally:
        sys.setswitchinterval(usual)
    assert writing.unreported()[accounts.refusal_slot("disk")] == n


def test_the_segments_of_a_crowd_of_threads_are_given_back(home: Namespace) -> None:
    """Each thread that comes while others are in the middle of a call makes one; later a few are kept."""
    home.spool._idle += [home.spool._open(10) for _ in range(50)]
    home.spool.check()
    assert len(home.spool.segments) == len(home.spool._idle) == spool._MOST_IDLE
    home.spool.append(b"1")
    assert payloads(drain(home.backlog())) == [b"1"]


def test_a_deleted_directory(home: Namespace) -> None:
    """Without its directory a writer is refused, and counts."""
    home.spool.append(b"1")
    shutil.rmtree(home.state.path)
    assert [home.spool.check() for _ in range(3)] == [0, 1, 0]
    with pytest.raises(EventRefused) as caught:
        home.spool.append(b"2")
    assert caught.value.reason == "disk"
    assert refused(home.spool.unreported()) == {"disk": 1}
