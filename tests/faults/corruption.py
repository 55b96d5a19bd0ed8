"""Every way to damage a file of each kind, and what readers make of it: `python -m stress corruption` runs it all.

A sweep runs in a forked child: a reader that hangs or is killed by SIGBUS ends the child, and the case is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import mmh3

from hypotest import accounts, control, leader, snapshot
from hypotest.config import Config
from hypotest.control import open_control
from hypotest.errors import CorruptFile
from hypotest.header import HEADER, OFFSET, ONE, POSITION
from hypotest.instance import Instance
from hypotest.leader import Campaign
from hypotest.post import Post
from hypotest.publisher import Publisher
from hypotest.snapshot import Reader
from hypotest.survey import survey
from tests.namespace import Namespace, drain

_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
HANGS_AFTER = 30
SEED = 4
INSTANCE = bytes(range(16))
EVENTS, SETTLED, REFUSED = 12, 4, 3
OLD, NEW = {"a": b"old", "b": b"1"}, {"a": b"new", "b": b"2", "größe": b"x" * 50}
ABSENT = "0123456789"
TOTALS = [n * 11 for n in range(1, accounts.SLOTS + 1)]

Case = tuple[str, bytes]
"""Where and how, and the content of the damaged file."""


class Result(NamedTuple):
    """What a sweep found.

    Attributes:
        cases: how many files were damaged and read.
        whole: in how many of them nothing was lost.
        partly: in how many something was lost, and counted or published anew.
        wrong: the cases in which something wrong was read or counted.
        stuck: the case in which a reader hung or was killed, if any.
    """

    cases: int
    whole: int
    partly: int
    wrong: list[str]
    stuck: list[str]


def truncations(raw: bytes) -> Iterator[Case]:
    for size in range(len(raw)):
        yield f"cut to {size}", raw[:size]


def flips(raw: bytes) -> Iterator[Case]:
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8}", bytes(damaged)


def zero_tails(raw: bytes) -> Iterator[Case]:
    for size in range(len(raw)):
        yield f"zeros from {size}", raw[:size].ljust(len(raw), b"\0")


def garbage_tails(raw: bytes) -> Iterator[Case]:
    rng = random.Random(SEED)
    for size in range(0, len(raw), 4):
        yield f"garbage from {size}", raw[:size] + rng.randbytes(len(raw) - size)
    for more in (1, 7, 8, 16, 100, 4096, 1 << 20):
        yield f"{more} bytes of garbage behind", raw + rng.randbytes(more)
        yield f"{more} zeros behind", raw + bytes(more)


def extreme_words(raw: bytes) -> Iterator[Case]:
    """Each aligned u32 and u64 at its extremes: lengths of 4 GiB, counts, positions, times, pids."""
    for width, values in (
        (4, (0, 1, (1 << 16) + 1, 1 << 31, (1 << 32) - 8, (1 << 32) - 1)),
        (8, (0, 1, 1 << 32, (1 << 40) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 8, (1 << 64) - 1)),
    ):
        for at in range(0, len(raw) - width + 1, width):
            for value in values:
                yield (
                    f"u{8 * width} at {at} is {value:#x}",
                    raw[:at] + value.to_bytes(width, "little") + raw[at + width :],
                )


DAMAGES: dict[str, Callable[[bytes], Iterator[Case]]] = {
    "cuts": truncations,
    "flipped bits": flips,
    "zeroed tails": zero_tails,
    "garbage tails": garbage_tails,
    "extreme words": extreme_words,
}


class Trial:
    """A directory with a sound file of one kind, whose damaged versions are read as every process would.

    Attributes:
        raw: the sound file.
        areas: where in it there is anything; elsewhere nobody looks.
    """

    raw: bytes
    areas: tuple[slice, ...] = (slice(None),)

    def __init__(self, root: Path) -> None:
        self.home = Namespace(root)

    def looks_at(self, damaged: bytes) -> bool:
        """Whether a damaged version differs where somebody looks."""
        return len(damaged) != len(self.raw) or any(damaged[area] != self.raw[area] for area in self.areas)

    def read(self, damaged: bytes, *, single: bool) -> bool:
        """Reads a damaged version.

        Args:
            damaged: the content.
            single: one bit is flipped, no more: then there is more to expect.

        Returns:
            Whether nothing was lost.

        Raises:
            AssertionError: what was read or counted is wrong.
        """
        raise NotImplementedError


class SegmentTrial(Trial):
    """A segment whose writer was killed: twelve events, four of them settled, one of these rejected."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        process = Instance()
        process._drawn["id"], process.numbers = INSTANCE, count(7)
        held = process.create(str(root), HEADER + EVENTS * 32 + 64, mapped=True).segment
        self.sent: dict[str, bytes] = {}
        for n in range(EVENTS):
            payload = b'{"n":%02d,"%b":1}' % (n, b"x" * (n % 8))
            position = held.words[POSITION]
            offset = position & OFFSET
            frame = struct.pack("=II", len(payload), mmh3.hash(payload, held.seed, signed=False)) + payload
            held.map[offset : offset + len(frame)] = frame
            held.words[POSITION] = position + ONE + (len(frame) + 7 & -8)
            self.sent[f"{INSTANCE.hex()}-7-{offset:x}"] = payload
            if n == SETTLED - 1:
                held.count(accounts.drop_slot("rejected"))
                held.acknowledge(held.words[POSITION])
        held.count(accounts.refusal_slot("disk"), REFUSED)
        self.path = f"{self.home.state.spool}/{held.name}.seg"
        self.raw = Path(held.path).read_bytes()
        self.unsettled = dict(islice(self.sent.items(), SETTLED, None))

    def read(self, damaged: bytes, *, single: bool) -> bool:
        page, state = self.home.page, self.home.state
        for other in range(control.NAMES):  # as if others were the last: this one may come again
            page.fold(f"another-{other}", [0] * accounts.SLOTS)
        before = page.accounts()[1]
        Path(self.path).write_bytes(damaged)
        looked = survey(state, {}).counters
        found = drain(self.home.backlog({}))
        assert os.listdir(state.spool) == [], "it stays in the spool"
        counted = [now - then for now, then in zip(page.accounts()[1], before, strict=True)]
        self._clear_quarantine(counted)
        delivered = dict(found)
        assert len(delivered) == len(found), "an event twice"
        assert delivered.items() <= self.sent.items(), "an event that was never sent"
        for rows in (looked, counted):
            assert all(0 <= n <= len(self.raw) // 16 for n in rows), f"absurd accounts {rows}"
            assert accounts.pending(rows) >= 0, f"negative accounts {rows}"
        assert accounts.pending(counted) == 0
        assert len(delivered) <= counted[accounts.ACCEPTED] <= EVENTS, f"invented events: {counted}"
        if single:
            corrupt = counted[accounts.drop_slot("corrupt")]
            assert counted[accounts.ACCEPTED] == EVENTS, counted
            assert counted[accounts.refusal_slot("disk")] == REFUSED, counted
            assert len(self.unsettled.keys() - delivered.keys()) == corrupt <= 1, (counted, len(delivered))
        return self.unsettled.keys() <= delivered.keys()

    def _clear_quarantine(self, counted: list[int]) -> None:
        names = os.listdir(self.home.state.quarantine)
        assert bool(names) == bool(counted[accounts.drop_slot("corrupt")]), f"in quarantine/: {names}, {counted}"
        for name in names:
            os.unlink(f"{self.home.state.quarantine}/{name}")


class SnapshotTrial(Trial):
    """The newest settings, with the ones before them still there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        Publisher(self.home.state.path, self.home.page).publish(OLD)
        self.older = Path(snapshot.snapshot_path(self.home.state.path, 1)).read_bytes()
        Publisher(self.home.state.path, self.home.page).publish(NEW)
        self.path = Path(snapshot.snapshot_path(self.home.state.path, 2))
        self.raw = self.path.read_bytes()

    def read(self, damaged: bytes, *, single: bool) -> bool:
        directory, page = self.home.state.path, self.home.page
        fresh = Path(f"{directory}/.fresh")
        fresh.write_bytes(damaged)
        fresh.rename(self.path)  # never in place: somebody may map it
        page.set_generation(2)
        reader, answers = Reader(directory, page, bytes), {}
        for name in (*NEW, *ABSENT):
            with contextlib.suppress(CorruptFile):
                answers[name] = reader.get(name)
        expected = {1: OLD, 2: NEW}[reader.generation]
        assert all(answers[name] == expected.get(name) for name in answers), f"wrong settings {answers}"
        whole = answers == NEW | dict.fromkeys(ABSENT)
        publisher = Publisher(directory, page)
        sound = publisher.in_force()
        assert sound == (reader.generation == 2 and whole), "the leader takes it for sound"
        assert publisher.publish(NEW) == (0 if sound else 3)
        assert {name: reader.get(name) for name in NEW} == NEW, "not mended by the leader"
        assert not single or not sound
        with contextlib.suppress(FileNotFoundError):
            os.unlink(snapshot.snapshot_path(directory, 3))
        Path(snapshot.snapshot_path(directory, 1)).write_bytes(self.older)
        return whole


class ControlTrial(Trial):
    """The control page of a namespace in which leaders have been, with two generations of settings."""

    areas = (slice(104), slice(1024, 1048), slice(1536, 1582), slice(3072, 3576), slice(3584, 4088))

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        directory, page = self.home.state.path, self.home.page
        publisher = Publisher(directory, page)
        publisher.publish(OLD)
        publisher.publish({"a": b"between"})
        publisher.publish(NEW)  # 3: one bit away from 2, whose file is still there
        page.fold("one", TOTALS)
        page.words[control.LEADER_PID] = page.words[control.LIVED] = 77
        page.set_text(control.LAST_ERROR, "no route to host")
        page.set_text(control.LEADER_CONFIG, '{"server_url": "https://sdk.example"}')
        self.path = Path(directory, control.NAME)
        self.raw = self.path.read_bytes()
        config = Config(token="t", server_url="http://127.0.0.1:1", connection_timeout=0.1)
        self.post = lambda page: Post(config, self.home.state, page, Instance(), lambda _name, _run: None)

    def read(self, damaged: bytes, *, single: bool) -> bool:
        directory = self.home.state.path
        fresh = Path(f"{directory}/.fresh")
        fresh.write_bytes(damaged)
        fresh.rename(self.path)
        seen = control.open_existing(directory)
        page = open_control(directory, snapshot.open_newest(directory).generation)
        _, totals = page.accounts()
        assert totals in (TOTALS, [0] * accounts.SLOTS), f"absurd accounts {totals}"
        assert not single or totals == TOTALS, "the accounts are lost"
        reader = Reader(directory, page, bytes)
        known = reader.get("a")
        assert known == b"new" or (not single and known in (None, b"between")), f"wrong settings {known!r}"
        for area, text in ((control.LAST_ERROR, "no route"), (control.LEADER_CONFIG, '{"server')):
            assert page.text(area).startswith(text) or page.text(area) == ""
        leader.STALE = 0.0  # not to wait in each case until the heart of nobody has stood still
        campaign = Campaign(self.post(page), lambda: None)
        campaign.tick()
        assert campaign.leading, "nobody leads"
        campaign.tick()
        campaign.step_down()
        self.home.page = page
        drain(self.home.backlog())
        for word in (control.POLLS, control.SENDS, control.LIVED):
            page.add(word)
        publisher = Publisher(directory, page)
        assert publisher.in_force()
        publisher.publish(NEW)
        assert reader.get("a") == b"new", "not mended by the leader"
        for generation in snapshot.generations(directory):
            if generation > 3:
                os.unlink(snapshot.snapshot_path(directory, generation))
        return seen is not None and totals == TOTALS and known == b"new"


TRIALS: dict[str, type[Trial]] = {"segment": SegmentTrial, "snapshot": SnapshotTrial, "control page": ControlTrial}


def sweep(kind: str, damage: str, *, offset: int = 0, stride: int = 1) -> Result:
    """Reads every damaged version of a file, or each `stride`-th from `offset` on, in a child."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reads)
            with tempfile.TemporaryDirectory(dir=_MEMORY) as root, os.fdopen(writes, "w", buffering=1) as out:
                _sweep(TRIALS[kind](Path(root)), damage, offset, stride, out)
            status = 0
        os._exit(status)
    os.close(writes)
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    last = "the start"
    with os.fdopen(reads) as said:
        for line in said:
            outcome, where, *why = json.loads(line)
            last = where if outcome == "begin" else last
            counted[outcome] += 1
            if outcome == "wrong":
                wrong.append(f"{kind}, {where}: {why[0]}")
    _, status = os.waitpid(child, 0)
    stuck = [f"{kind}, {last}: status {status}"] if status else []
    return Result(counted["begin"], counted["whole"], counted["partly"], wrong, stuck)


def _sweep(trial: Trial, damage: str, offset: int, stride: int, out: object) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a case that hangs ends the child
    for where, damaged in islice(DAMAGES[damage](trial.raw), offset, None, stride):
        if not trial.looks_at(damaged):
            continue
        print(json.dumps(("begin", where)), file=out)
        signal.alarm(HANGS_AFTER)
        try:
            whole = trial.read(damaged, single=damage == "flipped bits")
            print(json.dumps(("whole" if whole else "partly", where)), file=out)
        except Exception as error:  # noqa: BLE001 - whatever a reader raises is what is looked for
            print(json.dumps(("wrong", where, f"{type(error).__name__}: {error}")), file=out)
        signal.alarm(0)
