"""A model of the spool: sets of events, beside the real writers, leader and files, through whatever may befall them.

Writers are processes, killed at any line. The leader is in this process, with a writer of its own as in any worker; it
dies at any line by an exception that nothing of ours catches, and what it held is dropped with it. The server is a
Transport that keeps what it commits, and fails in the ways of servers.

    accepted    the call returned: has to reach the server, or be given up for a reason the model knows of
    unsure      the call was cut by a kill, or a power cut took the event: may arrive, once, or not
    received    committed by the server, by id
"""

from __future__ import annotations

import contextlib
import operator
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import mmh3
import orjson
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hypotest import accounts, platform
from hypotest.accounts import ACCEPTED, DELIVERED
from hypotest.control import LIVED
from hypotest.errors import EventRefused, PayloadRejected, PayloadTooLarge, TransportError
from hypotest.segment import MAX_PAYLOAD
from hypotest.sender import Sender
from hypotest.survey import survey
from tests.faults.disk import POLICIES, SYNCED, TORN, Disk
from tests.faults.writers import Writer, Writers, killed_at, name, payload
from tests.namespace import Namespace

STORIES = 25
CAPS = (1 << 30, 192 << 10)
MOST_WRITERS = 3
MAX_AGE = 1000.0
SIZES = st.one_of(
    st.integers(30, 400), st.sampled_from((4000, 4081, 20_000, MAX_PAYLOAD - 300, MAX_PAYLOAD, MAX_PAYLOAD + 1))
)
WRITER_KILLS = st.one_of(
    st.tuples(st.just("append"), st.integers(8, 13)),
    st.tuples(st.sampled_from(("_put", "create", "_finish", "_make", "close")), st.integers(0, 20)),
    st.tuples(st.just(""), st.integers(0, 200)),
)
LEADER_KILLS = st.one_of(
    st.tuples(st.just("_retire"), st.integers(5, 13)),
    st.tuples(st.just("settle"), st.integers(0, 24)),
    st.tuples(st.sampled_from(("drain_once", "fold", "keep", "take", "_take", "_send", "_admit")), st.integers(0, 16)),
    st.tuples(st.just(""), st.integers(0, 400)),
)
"""Where a process is killed: in a function of the SDK of that name, or anywhere, after so many lines."""
MOODS = st.lists(st.sampled_from(("", "", "answer lost", "away", "one at a time")), max_size=4)
CHOICES = st.integers(0, (1 << 32) - 1)
_HEAD = re.compile(rb'\{"number": (\d+), ')


