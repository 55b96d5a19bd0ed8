"""The operations that are cut at every step, on a real namespace.

Each operation runs in a process of its own, which tells what it has done by stores into shared memory: a message
through a pipe would be a system call more.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hypotest import accounts, control, lazy, leader, log, spool
from hypotest.backlog import DELIVERED, Backlog
from hypotest.config import Config
from hypotest.control import EPOCH, GENERATION, HEARTBEAT, LEADER_PID, LIVED
from hypotest.errors import EventRefused
from hypotest.events import is_older
from hypotest.leader import Campaign
from hypotest.post import Post
from hypotest.publisher import Publisher
from hypotest.snapshot import Reader
from hypotest.spool import Spool
from hypotest.statedir import StateDir
from tests.namespace import Namespace, event, event_of

if TYPE_CHECKING:
    from hypotest.backlog import Batch

BEGUN, KEPT, REFUSED, FAILED = range(1, 5)
"""What is known of an event: its call has begun, and how it ended, if it did."""

OFFERED, _SENT_LENGTH, PUBLISHED, UNWRITTEN, STEPS = range(5)
"""Events offered; bytes sent; the last generation published; refusals that are in no file; steps taken in a count."""

_FATES, _MOST = 64, 256
_SENT = 4096
_AGE = 1000.0
_OLD, _RECENT = 1e8, 1.8e9
_CONFIG = Config(token="t", server_url="http://127.0.0.1:9", max_event_age=_AGE)
NEIGHBOUR = "1" * 32
_LEADERS_OWN = [f"hypotest.{name}" for name in ("leadership", "neighbours", "poller", "sender", "transport")]


class Ledger:
    """What an operation has done, in memory that survives it.

    Attributes:
        words: counts, indexed by the constants of this module; before all else.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 1 << 16)
        self.words = memoryview(self._map).cast("Q")

    def clear(self) -> None:
        self._map[:] = bytes(len(self._map))

    def begin(self) -> int:
        """Counts one more call that offers an event, and returns the event's number."""
        number = self.words[OFFERED]
        assert number < _MOST
        self._map[_FATES + number] = BEGUN
        self.words[OFFERED] = number + 1
        return number

    def end(self, number: int, fate: int) -> None:
        self._map[_FATES + number] = fate

    def numbers(self, *fates: int) -> set[int]:
        """The events of which this is known."""
        return {number for number in range(self.words[OFFERED]) if self._map[_FATES + number] in fates}

    def send(self, events: list[tuple[str, bytes]]) -> None:
        """The server commits a batch."""
        text = "".join(f"{event_id} {number_of(payload)}\n" for event_id, payload in events).encode()
        end = self.words[_SENT_LENGTH] + len(text)
        self._map[_SENT + self.words[_SENT_LENGTH] : _SENT + end] = text
        self.words[_SENT_LENGTH] = end

    def sent(self) -> list[tuple[str, int]]:
        """What the server has committed: id and number, as often as it was sent."""
        lines = self._map[_SENT : _SENT + self.words[_SENT_LENGTH]].decode().splitlines()
        return [(line.split()[0], int(line.split()[1])) for line in lines]


def number_of(payload: bytes) -> int:
    return int(json.loads(payload)["number"])


def records(version: int) -> dict[str, bytes]:
    """Settings that tell their version, too long for one page."""
    return {"a": b"%d" % version, **{f"x{n}": bytes(400) for n in range(20)}}


