"""The control page: made once, replaced when damaged, read whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypotest import control
from hypotest.accounts import ACCEPTED, SLOTS
from hypotest.control import (
    GENERATION,
    KICK,
    LAST_ERROR,
    LEADER_CONFIG,
    MAGIC,
    NAMES,
    REFUSAL,
    SIZE,
    ControlPage,
    Kicks,
    open_control,
)
from hypotest.errors import StorageError
from tests.namespace import running_python

ONES = [1] * SLOTS
COPIES = range(3072, 4096, 512)
COPY_SIZE = 8 + 40 * NAMES + 8 * SLOTS + 8


@pytest.fixture(autouse=True, params=[True, False], ids=["mapped", "by pwrite"])
def mapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the page is written through its mapping, or as on a file system where that may be SIGBUS."""
    monkeypatch.setattr("hypotest.platform.mappable", lambda _: request.param)
    return bool(request.param)


@pytest.fixture
def page(tmp_path: Path) -> ControlPage:
    return open_control(str(tmp_path))


def test_a_new_page(tmp_path: Path, page: ControlPage) -> None:
    """A page that was not there is made, owner-only and empty but for the generation on disk."""
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    assert page.words[0] == MAGIC
    assert page.accounts() == ((), [0] * SLOTS)
    assert page.text(LAST_ERROR) == page.text(LEADER_CONFIG) == ""
    (tmp_path / "control").unlink()
    assert open_control(str(tmp_path), 7).words[GENERATION] == 7
    assert os.listdir(tmp_path) == ["control"]


def test_all_processes_that_create_it_get_the_same(tmp_path: Path) -> None:
    """Of several processes that find no page one makes it, and all map that one."""
    child = """
import sys
from hypotest.control import open_control
print("ready", flush=True)
sys.stdin.readline()
page = open_control(sys.argv[1], int(sys.argv[2]))
page.words[24 + int(sys.argv[2])] = 1
print(page.words[2], flush=True)
sys.stdin.readline()
"""
    with ExitStack() as stack:
        processes = [stack.enter_context(running_python(child, tmp_path, number)) for number in range(6)]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        generations = {process.stdout.readline() for process in processes}
    page = open_control(str(tmp_path))
    assert generations == {f"{page.words[GENERATION]}\n"}
    assert [page.words[24 + number] for number in range(6)] == [1] * 6
    assert os.listdir(tmp_path) == ["control"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"short", bytes(SIZE), b"HTCTRL02" + bytes(SIZE - 8), b"HTCTRL01" + bytes(SIZE)],
    ids=["empty", "short", "zeros", "other version", "too long"],
)
def test_a_damaged_page_is_replaced(tmp_path: Path, damage: bytes) -> None:
    """What is no control page gives way to one; nothing of it is believed."""
    (tmp_path / "control").write_bytes(damage)
    assert control.open_existing(str(tmp_path)) is None
    page = open_control(str(tmp_path), 5)
    assert page.words[GENERATION] == 5
    assert page.accounts() == ((), [0] * SLOTS)
    assert not page.replaced()
    assert os.listdir(tmp_path) == ["control"]


def test_a_page_that_cannot_be(tmp_path: Path) -> None:
    """A directory that is gone, and a directory in the page's place, are StorageErrors."""
    with pytest.raises(StorageError):
        open_control(str(tmp_path / "gone"))
    (tmp_path / "control").mkdir()
    with pytest.raises(StorageError):
        open_control(str(tmp_path))


def test_a_symlink_in_its_place(tmp_path: Path) -> None:
    """A symlink gives way to a page of our own, and what it leads to stays as it is."""
    open_control(str(tmp_path))
    (tmp_path / "control").rename(tmp_path / "elsewhere")
    (tmp_path / "control").symlink_to(tmp_path / "elsewhere")
    open_control(str(tmp_path)).words[control.EPOCH] = 7
    assert not (tmp_path / "control").is_symlink()
    assert ControlPage(str(tmp_path), os.open(tmp_path / "elsewhere", os.O_RDWR)).words[control.EPOCH] == 0


def test_open_existing_makes_nothing(tmp_path: Path) -> None:
    """Who only looks leaves no file behind."""
    assert control.open_existing(str(tmp_path)) is None
    assert os.listdir(tmp_path) == []


def test_descriptors_are_given_back(tmp_path: Path, page: ControlPage) -> None:
    """A page that is let go takes its descriptor with it: the leader looks at neighbours all its life."""
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        assert control.open_existing(str(tmp_path)) is not None
    assert len(os.listdir("/dev/fd")) <= before