class Server:
    """Commits events by id; `moods` says how it treats the next requests, and `poison` what it refuses for good."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self._sizes = sizes
        self.received: dict[str, int] = {}
        self.numbers: set[int] = set()
        self.moods: list[str] = []
        self.poison: set[int] = set()
        self.refused: set[int] = set()

    def fetch_settings(self, etag: str | None) -> NoReturn:
        raise NotImplementedError

    def send_events(self, body: bytes, key: str) -> None:
        mood = self.moods.pop(0) if self.moods else ""
        events = orjson.loads(body)["events"]
        if mood == "away":
            raise TransportError("no answer")
        if mood == "one at a time" and len(events) > 1:
            raise PayloadTooLarge("HTTP 413")
        poison = {event["number"] for event in events} & self.poison
        if poison:
            self.refused |= poison if len(events) == 1 else set()
            raise PayloadRejected("HTTP 400")
        for event in events:
            self._commit(event.pop("event_id"), event)
        if mood == "answer lost":
            raise TransportError("no answer: the connection was reset")

    def _commit(self, event_id: str, event: dict[str, Any]) -> None:
        number = event["number"]
        assert number in self._sizes, f"event {number} was never offered"
        assert event == orjson.loads(payload(number, self._sizes[number])), f"event {number} is a mixture: {event}"
        assert self.received.get(event_id, number) == number, f"{event_id} is of two events"
        assert number not in self.numbers or event_id in self.received, f"event {number} came under two ids"
        self.received[event_id] = number
        self.numbers.add(number)


class SpoolMachine(RuleBasedStateMachine):
    """On a real directory, synced for real."""

    writers: Writers
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=self.directory))
        self.sizes: dict[int, int] = {}
        self.accepted: set[int] = set()
        self.unsure: set[int] = set()
        self.refused: Counter[str] = Counter()
        self.damaged: set[int] = set()
        self.poison: set[int] = set()
        self.old: set[int] = set()
        self.server = Server(self.sizes)
        self.living: list[Writer] = []
        self.refused_by: dict[Writer, int] = {}
        self.silent = 0
        self.deaths = 0
        self.unread = 0
        self.torn = False
        self.cuts = 0
        self.started = 0

    @initialize(cap=st.sampled_from(CAPS), faults=st.sets(st.sampled_from(("age", "poison", "damage")), max_size=1))
    def begin(self, cap: int, faults: set[str]) -> None:
        self.cap = cap
        self.faults = faults  # not all of them in each story: they explain what would be a loss without them
        self.root = self.base / "0"
        self.open()

    def open(self) -> None:
        """A host comes up with the directory as it is."""
        self.home = Namespace(self.root, max_bytes=self.cap)
        self.disk = Disk(self.root)
        self.lead()
        self.start_writer()

    def lead(self) -> None:
        """A new process leads."""
        self.home = Namespace(self.root, max_bytes=self.cap)
        self.started += 1
        name(self.home.spool, self.started)
        self.elect()

    def elect(self) -> None:
        self.backlog = self.home.backlog(expired=self.is_old, max_age=MAX_AGE, sync_data=self.sync_data)
        self.sender = Sender(self.server, self.backlog)

    def is_old(self, event: bytes) -> bool:
        return orjson.loads(event)["number"] in self.old

    # writers

    @precondition(lambda self: len(self.living) < MOST_WRITERS)
    @rule()
    def start_writer(self) -> None:
        self.started += 1
        self.living.append(self.writers.start(self.home.state.path, name=self.started, max_bytes=self.cap))

    def offer(self, size: int) -> int:
        number = len(self.sizes) + 1
        self.sizes[number] = max(size, len(payload(number, 0)))
        if "poison" in self.faults and number % 3 == 0:
            self.poison.add(number)
            self.server.poison.add(number)
        return number

    def note(self, number: int, outcome: str | None) -> None:
        size = self.sizes[number]
        if outcome is None:
            self.unsure.add(number)
        elif outcome:
            assert (outcome == "too_large") == (size > MAX_PAYLOAD), f"event {number} of {size} bytes: {outcome}"
            self.refused[outcome] += 1
        else:
            assert size <= MAX_PAYLOAD
            self.accepted.add(number)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, MOST_WRITERS), sizes=st.lists(SIZES, min_size=2, max_size=10))
    def append(self, which: int, sizes: list[int]) -> None:
        writer = self.living[which % len(self.living)]
        for size in sizes:
            number = self.offer(size)
            self.note(number, writer.tell("append", number=number, size=size))
            self.disk.observe()

    append_again = append

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, MOST_WRITERS), size=SIZES, at=WRITER_KILLS)
    def append_and_be_killed(self, which: int, size: int, at: tuple[str, int]) -> None:
        self.append(which, [size])
        writer = self.living[which % len(self.living)]
        number, unreported = self.offer(size), writer.unreported
        outcome = writer.tell("append", number=number, size=size, at=at)
        self.note(number, outcome)
        if outcome is None:
            self.silent += unreported + 1  # the one under way may have been counted or not
            self.living.remove(writer)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, MOST_WRITERS), kill=st.booleans(), at=st.none() | WRITER_KILLS)
    def end_writer(self, which: int, kill: bool, at: tuple[str, int] | None) -> None:
        writer = self.living.pop(which % len(self.living))
        self.silent += writer.unreported
        if kill or writer.tell("close", at=at) is not None:
            writer.kill()

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, MOST_WRITERS), limit=st.sampled_from((0, 4096, 64 << 10, -1)))
    def fill_disk(self, which: int, limit: int) -> None:
        """No file of that writer can grow beyond the limit, as on a disk without space; -1: there is space again."""
        self.living[which % len(self.living)].tell("limit", limit=limit)

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=4))
    def append_in_the_leaders_process(self, sizes: list[int]) -> None:
        for size in sizes:
            number = self.offer(size)
            outcome = ""
            try:
                self.home.spool.append(payload(number, size))
            except EventRefused as refusal:
                outcome = refusal.reason
            self.note(number, outcome)

    # the leader

    @rule(moods=MOODS, scan=st.booleans())
    def drain(self, moods: list[str], scan: bool) -> None:
        self._drain(moods, scan)

    @rule(moods=MOODS, at=LEADER_KILLS)
    def drain_and_be_killed(self, moods: list[str], at: tuple[str, int]) -> None:
        """The leader's process is killed after so many lines of its work; another one leads."""

        def lead() -> None:
            self._drain(moods, scan=True)
            self.backlog.scan()

        if killed_at(at, lead):
            self.disk.observe()
            self.kill_leader()

    @rule()
    def deploy(self) -> None:
        """All processes end, a new one leads, and retires what they left."""
        while self.living:
            self.end_writer(0, kill=True, at=None)
        self.kill_leader()
        self._drain([], scan=True)
        self.backlog.scan()
        self.start_writer()

    @rule(kill=st.booleans())
    def replace_leader(self, kill: bool) -> None:
        """By another process; or by the same, which lives on with its writer and leads again."""
        if kill:
            self.kill_leader()
        else:
            self.backlog.close()
            self.elect()

    def kill_leader(self) -> None:
        self.deaths += 1
        self.silent += sum(self.home.spool.unreported())
        self.lead()

    def _drain(self, moods: list[str], scan: bool) -> None:
        self.server.moods = list(moods)
        if scan:
            self.backlog.scan()
        with contextlib.suppress(TransportError):
            while self.sender.drain_once():
                pass

    @rule(scan=st.booleans())
    def keep_house(self, scan: bool) -> None:
        if scan:
            self.backlog.scan()
        self.backlog.publish_size()
        self.backlog.sync()

    def sync_data(self, fd: int) -> None:
        platform.sync_data(fd)

    @precondition(lambda self: "age" in self.faults)
    @rule()
    def grow_old(self) -> None:
        """By both clocks: what waits may be dropped from now on."""
        self.home.page.words[LIVED] += int(MAX_AGE) + 1
        self.old |= self.accepted | self.unsure

    @precondition(lambda self: "damage" in self.faults and self.accepted - self.damaged)
    @rule(which=st.integers(1, 12), at=st.floats(0, 1, exclude_max=True))
    def damage(self, which: int, at: float) -> None:
        """A byte of a frame changes on the disk."""
        number = sorted(self.accepted - self.damaged)[-which:][0]  # a second time could make it whole again
        for path in Path(self.home.state.spool).iterdir():
            found = path.read_bytes().find(payload(number, self.sizes[number])) if path not in self.own() else -1
            if found >= 0:
                self.disk.flip(found - 8 + int(at * (8 + self.sizes[number])), str(path))
                self.damaged.add(number)

    def own(self) -> set[Path]:
        return {Path(path) for path in self.home.spool.segments}

    # what must hold

    def explained(self) -> set[int]:
        """What may be given up."""
        return self.damaged | self.old | self.poison

    def counts(self) -> list[int]:
        folded, totals = self.home.page.accounts()
        return accounts.add([totals, survey(self.home.state, self.home.spool.segments, without=folded).counters])

    @invariant()
    def accounts_add_up(self) -> None:
        self.disk.observe()
        rows = self.counts()
        pending = accounts.pending(rows)
        offered = len(self.accepted | self.unsure)
        shown = self.show(rows)
        # A file that a power cut left without its header counts as one event, be there none; then as a corrupt one.
        unread = self.unread + (accounts.dropped(rows).get("corrupt", 0) if self.cuts else 0)
        assert rows[ACCEPTED] <= offered + unread, f"counted twice: {shown}"
        # In a torn header the acknowledged word may be newer than the counters of drops beside it.
        dropped = (self.old | self.server.refused) - self.server.numbers if self.torn else set()
        assert rows[DELIVERED] <= len(self.server.numbers | dropped), f"called delivered, and is not: {shown}"
        self.check_drops(rows)
        if not self.cuts:
            waiting = self.accepted - self.server.numbers - self.explained()
            assert pending >= len(waiting), f"hidden, of {sorted(waiting)}: {shown}"
            assert rows[ACCEPTED] >= len(self.accepted), f"not counted: {shown}"
            self.check_refusals(rows)

    def check_drops(self, rows: list[int]) -> None:
        dropped = accounts.dropped(rows)
        most = {"age": self.old, "rejected": self.server.refused, "corrupt": self.damaged, "lost": set()}
        if self.cuts:
            most["corrupt"] = set(self.sizes)
        for reason, n in dropped.items():
            # A drop is counted again where the leader was killed between its counter and its settlement.
            assert n <= len(most[reason]) * (1 + self.deaths), f"dropped by {reason}, and was not: {self.show(rows)}"

    def check_refusals(self, rows: list[int]) -> None:
        counted = sum(accounts.refused(rows).values())
        counted += sum(self.home.spool.unreported()) + sum(writer.unreported for writer in self.living)
        assert counted <= self.refused.total() + len(self.unsure) <= counted + self.silent + len(self.unsure), (
            f"refusals: {dict(self.refused)}, {self.show(rows)}"
        )

    def show(self, rows: list[int]) -> str:
        return (
            f"{rows[ACCEPTED]} accepted, {rows[DELIVERED]} delivered, {accounts.pending(rows)} pending,"
            f" {accounts.dropped(rows)}, refused {accounts.refused(rows)}; the model: {len(self.accepted)} accepted,"
            f" {len(self.unsure)} unsure, {len(self.server.numbers)} received"
        )

    def teardown(self) -> None:
        try:
            if hasattr(self, "home"):
                self.recover()
        finally:
            for writer in self.living:
                writer.kill()
            if hasattr(self, "disk"):
                self.disk.close()
            shutil.rmtree(self.base)

    def recover(self) -> None:
        """All is over, the server serves, the last leader delivers: nothing may be left."""
        while self.living:
            self.end_writer(0, kill=True, at=None)
        self.kill_leader()
        self.server.poison = set()
        for _ in range(3):
            self._drain([], scan=True)
        self.backlog.scan()
        rows = self.counts()
        left = [path for path in os.listdir(self.home.state.spool) if not path.startswith(".")]
        assert not left, f"never retired: {left}, {self.show(rows)}"
        missing = self.accepted - self.server.numbers - self.explained()
        assert not missing, f"lost: {sorted(missing)}, {self.show(rows)}"
        assert accounts.pending(rows) == 0, f"pending for ever: {self.show(rows)}"
        self.accounts_add_up()