class World:
    """A namespace, as one process of the application has it: it keeps events, and may lead."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.home = Namespace(root)
        self.ledger = ledger

    def offer(self, *, size: int = 0) -> None:
        """One event, as an API call keeps it."""
        offer(self.home.spool, self.ledger, size=size)

    def backlog(self) -> Backlog:
        return self.home.backlog(expired=lambda payload: is_older(payload, 1e9), max_age=_AGE)

    def campaign(self) -> Campaign:
        """Threads are not started here, and the loops of a leader not run: `deliver` does that work."""
        home = self.home
        post = Post(_CONFIG, home.state, home.page, home.spool.instance, lambda _name, _run: None)
        return Campaign(post, lambda: None)

    def claim(self, backlog: Backlog) -> Batch:
        """What a leader sends next; the server commits it."""
        batch = backlog.claim(1000, 1 << 20)
        self.ledger.send(batch.events)
        return batch

    def deliver(self, backlog: Backlog) -> None:
        """All that a leader has to do."""
        backlog.scan()
        while (batch := self.claim(backlog)).events:
            assert backlog.settle(batch, answers(batch)) == len(batch.events)
        backlog.scan()

    def generation(self) -> int:
        """The generation in force, as a worker sees it that has just started; its settings are whole."""
        reader = Reader(self.home.state.path, self.home.page, bytes)
        found = reader.get("a")
        generation = self.home.page.words[GENERATION]
        assert reader.generation == generation
        assert found == (b"%d" % generation if generation else None)
        return generation


def offer(target: Spool, ledger: Ledger, *, size: int = 0, old: bool = False, poison: bool = False) -> None:
    number = ledger.begin()
    written = _OLD if old else _RECENT
    try:
        target.append(event_of(written, b',"number":%d,"poison":%d,"pad":"%b"' % (number, poison, b"x" * size)))
    except EventRefused:
        ledger.end(number, REFUSED)
    except MemoryError:
        ledger.end(number, FAILED)
    else:
        ledger.end(number, KEPT)


def answers(batch: Batch) -> list[str | None]:
    """What becomes of each event: the server refuses some for good."""
    return ["rejected" if b'"poison":1' in payload else DELIVERED for _, payload in batch.events]


class Operation:
    """One operation, in the process that is cut; `go_on` is what the same process does after an error.

    Attributes:
        drops: how many events are given up, by reason.
        expires: the numbers of those that are too old to be sent.
    """

    name: ClassVar[str]
    drops: ClassVar[dict[str, int]] = {}
    expires: ClassVar[set[int]] = set()

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root, self.ledger = root, ledger
        spool._RETRY_AFTER = leader._LOCK_BACKOFF = 0.0

    def start(self) -> None:
        """`prepare`, with the same file names in each run: in which order a leader looks at them hangs on them."""
        drawn, os.urandom = os.urandom, random.Random(1).randbytes
        log._last.clear()
        self.prepare()
        os.urandom = drawn

    def prepare(self) -> None:
        self.world = World(self.root, self.ledger)

    def run(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        """The next event is kept, and all is delivered."""
        world = self.world
        before = len(self.ledger.numbers(KEPT))
        world.offer()
        world.offer()
        assert len(self.ledger.numbers(KEPT)) == before + 2, "the next events are refused"
        world.deliver(world.backlog())
        self.ledger.words[UNWRITTEN] = sum(accounts.refused(world.home.spool.unreported()).values())

    def others(self) -> None:
        """Segments as a leader finds them: of a killed writer, of one that ended, and of this process."""
        state = self.world.home.state
        killed, ended = (Spool(state.spool, 1 << 30, lambda: 0) for _ in range(2))
        pid = os.fork()
        if not pid:
            os.urandom = random.Random(2).randbytes  # or its files would have the names of ours
            self._write(killed, old=True)
            os._exit(0)
        os.waitpid(pid, 0)
        self._write(ended)
        ended.close()
        self.world.offer()
        self.world.offer()

    def _write(self, target: Spool, *, old: bool = False) -> None:
        for n in range(3):
            offer(target, self.ledger, old=old and n == 0, poison=n == 1)


class Append(Operation):
    """The first event opens a segment, the next ones go into it."""

    name = "append"
    mapped = True

    def prepare(self) -> None:
        super().prepare()
        if not self.mapped:
            self.world.home.spool._mapped = False

    def run(self) -> None:
        for _ in range(3):
            self.world.offer()


class AppendByWrite(Append):
    name = "append, not mapped"
    mapped = False


class AppendNext(Append):
    """An event that finds a segment open, as nearly all do: no system call."""

    name = "append, opened"

    def prepare(self) -> None:
        super().prepare()
        self.world.offer()

    def run(self) -> None:
        self.world.offer()


class FirstCall(Operation):
    """As `Append`, where not even a directory is there."""

    name = "first call"

    def prepare(self) -> None:
        pass

    def run(self) -> None:
        self.world = World(self.root, self.ledger)
        self.world.offer()

    def go_on(self) -> None:
        if not hasattr(self, "world"):
            self.world = World(self.root, self.ledger)
        super().go_on()


class Start(FirstCall):
    """As `FirstCall`, where others have been before."""

    name = "start"

    def prepare(self) -> None:
        pid = os.fork()
        if not pid:
            self.world = World(self.root, self.ledger)
            home = self.world.home
            self.ledger.words[PUBLISHED] = Publisher(home.state.path, home.page).publish(records(1))
            self.world.offer()
            home.spool.close()
            self.world.deliver(self.world.backlog())
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    def run(self) -> None:
        super().run()
        assert self.world.generation() == 1


class Rotate(Append):
    """An event that finds the segment full: another is opened, the full one finished and given up."""

    name = "rotate"

    def prepare(self) -> None:
        super().prepare()
        for _ in range(2):
            self.world.offer(size=30_000)

    def run(self) -> None:
        self.world.offer(size=30_000)
        self.world.home.spool.check()
        self.world.offer()


class RotateByWrite(Rotate):
    name = "rotate, not mapped"
    mapped = False


class Claim(Operation):
    """A leader looks for segments and claims a batch; an old draft and what is no file are in its way."""

    name = "claim"
    drops: ClassVar = {"age": 1, "rejected": 2}
    expires: ClassVar = {0}

    def prepare(self) -> None:
        super().prepare()
        self.others()
        home = self.world.home
        self.world.backlog().scan()
        home.page.words[LIVED] += int(_AGE)
        draft = Path(home.state.spool, ".draft")
        draft.write_bytes(b"")
        os.utime(draft, (0, 0))
        Path(home.state.spool, "garbage.seg").mkdir()
        self.backlog = self.world.backlog()

    def run(self) -> None:
        self.backlog.scan()
        self.world.claim(self.backlog)

    def go_on(self) -> None:
        self.world.deliver(self.backlog)
        super().go_on()


class Acknowledge(Operation):
    """A leader has the server's answer: it settles, and retires what is finished."""

    name = "acknowledge"
    drops: ClassVar = {"rejected": 2}

    def prepare(self) -> None:
        super().prepare()
        self.others()
        self.backlog = self.world.backlog()
        self.backlog.scan()
        self.batch = self.world.claim(self.backlog)

    def run(self) -> None:
        self.backlog.settle(self.batch, answers(self.batch))
        self.backlog.scan()

    def go_on(self) -> None:
        self.world.deliver(self.backlog)
        super().go_on()


