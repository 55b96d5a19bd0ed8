"""Files that are damaged: nobody reads anything wrong, nobody stops, what is lost is counted, and the rest goes on."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypotest import accounts, backlog, control, header, log, segment, snapshot, source
from hypotest.accounts import ACCEPTED
from hypotest.accounts import DELIVERED as DELIVERED_SLOT
from hypotest.header import HEADER, OFFSET, ONE, POSITION
from hypotest.lock import LeaderLock
from hypotest.publisher import Publisher
from hypotest.snapshot import Reader
from hypotest.survey import is_settled, survey
from tests.faults.corruption import DAMAGES, NEW, OLD, TRIALS, sweep
from tests.namespace import NOTHING, SPOOL, Namespace, drain, event, payloads, running_python
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess

STRIDE = 7
NOT_FILES = pytest.mark.parametrize("what", ["directory", "fifo", "symlink", "socket"])
CORRUPT = accounts.drop_slot("corrupt")
FRAME = 32
PATIENCE = 600


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


@pytest.fixture(autouse=True)
def news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test logs as a process that has said nothing yet."""
    monkeypatch.setattr(log, "_last", {})


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """A test that waits for a file that is none fails."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"no end within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def leftover(home: Namespace, count: int = 3) -> Path:
    """The segment of a writer that was killed after so many events."""
    before = set(os.listdir(home.state.spool))
    code = f'{SPOOL}for n in range({count}): spool.append(b\'{{"n":%d,"pad":1234567}}\' % n)\nprint(1, flush=True)'
    with running_python(code, home.state.spool):
        pass
    (name,) = set(os.listdir(home.state.spool)) - before
    return Path(home.state.spool, name)


def overwrite(path: Path, at: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)


def put_in_place(path: Path, what: str) -> None:
    """Something that is no file."""
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound, pytest.MonkeyPatch.context() as there:
            there.chdir(path.parent)  # the length of such a name has a limit
            bound.bind(path.name)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", TRIALS)
def test_no_damage_misleads_or_stops_a_reader(kind: str, damage: str) -> None:
    """A part of the damaged versions of each kind of file, another part in each run; `stress corruption` reads all."""
    offset = random.randrange(STRIDE)
    found = sweep(kind, damage, offset=offset, stride=STRIDE)
    assert found.cases > 0
    assert found.wrong == found.stuck == [], f"from case {offset} on, each {STRIDE}th"
    assert found.whole + found.partly == found.cases


class _Any(int):
    """A checksum that fits all."""

    __hash__ = None  # type: ignore[assignment]

    def __ne__(self, _: object) -> bool:
        return False


def test_the_sweep_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that believes what it finds, one that hangs and one that is killed are each told."""
    monkeypatch.setattr(segment, "murmur3", lambda *_: _Any())
    assert sweep("segment", "flipped bits", offset=8 * (HEADER + 8), stride=64).wrong
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(TRIALS["segment"], "read", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        assert "status" in sweep("segment", "cuts").stuck[0]


@pytest.mark.parametrize("at", [0, 8, 16, 32, 80, 224, 228, 232], ids=lambda at: f"byte {at}")
def test_a_damaged_header_costs_no_event(home: Namespace, caplog: pytest.LogCaptureFixture, at: int) -> None:
    """Whatever of the identity is damaged, the events are delivered, with the ids that they had; one line says so."""
    path = leftover(home)
    expected = [f"{path.stem}-{HEADER + FRAME * n:x}" for n in range(3)]
    overwrite(path, at, b"\xff\xff\xff\xff")
    found = drain(home.backlog())
    assert [event_id for event_id, _ in found] == expected
    assert (home.totals()[ACCEPTED], home.totals()[DELIVERED_SLOT]) == (3, 3)
    assert [record.levelname for record in caplog.records if "header" in record.message] == ["ERROR"]
    assert os.listdir(home.state.quarantine) == []


def test_a_seed_that_can_be_none_keeps_no_other_from_being_sent(home: Namespace) -> None:
    """A header whose seed is beyond 32 bits, with nothing left to tell the right one, costs its own events alone."""
    path, sound = leftover(home), leftover(home)
    overwrite(path, 12, b"\x01")
    overwrite(path, 224, b"\xff" * 12)
    found = drain(home.backlog())
    assert [event_id.rpartition("-")[0] for event_id, _ in found] == [sound.stem] * 3
    assert os.listdir(home.state.quarantine) == [path.name]


@pytest.mark.parametrize(("left", "lost"), [("position", 3), ("nothing", 1)])
def test_a_segment_that_cannot_be_read_is_counted(home: Namespace, left: str, lost: int) -> None:
    """Its events are counted as corrupt, as many as its position says, or one; before that they are pending."""
    path = leftover(home)
    overwrite(path, 0, bytes(8))
    overwrite(path, 224, bytes(12))
    if left == "nothing":
        path.write_bytes(b"")
    looked = survey(home.state, NOTHING)
    assert (accounts.pending(looked.counters), len(looked.marks)) == (lost, 1)
    assert drain(home.backlog()) == []
    assert os.listdir(home.state.quarantine) == [path.name]
    totals = home.totals()
    assert (totals[ACCEPTED], totals[CORRUPT], accounts.pending(totals)) == (lost, lost, 0)
    assert all(is_settled(marked, mark, NOTHING) for marked, mark in looked.marks.items())


def test_what_cannot_be_read_stays_with_its_writer(home: Namespace) -> None:
    """A segment in use is not moved away under its writer, which would take all that it goes on to append with it."""
    code = f"{SPOOL}spool.append(b'1')\nprint(1, flush=True)\nsys.stdin.read()"
    with running_python(code, home.state.spool) as writer:
        (path,) = Path(home.state.spool).iterdir()
        overwrite(path, 0, bytes(8))
        overwrite(path, 224, bytes(12))
        assert drain(home.backlog()) == []
        assert path.exists()
        assert home.totals()[ACCEPTED] == 0
        writer.kill()
        writer.wait()
    assert drain(home.backlog()) == []
    assert (os.listdir(home.state.spool), home.totals()[CORRUPT]) == ([], 1)


def test_a_newer_version_is_set_aside(home: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of a version to come is not taken for one of ours, whatever its other words say."""
    with monkeypatch.context() as newer:
        newer.setattr(header, "_MAGIC", b"HTSEG002")
        home.spool.append(b"from the future")
        home.spool.close()
    home.spool.segments.clear()
    home.spool.check()
    assert drain(home.backlog()) == []
    assert len(os.listdir(home.state.quarantine)) == home.totals()[CORRUPT] == 1


def test_newer_settings_and_page_are_not_read(home: Namespace) -> None:
    """A snapshot and a control page of versions to come: the settings before are used, the page is made anew."""
    publisher = Publisher(home.state.path, home.page)
    publisher.publish(OLD)
    publisher.publish(NEW)
    overwrite(Path(snapshot.snapshot_path(home.state.path, 2)), 0, b"HTSNAP03")
    assert Reader(home.state.path, home.page, bytes).get("a") == b"old"
    overwrite(Path(home.state.path, control.NAME), 0, b"HTCTRL02")
    assert control.open_existing(home.state.path) is None
    assert control.open_control(home.state.path, 1).words[0] == control.MAGIC


@pytest.mark.parametrize("count", [0, 1, 5, 1 << 12, (1 << 24) - 1])
def test_a_damaged_count_invents_no_event(home: Namespace, count: int) -> None:
    """The position claims any number of events: what is counted in the end is what there was."""
    path = leftover(home)
    overwrite(path, 8 * POSITION, (count * ONE | HEADER + 3 * FRAME).to_bytes(8, "little"))
    assert survey(home.state, NOTHING).counters[ACCEPTED] <= 3 * FRAME // header.SMALLEST_FRAME
    assert len(drain(home.backlog())) == 3
    assert (home.totals()[ACCEPTED], home.totals()[DELIVERED_SLOT]) == (3, 3)


@pytest.mark.parametrize("position", [0, HEADER - 8, HEADER + 4, OFFSET, (1 << 64) - 1, 1 << 40 | 1 << 39])
def test_a_damaged_position_of_a_living_writer(home: Namespace, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """It may hide what is in that segment while its writer lives, but neither stops the leader nor invents an event."""
    code = f"{SPOOL}spool.append(b'{{}}')\nprint(1, flush=True)\nsys.stdin.read()"
    monkeypatch.setattr(source, "_UNSOUND_PATIENCE", -1)
    with running_python(code, home.state.spool):
        (path,) = Path(home.state.spool).iterdir()
        overwrite(path, 8 * POSITION, position.to_bytes(8, "little"))
        home.spool.append(b"another")
        assert payloads(drain(home.backlog())) == [b"another"]
        assert survey(home.state, home.spool.segments).counters[ACCEPTED] <= 1 + (64 << 10) // 16
    assert len(drain(home.backlog())) <= 1
    found = accounts.add([home.totals(), survey(home.state, home.spool.segments).counters])
    assert (found[ACCEPTED], found[DELIVERED_SLOT]) == (2, 2)


@pytest.mark.parametrize("bit", range(64))
def test_a_living_writers_segment_is_not_taken_for_finished(home: Namespace, bit: int) -> None:
    """No flipped bit makes the leader delete a file into which its writer goes on to append."""
    home.spool.append(b"1")
    (held,) = home.spool.segments.values()
    held.words[header.FINISHED] ^= 1 << bit
    leader = home.backlog()
    assert payloads(drain(leader)) == [b"1"]
    home.spool.append(b"2")
    assert payloads(drain(leader)) == [b"2"]


@pytest.mark.parametrize("word", [0, 1 << 63, (1 << 64) - 1], ids=hex)
def test_a_damaged_acknowledgement_sends_again(home: Namespace, word: int) -> None:
    """What was settled is sent again with the same ids, and counted once."""
    path = leftover(home)
    leader = home.backlog(NOTHING)
    leader.scan()
    batch = leader.claim(2, 1 << 20)
    leader.settle(batch, [backlog.DELIVERED] * 2)
    del leader
    overwrite(path, 48, word.to_bytes(8, "little"))
    assert drain(home.backlog())[:2] == batch.events
    assert (home.totals()[ACCEPTED], home.totals()[DELIVERED_SLOT]) == (3, 3)


def test_a_renamed_segment_takes_its_name(home: Namespace) -> None:
    """Under another name its events have the ids of its header; it is counted once."""
    path = leftover(home)
    path.rename(path.with_name("\udcff backup of monday.seg"))
    assert [event_id for event_id, _ in drain(home.backlog())] == [
        f"{path.stem}-{HEADER + FRAME * n:x}" for n in range(3)
    ]
    assert (home.totals()[ACCEPTED], os.listdir(home.state.spool)) == (3, [])


def test_a_copied_segment_is_set_aside(home: Namespace) -> None:
    """A copy beside the segment is neither delivered nor counted."""
    path = leftover(home)
    for name in ("copy.seg", f"{'0' * 32}-1.seg"):
        path.with_name(name).write_bytes(path.read_bytes())
    assert len(drain(home.backlog())) == 3
    assert (home.totals()[ACCEPTED], home.totals()[CORRUPT], os.listdir(home.state.spool)) == (3, 0, [])
    assert sorted(os.listdir(home.state.quarantine)) == [f"{'0' * 32}-1.seg", "copy.seg"]


@pytest.mark.parametrize("size", [0, 8, 255, 256, 263, 290, 4000])
def test_a_file_cut_under_a_leader_that_reads_it(home: Namespace, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Where segments are not mapped, one that is truncated while a leader has it open is read as far as it goes."""
    monkeypatch.setattr("hypotest.platform.mappable", lambda _: False)
    for n in range(10):
        home.spool.append(event(n))
    home.spool.close()
    home.spool.check()
    leader = home.backlog(NOTHING)
    leader.scan()
    (name,) = os.listdir(home.state.spool)
    os.truncate(f"{home.state.spool}/{name}", size)
    sent = {event(n) for n in range(10)}
    found = payloads(drain(leader))
    assert set(found) <= sent
    assert len(found) == len(set(found))
    assert len(payloads(drain(home.backlog()))) == 0
    assert accounts.pending(home.totals()) == 0


@NOT_FILES
def test_no_file_in_the_spool(home: Namespace, what: str) -> None:
    """What has the name of a segment and is no file keeps neither the leader nor the status waiting."""
    put_in_place(Path(home.state.spool, f"{'a' * 32}-0.seg"), what)
    home.spool.append(b"good")
    assert survey(home.state, home.spool.segments).counters[ACCEPTED] == 1
    assert payloads(drain(home.backlog())) == [b"good"]
    assert os.listdir(home.state.quarantine) == [f"{'a' * 32}-0.seg"]


@NOT_FILES
def test_no_file_for_the_settings(home: Namespace, what: str) -> None:
    """What has the name of a snapshot, or of its draft, and is no file: the settings before are used, then new ones."""
    publisher = Publisher(home.state.path, home.page)
    publisher.publish(OLD)
    home.page.set_generation(2)
    put_in_place(Path(snapshot.snapshot_path(home.state.path, 2)), what)
    reader = Reader(home.state.path, home.page, bytes)
    assert reader.get("a") == b"old"
    if what != "directory":
        put_in_place(Path(home.state.path, ".settings-draft"), what)
    leader = Publisher(home.state.path, home.page)
    assert not leader.in_force()
    assert leader.publish(NEW) == 3
    assert reader.get("a") == b"new"


@NOT_FILES
def test_no_file_for_the_control_page(home: Namespace, what: str) -> None:
    """What is no control page is replaced, or the state directory is not used: nobody waits."""
    path = Path(home.state.path, control.NAME)
    path.unlink()
    put_in_place(path, what)
    assert control.open_existing(home.state.path) is None
    if what == "directory":
        with pytest.raises(control.StorageError):
            control.open_control(home.state.path)
    else:
        assert control.open_control(home.state.path).words[0] == control.MAGIC


@NOT_FILES
def test_no_file_in_the_quarantine(home: Namespace, what: str) -> None:
    """What the server refused for good is settled although it cannot be written down."""
    for day in (time.time(), time.time() + 86_400):
        put_in_place(Path(home.state.quarantine, f"rejected-{time.strftime('%Y-%m-%d', time.gmtime(day))}.jsonl"), what)
    home.spool.append(event(1))
    home.spool.append(event(2))
    leader = home.backlog()
    leader.scan()
    assert leader.settle(leader.claim(1000, 1 << 20), ["rejected", backlog.DELIVERED]) == 2
    path = leftover(home)
    overwrite(path, 0, bytes(HEADER))
    assert drain(leader) == []
    assert path.name in os.listdir(home.state.quarantine)


def test_content_that_nobody_reads(home: Namespace) -> None:
    """Whatever stands in the lock file, in quarantine/ or in a draft means nothing to anybody."""
    garbage = random.Random(4).randbytes(5000)
    for path in (home.state.lock, f"{home.state.quarantine}/rejected.jsonl", f"{home.state.spool}/.draft"):
        Path(path).write_bytes(garbage)
    Path(home.state.path, ".settings-draft").write_bytes(garbage)
    lock = LeaderLock(home.state.lock)
    assert lock.acquire()
    assert lock.held()
    lock.release()
    home.spool.append(b"good")
    assert payloads(drain(home.backlog())) == [b"good"]
    assert Publisher(home.state.path, home.page).publish(NEW) == 1


def test_many_damaged_files_are_one_line(home: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever finds 500 damaged segments says so once."""
    for n in range(500):
        Path(home.state.spool, f"{n:032x}-0.seg").write_bytes(b"")
    with caplog.at_level(logging.DEBUG, "hypotest"):
        assert drain(home.backlog()) == []
    assert len(caplog.records) == 1
    assert home.totals()[CORRUPT] == 500


def test_wrong_generations(home: Namespace) -> None:
    """Snapshots under names that cannot be, or of another generation, neither mislead nor stop the publisher."""
    publisher = Publisher(home.state.path, home.page)
    publisher.publish(OLD)
    old = Path(snapshot.snapshot_path(home.state.path, 1)).read_bytes()
    publisher.publish(NEW)
    for number in (2, (1 << 64) - 1, 10**30):
        Path(snapshot.snapshot_path(home.state.path, number)).write_bytes(old)
    leader = Publisher(home.state.path, home.page)
    assert not leader.in_force()
    assert leader.publish(NEW) == 3
    assert Reader(home.state.path, home.page, bytes).get("a") == b"new"


def test_a_generation_that_changes_by_itself(home: Namespace) -> None:
    """The leader puts back what it had put in force; who looks before that reads the newest settings."""
    publisher = Publisher(home.state.path, home.page)
    for settings in (OLD, {"a": b"between"}, NEW):
        publisher.publish(settings)
    reader = Reader(home.state.path, home.page, bytes)
    home.page.words[control.GENERATION] = 2  # from 3, and its file is there
    assert reader.get("a") == Reader(home.state.path, home.page, bytes).get("a") == b"new"
    assert publisher.in_force()
    assert home.page.words[control.GENERATION] == 3


def test_the_command_line_on_damaged_files(tmp_path: Path) -> None:
    """Status and drain work among damaged files; drain delivers what can be read, and the accounts add up."""
    with ServerProcess(tmp_path) as server:
        env = sdk_env(server, tmp_path / "state", leader="off")
        for label in ("whole", "header", "unreadable", "cut"):
            run(f"keep({label!r}, 5)", env)
        spool = next((tmp_path / "state").glob("v1/*/spool"))
        whole, bad_header, unreadable, cut = sorted(spool.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        overwrite(bad_header, 8, bytes(8))
        overwrite(unreadable, 0, bytes(8))
        overwrite(unreadable, 224, bytes(12))
        cut.write_bytes(cut.read_bytes()[: HEADER + 300])
        os.mkfifo(spool / "fifo.seg")
        (spool / "directory.seg").mkdir()
        command = "import hypotest.cli; sys.exit(hypotest.cli.main({!r}))"
        assert "20 accepted = 0 delivered + 20 pending + 0 dropped" in run(command.format(["status"]), env)
        said = run(command.format(["drain"]), env)
        assert "20 events were pending, none of them is left" in said
        left = server.accounts()["by_type"]["goal"]
        assert 10 < left < 15
        assert f"{left} delivered + 0 pending + {20 - left} dropped" in run(command.format(["status"]), env)
        assert whole.name not in os.listdir(spool)