class PowerMachine(SpoolMachine):
    """On a simulated disk: syncs are noted, and power cuts take what was not synced."""

    def __init__(self) -> None:
        super().__init__()
        self.promised: set[int] = set()
        self.promised_totals = [0] * accounts.SLOTS
        self.last_cut = (SYNCED, 0)

    def sync_data(self, fd: int) -> None:
        self.disk.sync(fd)

    @rule(scan=st.booleans())
    def keep_house(self, scan: bool) -> None:
        super().keep_house(scan)
        self.promised = set(self.accepted)
        self.promised_totals = self.home.totals()

    @initialize(policy=st.sampled_from(POLICIES), choice=CHOICES)
    def plan_the_last_cut(self, policy: str, choice: int) -> None:
        self.last_cut = policy, choice

    def recover(self) -> None:
        self.cut_power(*self.last_cut, kept_house=False)
        super().recover()

    @rule(policy=st.sampled_from(POLICIES), choice=CHOICES, kept_house=st.booleans())
    def cut_power(self, policy: str, choice: int, kept_house: bool) -> None:
        if kept_house:
            self.keep_house(scan=False)
        while self.living:
            self.living.pop().kill()
        self.cuts += 1
        self.torn |= policy == TORN
        self.root = self.base / str(self.cuts)
        self.disk.cut(self.root, policy, random.Random(choice))
        self.disk.close()
        self.backlog.close()
        self.home.spool.segments.clear()
        spool = self.root / "state/v1" / ("0" * 32) / "spool"
        self.unread += sum(not has_header(path.read_bytes()) for path in spool.glob("*.seg"))
        whole = whole_events(spool)
        lost = self.promised - whole - self.server.numbers - self.explained()
        assert not lost, f"synced, and not on the disk after a cut that left it {policy}: {sorted(lost)}"
        self.unsure |= self.accepted
        self.accepted &= whole
        self.promised = set(self.accepted)
        self.open()
        totals = self.home.totals()
        assert all(map(operator.ge, totals, self.promised_totals)), f"totals {self.promised_totals} became {totals}"


