"""Settings snapshots: published whole, read lazily, never wrong."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypotest import publisher, snapshot
from hypotest.control import GENERATION, ControlPage, open_control
from hypotest.errors import CorruptFile
from hypotest.publisher import Publisher
from hypotest.snapshot import INDEX, Reader, Snapshot, generations, open_newest, snapshot_path
from tests.namespace import running_python

RECORDS = {"button": b'{"a":1}', "größe": b"{}", "\ud800": b"lone", "empty": b"", "": b"no name"}
ABSENT = [f"absent {n}" for n in range(20)]


class Home:
    """A namespace with a publisher."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = str(root)
        self.page: ControlPage = open_control(self.path)
        self.publisher = Publisher(self.path, self.page)

    def reader(self) -> Reader[bytes]:
        return Reader(self.path, self.page, bytes)

    def file(self, generation: int) -> Path:
        return Path(snapshot_path(self.path, generation))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_round_trip(home: Home) -> None:
    """Every record is found by its name, and nothing else is."""
    assert home.publisher.publish(RECORDS) == 1
    reader = home.reader()
    assert {name: reader.get(name) for name in RECORDS} == RECORDS
    assert reader.get("butto") is reader.get("BUTTON") is None
    held = Snapshot(str(home.file(1)))
    assert (held.generation, held.count, held.names()) == (1, len(RECORDS), sorted(RECORDS))
    assert home.file(1).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(home.path)) == ["control", "settings-1.snap"]


def test_ten_thousand_records(home: Home) -> None:
    """Each of 10,000 records is found; a worker decodes what it asks for, once."""
    records = {f"experiment {n}": b"%d" % n for n in range(10_000)}
    home.publisher.publish(records)
    decoded: list[bytes] = []
    reader = Reader(home.path, home.page, lambda record: decoded.append(record) or record)
    assert reader.get("experiment 77") is reader.get("experiment 77")
    assert decoded == [b"77"]
    assert {name: reader.get(name) for name in records} == records