class Publish(Operation):
    """A leader publishes settings; those of two generations ago are deleted."""

    name = "publish"

    def prepare(self) -> None:
        super().prepare()
        home = self.world.home
        self.publisher = Publisher(home.state.path, home.page)
        for version in (1, 2):
            self.publisher.publish(records(version))
        self.ledger.words[PUBLISHED] = 2

    def run(self) -> None:
        self.ledger.words[PUBLISHED] = self.publisher.publish(records(3)) or 2

    def go_on(self) -> None:
        assert self.world.generation() == max(self.world.home.page.words[GENERATION], 2)
        self.publisher.publish(records(3))
        assert self.world.generation() == 3
        self.ledger.words[PUBLISHED] = 3
        super().go_on()


class TakeOver(Operation):
    """A follower finds the leader dead, takes its place, and keeps house for the first time."""

    name = "take over"
    drops: ClassVar = {"rejected": 2}

    def prepare(self) -> None:
        super().prepare()
        self.others()
        home = self.world.home
        neighbour = StateDir(home.state.root, NEIGHBOUR)
        for path in (neighbour.path, neighbour.spool, neighbour.quarantine):
            os.mkdir(path, 0o700)
        control.open_control(neighbour.path)
        left = Spool(neighbour.spool, 1 << 30, lambda: 0)
        left.append(event(0))
        left.close()
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        home.page.words[LEADER_PID], home.page.words[HEARTBEAT], home.page.words[EPOCH] = pid, 7, 1
        self.campaign = self.world.campaign()

    def run(self) -> None:
        self.campaign.tick()
        self.campaign._second = 0.0
        self.campaign.tick()

    def go_on(self) -> None:
        for _ in range(3):
            self.campaign._second = 0.0
            self.campaign.tick()
        assert self.campaign.leading, "it never leads"
        assert self.world.home.page.words[LEADER_PID] == os.getpid()
        super().go_on()


class TakeOverCold(TakeOver):
    """The same, by a process that has to load first what a leader needs."""

    name = "take over, cold"

    def prepare(self) -> None:
        super().prepare()
        for loaded in list(sys.modules):
            if loaded in _LEADERS_OWN or loaded.partition(".")[0] in ("requests", "urllib3"):
                del sys.modules[loaded]
        lazy._loaded.pop("hypotest.leadership")


OPERATIONS: dict[str, type[Operation]] = {
    each.name: each
    for each in (
        FirstCall,
        Start,
        Append,
        AppendNext,
        AppendByWrite,
        Rotate,
        RotateByWrite,
        Claim,
        Acknowledge,
        Publish,
        TakeOver,
        TakeOverCold,
    )
}