def has_header(content: bytes) -> bool:
    """Whether the cut left a segment its magic, its seed, its position and its size, none of which is ever 0."""
    words = [content[at : at + 8] for at in (8, 40, 80)]
    return content.startswith(b"HTSEG001") and bytes(8) not in words


def whole_events(spool: Path | str) -> set[int]:
    """The numbers of the events that a directory holds whole, found without the SDK's reader."""
    found = set()
    for path in Path(spool).glob("*.seg"):
        content = path.read_bytes()
        if content[:8] != b"HTSEG001":
            continue
        seed_of = int.from_bytes(content[8:16], "little")
        for match in _HEAD.finditer(content, 256):
            at = match.start()
            length, crc = (int.from_bytes(content[at - size : at - size + 4], "little") for size in (8, 4))
            if mmh3.hash(content[at : at + length], seed_of, signed=False) == crc and len(content) >= at + length:
                found.add(int(match[1]))
    return found


def run(machine: type[SpoolMachine], number: int, seconds: float, *, steps: int = 30) -> int:
    """Runs a machine through stories drawn by `number`, and by the numbers after it until the time is over.

    Returns:
        How many stories there were. A failure tells the number that its own were drawn by.
    """
    stories, end = 0, time.monotonic() + seconds
    with Writers() as writers, tempfile.TemporaryDirectory() as directory:
        while not stories or time.monotonic() < end:
            told = f"python -m stress model {machine.__name__} --seed {number} --seconds 1"
            try:
                _run_stories(machine, number, steps, writers, Path(directory))
            except BaseException:
                print(f"to repeat it: {told}", flush=True)
                raise
            stories += STORIES
            number += 1
    return stories


def _run_stories(machine: type[SpoolMachine], number: int, steps: int, writers: Writers, directory: Path) -> None:
    drawn = type(machine.__name__, (machine,), {"writers": writers, "directory": directory})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(number)(drawn),
        settings=settings(
            max_examples=STORIES,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=False,
            verbosity=Verbosity.normal,
            phases=[Phase.generate],  # a failure is not made smaller: what time decides in it would make that flaky
            suppress_health_check=list(HealthCheck),
        ),
    )