def test_names_without_an_experiment_are_remembered(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of them, for a generation: the slot that each would be in may be large, and is read as a whole."""
    read: list[int] = []
    slot = Snapshot._slot
    monkeypatch.setattr(Snapshot, "_slot", lambda held, number: read.append(number) or slot(held, number))
    home.publisher.publish({"here": b"1"})
    reader = home.reader()
    for name in ("gone", "gone", "x" * 1000, "x" * 1000, "gone"):
        assert reader.get(name) is None
    assert len(read) == 3
    assert all(reader.get(f"gone {n}") is None for n in range(3000))
    assert reader.get("here") == b"1"
    assert len(reader._view.decoded) <= 1002
    home.publisher.publish({"gone": b"2"})
    assert (reader.get("gone"), reader.get("here")) == (b"2", None)


def test_what_a_worker_allocates_goes_by_what_it_uses(home: Home) -> None:
    """The settings and one experiment of them: the same with 20,000 records as with 20."""

    def peak(count: int) -> int:
        home.publisher.publish({f"experiment {n}": b"x" * 100 for n in range(count)})
        reader = home.reader()
        tracemalloc.start()
        try:
            assert reader.get("experiment 7")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    few = peak(21)
    assert peak(20_000) < few + 2_000


def test_no_records(home: Home) -> None:
    """Settings without an experiment are settings."""
    assert home.publisher.publish({}) == 1
    assert home.reader().ready()
    assert home.reader().get("x") is None


def test_before_any_settings(home: Home) -> None:
    """Without a snapshot nothing is defined, and the reader says so."""
    reader = home.reader()
    assert (reader.ready(), reader.get("x"), reader.generation) == (False, None, 0)
    reader.retry()


def test_names_with_the_same_hash(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that collide are told apart by the name in the record."""
    for module in (publisher, snapshot):
        monkeypatch.setattr(module, "name_hash", lambda name: len(name) % 2)
    records = {name * n: b"%d" % n for name in "abc" for n in range(1, 20)}
    home.publisher.publish(records)
    reader = home.reader()
    assert {name: reader.get(name) for name in records} == records
    assert reader.get("d") is reader.get("dd") is None


def test_unchanged_settings_publish_nothing(home: Home) -> None:
    """The same records, in whatever order, are no new generation; any difference is one."""
    assert home.publisher.publish({"a": b"1", "b": b"2"}) == 1
    assert home.publisher.publish({"b": b"2", "a": b"1"}) == 0
    assert Publisher(home.path, home.page).publish({"a": b"1", "b": b"2"}) == 0
    assert home.publisher.publish({"a": b"12", "b": b""}) == 2
    assert home.publisher.publish({"a": b"1", "b": b"2"}) == 3


@pytest.mark.parametrize("moment", ["before it writes", "before it renames"])
def test_a_publisher_that_is_deposed_half_way_replaces_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its successor gives the same number to newer settings, which stay."""
    deposed, successor = home.publisher, Publisher(home.path, home.page)
    encode, sync = publisher._encode, os.fsync

    def depose() -> None:
        monkeypatch.undo()
        deposed.close()
        assert successor.publish({"a": b"newer"}) == 1

    if moment == "before it writes":
        monkeypatch.setattr(publisher, "_encode", lambda *given: (encode(*given), depose())[0])
    else:
        monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), depose()))
    assert deposed.publish({"a": b"older"}) == 0
    assert home.reader().get("a") == b"newer"
    assert successor.in_force()


def test_a_switch_is_seen_at_the_next_call(home: Home) -> None:
    """A reader has the new settings as soon as they are in force, all of them."""
    reader = home.reader()
    home.publisher.publish({"a": b"old", "gone": b""})
    assert reader.get("a") == b"old"
    home.publisher.publish({"a": b"new"})
    assert (reader.get("a"), reader.get("gone"), reader.generation) == (b"new", None, 2)


def test_the_newest_two_are_kept(home: Home) -> None:
    """Old files go, but for one, and who has them mapped reads on."""
    home.publisher.publish({"a": b"1"})
    held = Snapshot(str(home.file(1)))
    for n in range(2, 6):
        home.publisher.publish({"a": b"%d" % n})
    assert generations(home.path) == [5, 4]
    assert held.get("a") == b"1"


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_a_damaged_byte_is_never_wrong_data(home: Home, flip: int) -> None:
    """Whichever byte is damaged: the right record or an error, never another, and none for a name that has none."""
    home.publisher.publish(RECORDS)
    expected = RECORDS | dict.fromkeys(ABSENT)
    good = home.file(1).read_bytes()
    damaged = home.root / "damaged"
    for at in range(len(good)):
        raw = bytearray(good)
        raw[at] ^= flip
        damaged.write_bytes(raw)
        errors = 0
        for name, data in expected.items():
            try:
                assert Snapshot(str(damaged)).get(name) == data, (at, name)
            except CorruptFile:
                errors += 1
        assert errors, f"nobody tells of byte {at}"
        with pytest.raises(CorruptFile):
            Snapshot(str(damaged)).check()


def test_a_damaged_record_costs_its_slot_alone(home: Home) -> None:
    """One damaged byte of a record makes few experiments unreadable, and no other."""
    records = {f"experiment {n}": b"%d" % n for n in range(1_000)}
    home.publisher.publish(records)
    raw = bytearray(home.file(1).read_bytes())
    raw[-1] ^= 0xFF
    home.file(1).write_bytes(raw)
    held, lost = Snapshot(str(home.file(1))), 0
    for name, data in records.items():
        try:
            assert held.get(name) == data
        except CorruptFile:
            lost += 1
    assert 1 <= lost <= 8


def test_blocks_of_another_file_are_told(home: Home) -> None:
    """Sound blocks of the generation before, which a disk may give back after a power cut, are not taken for ours."""
    home.publisher.publish({"a": b"1", "b": b"2"})
    home.publisher.publish({"a": b"3", "b": b"2"})
    old, new = (home.file(generation).read_bytes() for generation in (1, 2))
    assert len(old) == len(new)
    home.file(2).write_bytes(new[:INDEX] + old[INDEX:])
    held = Snapshot(str(home.file(2)))
    for name in "ab":
        with pytest.raises(CorruptFile):
            held.get(name)


def test_a_truncated_file_is_refused(home: Home) -> None:
    """A snapshot cut off at any byte, or with a byte too many, is refused as a whole."""
    home.publisher.publish(RECORDS)
    good = home.file(1).read_bytes()
    cut = home.root / "cut"
    for size in range(len(good)):
        cut.write_bytes(good[:size])
        with pytest.raises(CorruptFile):
            Snapshot(str(cut))
    cut.write_bytes(good + b"\0")
    with pytest.raises(CorruptFile):
        Snapshot(str(cut))


def test_garbage_is_refused(home: Home) -> None:
    """No random bytes make the reader read past the file or crash."""
    rng = random.Random(1)
    path = home.root / "garbage"
    for _ in range(300):
        path.write_bytes(b"HTSNAP02" + rng.randbytes(rng.randrange(200)))
        with pytest.raises(CorruptFile):
            Snapshot(str(path))


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_a_damaged_newest_falls_back(home: Home, damage: str) -> None:
    """A reader that cannot read the newest settings stays with those it has, or takes the next older ones."""
    old = home.reader()
    home.publisher.publish({"a": b"old"})
    assert old.get("a") == b"old"
    home.publisher.publish({"a": b"new"})
    good = home.file(2).read_bytes()
    if damage == "gone":
        home.file(2).unlink()
    else:
        home.file(2).write_bytes(good[:-1] if damage == "short" else b"?" + good[1:])
    for reader in (old, home.reader()):
        assert (reader.get("a"), reader.ready(), reader.generation) == (b"old", True, 1)
    newest = open_newest(home.path, 2)
    assert newest is not None
    assert newest.generation == 1
    home.file(2).write_bytes(good)
    old.retry()
    assert (old.get("a"), old.generation) == (b"new", 2)


def test_a_damaged_newest_is_replaced(home: Home) -> None:
    """The publisher does not take a damaged file for the settings in force: it writes them anew."""
    home.publisher.publish({"a": b"1"})
    home.file(1).write_bytes(b"garbage")
    assert home.publisher.publish({"a": b"1"}) == 2
    assert home.reader().get("a") == b"1"


def test_a_damaged_record_is_replaced(home: Home) -> None:
    """A file of which one record is damaged is written anew by the next leader."""
    home.publisher.publish({"a": b"1", "b": b"2"})
    raw = bytearray(home.file(1).read_bytes())
    raw[-1] ^= 0xFF
    home.file(1).write_bytes(raw)
    assert Publisher(home.path, home.page).publish({"a": b"1", "b": b"2"}) == 2
    reader = home.reader()
    assert (reader.get("a"), reader.get("b")) == (b"1", b"2")


def test_a_lost_page_continues_the_generations(home: Home) -> None:
    """With a new control page the newest sound snapshot is in force, and the next one has a number above all."""
    for n in range(3):
        home.publisher.publish({"a": b"%d" % n})
    os.unlink(home.root / "control")
    newest = open_newest(home.path)
    assert newest is not None
    page = open_control(home.path, newest.generation)
    assert Reader(home.path, page, bytes).get("a") == b"2"
    assert Publisher(home.path, page).publish({"a": b"9"}) == 4
    blank = open_control(home.path)
    blank.words[GENERATION] = 0
    assert Publisher(home.path, blank).publish({"a": b"9"}) == 0
    assert blank.words[GENERATION] == 4
    assert Publisher(home.path, blank).publish({"a": b"10"}) == 5


def test_other_files_are_no_generations(home: Home) -> None:
    """Names that only look like a snapshot's are left alone."""
    for name in ("settings-x.snap", "settings-1.snap.bak", "settings-.snap", "settings--1.snap", "xsettings-1.snap"):
        (home.root / name).write_bytes(b"")
    assert generations(home.path) == []
    assert open_newest(home.path) is None


def test_readers_never_see_a_mixture(home: Home) -> None:
    """While 200 generations are published, other processes see each of them whole, and none after a newer one."""
    child = """
import sys
from hypotest.control import open_control
from hypotest.snapshot import Reader
reader = Reader(sys.argv[1], open_control(sys.argv[1]), int)
print("ready", flush=True)
last = switches = 0
while last < 200:
    low, generation, high = reader.get("first"), reader.generation, reader.get("last")
    if low is None or reader.generation != generation:
        continue
    assert low == high == generation, (low, high, generation)
    assert generation >= last
    switches += generation != last
    last = generation
print(switches, flush=True)
"""
    with ExitStack() as stack:
        readers = [stack.enter_context(running_python(child, home.path)) for _ in range(2)]
        for n in range(1, 201):
            names = ["first", *map(str, range(50)), "last"]
            home.publisher.publish(dict.fromkeys(names, b"%d" % n))
        assert all(int(reader.stdout.readline()) > 0 for reader in readers)


def test_the_layout(home: Home) -> None:
    """The file is laid out as the module's docstring says."""
    home.publisher.publish({"a": b"1"})
    raw = home.file(1).read_bytes()
    assert raw[:8] == b"HTSNAP02"
    assert [int.from_bytes(raw[at : at + 8], sys.byteorder) for at in (8, 24, 32)] == [1, 1, len(raw)]
    assert raw[INDEX : INDEX + 12] == (INDEX + 16).to_bytes(8, sys.byteorder) + (10).to_bytes(4, sys.byteorder)
    assert raw[-2:] == b"a1"
