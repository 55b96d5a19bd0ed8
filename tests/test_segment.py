"""The segment: the spool's file format."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from itertools import count
from pathlib import Path

import mmh3
import pytest

from hypotest import header, segment
from hypotest.accounts import ACCEPTED, DELIVERED, REFUSALS, SLOTS, drop_slot, refusal_slot
from hypotest.errors import CorruptFile
from hypotest.header import COUNTERS, HEADER, OFFSET, ONE, POSITION
from hypotest.instance import Instance
from hypotest.segment import MAX_PAYLOAD, Segment
from tests.namespace import run_python, running_python

INSTANCE = bytes(range(16))
MODES = pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "written"])


def create(directory: Path, *, size: int = 64 << 10, mapped: bool = True, number: int = 0x2A) -> Segment:
    return instance(number).create(str(directory), size, mapped=mapped).segment


def instance(number: int) -> Instance:
    """A process of a known id, whose next segment has that number."""
    known = Instance()
    known._drawn["id"], known.numbers = INSTANCE, count(number)
    return known


def put(target: Segment, payload: bytes) -> int:
    """Append a frame as the spool does, and return where it stands."""
    position = target.words[POSITION]
    offset = position & OFFSET
    frame = struct.pack("=II", len(payload), mmh3.hash(payload, target.seed, signed=False)) + payload
    target.map[offset : offset + len(frame)] = frame
    target.words[POSITION] = position + ONE + (len(frame) + 7 & -8)
    return offset


@MODES
def test_the_header_is_as_documented(tmp_path: Path, mapped: bool) -> None:
    """The bytes of a new segment are those of the table in the module's docstring."""
    held = create(tmp_path, mapped=mapped)
    path = tmp_path / f"{INSTANCE.hex()}-2a.seg"
    assert held.path == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    raw = path.read_bytes()
    assert len(raw) == (64 << 10 if mapped else HEADER)
    assert raw[:8] == b"HTSEG001"
    assert raw[16:32] == INSTANCE
    number, position, acknowledged, finished, created, pid, size, seen = struct.unpack_from("=8Q", raw, 32)
    assert (number, position, acknowledged, finished) == (0x2A, HEADER, HEADER, 0)
    assert (pid, size, seen) == (os.getpid(), 64 << 10, 0)
    assert abs(created - path.stat().st_mtime) < 10
    assert raw[96:224] == bytes(128)
    again = struct.unpack_from("=3I", raw, 224)
    checksum = zlib.crc32(raw[:40] + raw[80:88])
    assert again == (held.seed, (64 << 10) // 8, checksum)
    assert raw[236:HEADER] == bytes(20)


@MODES
def test_what_is_put_is_read(tmp_path: Path, mapped: bool) -> None:
    """Another process's view of the file has the same frames and counts, in both modes."""
    held = create(tmp_path, mapped=mapped)
    sent = [b"x" * size for size in (1, 7, 8, 9, 100)]
    offsets = [put(held, payload) for payload in sent]
    held.count(refusal_slot("disk"), 3)
    other = segment.open_segment(held.path)
    assert (other.instance, other.number, other.seed, other.name) == (INSTANCE.hex(), 0x2A, held.seed, held.name)
    end = other.words[POSITION] & OFFSET
    found = [other.read(offset, end) for offset in offsets]
    assert [frame[0] for frame in found if frame] == sent
    assert [frame[1] for frame in found if frame] == [*offsets[1:], end]
    assert other.counters()[ACCEPTED] == other.unsettled() == 5
    assert other.counters()[refusal_slot("disk")] == 3
    assert segment.peek(held.path) == (other.words[POSITION], HEADER, other.counters())


def test_a_segment_has_its_name_only_when_whole(tmp_path: Path) -> None:
    """The leader can never open a segment that its own process writes: it is registered before it has its name."""
    seen: list[bool] = []

    class Own(dict[str, Segment]):
        def __setitem__(self, path: str, held: Segment) -> None:
            seen.append(os.path.exists(path))
            super().__setitem__(path, held)

    process = instance(1)
    process.segments = Own()
    held = process.create(str(tmp_path), 4096, mapped=True).segment
    assert (seen, process.segments) == ([False], {held.path: held})
    assert os.listdir(tmp_path) == [os.path.basename(held.path)]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """A segment that cannot be had its name leaves no file, no descriptor and no entry."""
    before = len(os.listdir("/dev/fd"))
    process = instance(1)
    (tmp_path / f"{INSTANCE.hex()}-1.seg").mkdir()  # rename fails
    with pytest.raises(OSError, match="directory"):
        process.create(str(tmp_path), 4096, mapped=True)
    with pytest.raises(OSError, match="gone"):
        process.create(str(tmp_path / "gone"), 4096, mapped=True)
    assert process.segments == {}
    assert len(os.listdir(tmp_path)) == 1
    assert len(os.listdir("/dev/fd")) <= before


def test_a_damaged_frame_is_none(tmp_path: Path) -> None:
    """No byte of a frame can change without the frame being refused."""
    held = create(tmp_path)
    offset = put(held, b'{"a":1}')
    end = held.words[POSITION] & OFFSET
    for at in range(offset, offset + 8 + 7):
        good = held.map[at : at + 1]
        for flip in (1, 0x80, 0xFF):
            held.map[at : at + 1] = bytes([good[0] ^ flip])
            assert held.read(offset, end) is None, (at, flip)
        held.map[at : at + 1] = good
    assert held.read(offset, end) == (b'{"a":1}', end)
    assert held.read(offset, offset + 8 + 6) is None
    assert held.read(offset, offset + 7) is None


@MODES
def test_frames_that_follow_one_another(tmp_path: Path, mapped: bool) -> None:
    """What is read at once is what is read one by one: within its limits, and up to a frame that is not sound."""
    held = create(tmp_path, size=1 << 20, mapped=mapped)
    sent = [bytes([65 + n % 26]) * size for n, size in enumerate((1, 8, 60_000, 64 << 10, 3, 64 << 10, 64 << 10, 5))]
    offsets = [put(held, payload) for payload in sent]
    end = held.words[POSITION] & OFFSET

    def read(offset: int, most: int = 1000, room: int = 1 << 20) -> list[bytes]:
        found, payloads = held.frames(offset, end, most, room)
        assert found == offsets[offsets.index(offset) :][: len(found)]
        return payloads

    found: list[bytes] = []
    while len(found) < len(sent):  # no block holds all of them
        more = read(offsets[len(found)])
        assert more
        found += more
    assert found == sent
    assert read(HEADER, most=2) == sent[:2]
    assert read(HEADER, most=0) == read(HEADER, room=0) == []
    assert read(HEADER, room=offsets[1] - HEADER) == sent[:1]
    assert read(HEADER, room=offsets[1] - HEADER + 1) == sent[:2]
    assert held.frames(offsets[-1], end - 8, 1000, 1 << 20) == ([], [])
    held.map[offsets[1] + 8 : offsets[1] + 9] = b"!"
    assert read(HEADER) == sent[:1]
    assert read(offsets[1]) == []
    assert held.frames(end, 1 << 20, 1000, 1 << 20) == ([], [])


def test_next_sound_finds_what_follows(tmp_path: Path) -> None:
    """After damage, however long, the next good frame is found; after the last there is none."""
    held = create(tmp_path, size=1 << 20)
    first = put(held, b"x" * 50)
    held.words[POSITION] += 600_000 & -8  # a hole of zeros
    second = put(held, b"y" * MAX_PAYLOAD)
    end = os.fstat(held.fd).st_size
    held.map[first : first + 1] = b"\xff"
    assert held.read(first, end) is None
    assert held.next_sound(first, end) == second
    assert held.next_sound(second, end) == end


def test_no_payload_can_look_like_a_frame(tmp_path: Path) -> None:
    """A frame inside a payload is not found when the frame around it is damaged: another file, another seed."""
    stolen, held = create(tmp_path, number=1), create(tmp_path, number=2)
    put(stolen, b"evil" * 4)
    inner = stolen.map[HEADER : HEADER + 24]
    outer = put(held, inner * 10)
    held.map[outer : outer + 1] = b"\xff"
    assert stolen.seed != held.seed
    assert held.next_sound(outer, 64 << 10) == 64 << 10


@pytest.mark.parametrize(("size", "events"), [(0, 1), (8, 1), (45, 1), (48, 2), (HEADER - 1, 2)])
def test_a_header_cut_off_is_corrupt(tmp_path: Path, size: int, events: int) -> None:
    """A file too short for its header is no segment; it counts as the events that it says it had, or as one."""
    held = create(tmp_path)
    put(held, b"1")
    put(held, b"2")
    path = held.path
    with open(path, "rb") as file:  # the writer's mapping is not truncated under it
        raw = file.read()
    os.unlink(path)
    Path(path).write_bytes(raw[:size])
    with pytest.raises(CorruptFile):
        segment.open_segment(path)
    position, acknowledged, counters = segment.peek(path)
    assert (position, acknowledged) == (events * ONE | HEADER, HEADER)
    assert counters == [events] + [0] * (SLOTS - 1)


def test_another_version_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of another version, whole by its own lights, is not read as one of ours."""
    with monkeypatch.context() as newer:
        newer.setattr(header, "_MAGIC", b"HTSEG002")
        held = create(tmp_path)
        put(held, b"from the future")
    with pytest.raises(CorruptFile):
        segment.open_segment(held.path)


@pytest.mark.parametrize(
    ("offset", "raw"),
    [
        (0, b"HTSEG002"),
        (8, b"\xff" * 8),
        (16, bytes(16)),
        (32, b"\xff" * 8),
        (80, bytes(8)),
        (80, b"\xff" * 8),
        (224, bytes(12)),
    ],
)
def test_an_identity_damaged_in_one_place(tmp_path: Path, offset: int, raw: bytes) -> None:
    """Whatever of the identity is overwritten: the frames are read, and have the ids that they had."""
    held = create(tmp_path)
    at = put(held, b"kept")
    assert not segment.open_segment(held.path).mended
    held.map[offset : offset + len(raw)] = raw
    other = segment.open_segment(held.path)
    assert (other.instance, other.number, other.full, other.mended) == (INSTANCE.hex(), 0x2A, 64 << 10, True)
    assert other.read(at, HEADER + 16) == (b"kept", HEADER + 16)


def test_an_identity_damaged_twice(tmp_path: Path) -> None:
    """With both seeds damaged no frame is sound, so nothing wrong is read; without magic and checksum it is nothing."""
    held = create(tmp_path)
    at = put(held, b"lost")
    held.map[8:12] = held.map[224:228] = bytes(byte ^ 1 for byte in held.map[8:12])
    other = segment.open_segment(held.path)
    assert other.read(at, HEADER + 16) is None
    assert (other.unsettled(), other.uncovered(HEADER + 16)) == (1, 16)
    held.map[0:1] = b"?"
    with pytest.raises(CorruptFile):
        segment.open_segment(held.path)


def test_every_bit_of_a_counter_is_mended() -> None:
    """A counter says the same with any bit of it flipped; with more of them it is not believed, or just as small."""
    for n in (*range(300), 10_000, 123_456_789, (1 << 32) - 1):
        word = header.add(0, n)
        assert [header.count_of(word ^ 1 << bit) for bit in range(64)] == [n] * 64, n
    assert header.count_of(int.from_bytes(b"garbages", "little")) == 0
    assert header.count_of((1 << 64) - 1) == 0
    assert header.count_of(header.add(header.add(0, (1 << 32) - 1), 5)) == (1 << 32) - 1


def test_every_bit_of_an_acknowledgement_is_checked() -> None:
    """No flipped bit, nor two side by side, makes another acknowledgement: all is sent again instead."""
    full = 4 << 20
    for mark in (HEADER, ONE | HEADER + 16, 7 * ONE | HEADER + 8000, 9000 * ONE | full):
        word = header.with_check(mark)
        assert header.acknowledged(word, full) == mark
        for flipped in [word ^ 1 << bit for bit in range(64)] + [word ^ 3 << bit for bit in range(63)]:
            assert header.acknowledged(flipped, full) == HEADER, (mark, f"{flipped:x}")
    for extreme in (0, (1 << 64) - 1, ONE, OFFSET):
        assert header.acknowledged(extreme, full) == HEADER


def test_a_position_is_believed_as_far_as_it_can_be() -> None:
    """No more frames than fit before the offset; none if the offset cannot be."""
    assert header.position(5 * ONE | HEADER + 80, 4096) == 5 * ONE | HEADER + 80
    assert header.position(1 << 63 | HEADER + 80, 4096) == 5 * ONE | HEADER + 80
    for offset in (0, HEADER - 8, HEADER + 4, 4104, 1 << 39):
        assert header.position(3 * ONE | offset, 4096) == HEADER


def test_a_truncated_file_is_never_mapped(tmp_path: Path) -> None:
    """What is left of a truncated segment is read without a mapping, whose lost part would kill the process."""
    held = create(tmp_path, mapped=False, size=1 << 20)
    offset = put(held, b"kept")
    put(held, b"z" * 5000)
    os.truncate(held.path, offset + 16)
    other = segment.open_segment(held.path)
    assert other.read(offset, HEADER + 8192) == (b"kept", offset + 16)
    assert other.read(offset + 16, HEADER + 8192) is None


def test_the_lock_tells_a_living_writer(tmp_path: Path) -> None:
    """A segment can be locked by others only once its writer is gone, be it by SIGKILL."""
    child = (
        "import sys; from hypotest.instance import Instance; "
        "made = Instance().create(sys.argv[1], 64 << 10, mapped=True).segment; "
        "print(made.path, flush=True)"
    )
    with running_python(f"{child}; sys.stdin.read()", tmp_path) as writer:
        (path,) = tmp_path.glob("*.seg")
        held = segment.open_segment(str(path))
        assert not held.lock()
        writer.kill()
        writer.wait()
        assert held.lock()
    look = "import sys; from hypotest import segment; print(segment.open_segment(sys.argv[1]).lock())"
    assert run_python(look, path) == "False\n"
    del held
    assert run_python(look, path) == "True\n"


def test_the_last_reference_unmaps_outside_of_python(tmp_path: Path) -> None:
    """What a signal handler raises in `__del__` is lost, so nothing slow is done there; mapping and lock are gone."""
    held = create(tmp_path)
    path, fd, called = held.path, held.fd, []
    sys.setprofile(lambda frame, event, function: called.append(function) if event == "c_call" else None)
    del held
    sys.setprofile(None)
    assert [function for function in called if function not in (getattr, sys.setprofile)] == [os.fstat, os.close]
    assert path not in Path("/proc/self/maps").read_text()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("closes", ["close", "its last reference"])
def test_a_descriptor_that_the_host_has_closed_is_not_closed_again(tmp_path: Path, closes: str) -> None:
    """A host that becomes a daemon closes all descriptors; the next file that it opens has the number of ours."""
    held = create(tmp_path)
    with open(os.devnull) as theirs:
        number = os.dup2(theirs.fileno(), held.fd)
        if closes == "close":
            held.close()
        del held
        os.close(number)


def test_nothing_is_written_to_a_file_of_the_host(tmp_path: Path) -> None:
    """Where segments are not mapped, a number that the host has closed and uses again is not written to."""
    held = create(tmp_path, mapped=False)
    with open(tmp_path / "theirs", "w+b") as theirs:
        number = os.dup2(theirs.fileno(), held.fd)
        with pytest.raises(OSError, match="another file's"):
            put(held, b"x")
    assert (tmp_path / "theirs").read_bytes() == b""
    del held
    os.close(number)


def test_accounts_follow_from_the_positions(tmp_path: Path) -> None:
    """Delivered is what was settled and not dropped; refusals stand by themselves; taken-over counts add."""
    held = create(tmp_path)
    for _ in range(10):
        put(held, b"x")
    held.acknowledge(7 * ONE | HEADER + 7 * 16)
    held.count(drop_slot("rejected"), 2)
    for reason in REFUSALS:
        held.count(refusal_slot(reason))
    found = held.counters()
    assert (found[ACCEPTED], found[DELIVERED], held.unsettled()) == (10, 5, 3)
    held.count(ACCEPTED, 100)
    held.count(drop_slot("lost"), 40)
    found = held.counters()
    assert (found[ACCEPTED], found[DELIVERED]) == (110, 65)
    assert sum(found) == 110 + 65 + 42 + len(REFUSALS)
    assert len(found) == SLOTS
    assert held.map[COUNTERS * 8 : COUNTERS * 8 + 4] == (100).to_bytes(4, sys.byteorder)