@pytest.mark.parametrize("mapped", [False], indirect=True)
def test_a_full_disk_where_a_mapping_is_not_written(
    tmp_path: Path, page: ControlPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store through a mapping could be SIGBUS there: words and texts stay as they are, and accounts are refused."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page.fold("a", ONES)
    page.set_text(LAST_ERROR, "before")
    before = (tmp_path / "control").read_bytes()
    with monkeypatch.context() as while_full:
        while_full.setattr(os, "pwrite", full)
        page.kick()
        page.tell_refusal("disk")
        page.add(control.POLLS)
        page.set_text(LAST_ERROR, "while")
        assert page.turn("server", 60)
        with pytest.raises(OSError, match="No space"):
            page.fold("b", ONES)
    assert (tmp_path / "control").read_bytes() == before
    with pytest.raises(TypeError, match="modify a readonly"):
        page._map[0:1] = b"x"
    page.fold("b", ONES)
    assert page.accounts() == (("a", "b"), [2] * SLOTS)
    (tmp_path / "control").unlink()
    other = open_control(str(tmp_path))
    page.words[control.POLLS] = 7  # of the page that is gone
    assert other.words[control.POLLS] == 0


def test_two_mappings_are_one_page(tmp_path: Path, page: ControlPage) -> None:
    """What one process stores another reads, and a kick is a change."""
    other = open_control(str(tmp_path))
    before = page.words[KICK]
    other.kick()
    assert page.words[KICK] != before
    other.fold("a", ONES)
    assert page.accounts() == (("a",), ONES)


def test_replaced(tmp_path: Path, page: ControlPage) -> None:
    """A page whose file was deleted or exchanged knows it."""
    assert not page.replaced()
    (tmp_path / "control").unlink()
    assert page.replaced()
    other = open_control(str(tmp_path))
    assert page.replaced()
    assert not other.replaced()


def test_a_fold_counts_once(page: ControlPage) -> None:
    """The same segment folded twice in a row changes nothing; another one adds."""
    page.fold("a", ONES)
    page.fold("a", ONES)
    assert page.accounts() == (("a",), ONES)
    page.fold("b", ONES)
    assert page.accounts() == (("a", "b"), [2] * SLOTS)


def test_the_last_names_are_kept(page: ControlPage) -> None:
    """Any of the last nine segments is known again; the one before them is not."""
    names = [f"{n:032x}-{n}" for n in range(NAMES + 1)]
    for name in names:
        page.fold(name, ONES)
    for name in names[1:]:
        page.fold(name, ONES)
    assert page.accounts() == (tuple(names[1:]), [NAMES + 1] * SLOTS)


def test_a_name_of_full_length_is_kept_whole(page: ControlPage) -> None:
    """The longest name of a segment there can be in practice tells two apart by its last digit."""
    name = f"{'f' * 32}-{0xFFFFFF:x}"
    page.fold(name, ONES)
    page.fold(name, ONES)
    assert page.accounts() == ((name,), ONES)


@pytest.mark.parametrize("damaged", range(2), ids=["first copy", "second copy"])
@pytest.mark.parametrize("killed", [False, True], ids=["at rest", "killed in a fold"])
def test_a_torn_copy_does_not_count(tmp_path: Path, page: ControlPage, damaged: int, killed: bool) -> None:
    """Whatever byte of a copy is damaged, the other one counts, whole: as old as it is if the leader was killed."""
    whole, torn = COPIES[1 - damaged], COPIES[damaged]
    for byte in range(COPY_SIZE):
        (tmp_path / "control").unlink()
        page = open_control(str(tmp_path))
        page.fold("1", ONES)
        with (tmp_path / "control").open("r+b", buffering=0) as file:
            before = os.pread(file.fileno(), COPY_SIZE, whole)
            page.fold("newest", [10] * SLOTS)
            if killed:
                os.pwrite(file.fileno(), before, whole)
            old = os.pread(file.fileno(), 1, torn + byte)
            os.pwrite(file.fileno(), bytes([old[0] ^ 0xFF]), torn + byte)
        assert page.accounts() == ((("1",), ONES) if killed else (("1", "newest"), [11] * SLOTS)), byte
        page.fold("newest", [10] * SLOTS)
        assert page.accounts() == (("1", "newest"), [11] * SLOTS), byte


def test_a_page_made_anew_keeps_the_accounts(tmp_path: Path, page: ControlPage) -> None:
    """Of a page whose magic is damaged the accounts are known; what was there can be looked at."""
    (tmp_path / "quarantine").mkdir()
    page.fold("1", ONES)
    damaged = b"?" + (tmp_path / "control").read_bytes()[1:]
    for _ in range(2):
        (tmp_path / "control").write_bytes(damaged)
        assert open_control(str(tmp_path)).accounts() == (("1",), ONES)
        assert (tmp_path / "quarantine" / "control").read_bytes() == damaged
    assert sorted(os.listdir(tmp_path)) == ["control", "quarantine"]
    assert os.listdir(tmp_path / "quarantine") == ["control"]


def test_without_a_name_a_fold_always_counts(page: ControlPage) -> None:
    """What is set aside is counted, and the segment folded last keeps its name."""
    page.fold("1", ONES)
    page.fold("", ONES)
    page.fold("", ONES)
    page.fold("1", ONES)
    assert page.accounts() == (("1",), [3] * SLOTS)


@pytest.mark.parametrize("word", [control.EPOCH, control.LIVED, control.POLLS, control.SENDS])
def test_a_word_at_its_end_begins_anew(page: ControlPage, word: int) -> None:
    """A damaged count of the page stops nobody."""
    page.words[word] = (1 << 64) - 1
    page.add(word, 2)
    assert page.words[word] == 1


def test_a_reader_never_sees_a_mixture(tmp_path: Path, page: ControlPage) -> None:
    """While a leader folds, another process always reads a sum that was once in force."""
    child = """
import sys
from hypotest.control import open_control
page = open_control(sys.argv[1])
print("ready", flush=True)
seen = last = 0
while last < 2000:
    names, counters = page.accounts()
    assert len(set(counters)) == 1, counters
    assert names == tuple(f"s{n + 1}" for n in range(max(0, counters[0] - 9), counters[0])), (names, counters)
    assert counters[0] >= last, (counters, last)
    last = counters[0]
    seen += 1
print(seen, flush=True)
"""
    with running_python(child, tmp_path) as reader:
        for n in range(1, 2001):
            page.fold(f"s{n}", ONES)
        assert int(reader.stdout.readline()) > 0
    assert page.accounts()[1][ACCEPTED] == 2000


def test_texts(page: ControlPage) -> None:
    """A text is read as written, cut to its area, and does not touch its neighbour."""
    page.set_text(LAST_ERROR, "no route to höst")
    page.set_text(LEADER_CONFIG, "{}")
    assert (page.text(LAST_ERROR), page.text(LEADER_CONFIG)) == ("no route to höst", "{}")
    page.set_text(LAST_ERROR, "é" * 5000)
    assert page.text(LAST_ERROR) == "é" * 252
    assert page.text(LEADER_CONFIG) == "{}"
    page.set_text(LAST_ERROR, "\ud800 lone")
    assert page.text(LAST_ERROR) == "? lone"
    page.set_text(LAST_ERROR, "")
    assert page.text(LAST_ERROR) == ""


def test_a_text_half_written_is_none(tmp_path: Path, page: ControlPage) -> None:
    """A text whose bytes do not fit its checksum is not shown."""
    page.set_text(LAST_ERROR, "first")
    with (tmp_path / "control").open("r+b") as file:
        file.seek(LAST_ERROR[0] + 10)
        file.write(b"X")
    assert page.text(LAST_ERROR) == ""


@pytest.mark.parametrize(("reason", "seconds_ago", "said"), [("disk", 0, "disk"), ("spool_full", 50, "spool_full")])
def test_what_was_refused_within_a_minute(page: ControlPage, reason: str, seconds_ago: int, said: str) -> None:
    """Any process tells it, also where no file has room for a count; a minute later it is over."""
    page.tell_refusal(reason)
    page.words[REFUSAL] -= seconds_ago << 8
    assert page.refusing() == said
    page.words[REFUSAL] -= 60 << 8
    assert page.refusing() == ""


@pytest.mark.parametrize("word", [0, (1 << 64) - 1, 255])
def test_a_damaged_word_refuses_nothing(page: ControlPage, word: int) -> None:
    """What is no time, or no reason, says nothing."""
    page.words[REFUSAL] = word
    assert page.refusing() == ""


def test_a_leader_is_woken_once_a_second(page: ControlPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for; at the first call at once."""
    monkeypatch.setattr(control, "_KICK_EVERY", 1e9)
    kick, seen = Kicks(page), {page.words[KICK]}
    for _ in range(100):
        kick()
        seen.add(page.words[KICK])
    assert len(seen) == 2
