"""The power fails: what was synced is there, what was not is accounted for, and nothing comes twice or mixed."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import orjson
import pytest

from hypotest import accounts, control
from hypotest.accounts import ACCEPTED, DELIVERED
from hypotest.backlog import DELIVERED as DELIVERED_FATE
from hypotest.backlog import Backlog
from hypotest.control import LIVED
from hypotest.spool import Spool
from hypotest.survey import survey
from tests.faults.disk import MIXED, POLICIES, SYNCED, TORN, WRITTEN, Disk
from tests.faults.model import whole_events
from tests.faults.writers import killed_at, payload
from tests.namespace import Namespace, drain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CUTS = [(policy, choice) for policy in POLICIES for choice in range(25 if policy in (MIXED, TORN) else 1)]
AGE = 1000.0


class Host:
    """A host whose disk can lose power, in many ways at the same moment."""

    def __init__(self, root: Path, opened: ExitStack) -> None:
        self.root = root
        self._opened = opened
        self._boots = 0
        self.home = Namespace(root)
        self.disk = Disk(root)
        opened.callback(self.disk.close)
        self.leader = self.home.backlog(sync_data=self.disk.sync)

    def append(self, *numbers: int, size: int = 300) -> None:
        for number in numbers:
            self.home.spool.append(payload(number, size))
            self.disk.observe()

    def finish(self, *numbers: int) -> None:
        """A writer leaves a segment with these events."""
        writer = Spool(self.home.state.spool, 1 << 30, lambda: 0)
        for number in numbers:
            writer.append(payload(number, 300))
            self.disk.observe()
        writer.close()
        self.disk.observe()

    def after_cut(self, policy: str, choice: int = 0, names: str = "") -> Host:
        """The host as it comes up again."""
        self._boots += 1
        target = self.root.with_name(f"{self.root.name}-{self._boots}")
        self.disk.cut(target, policy, random.Random(choice), names=names)
        return Host(target, self._opened)

    def recovered(self) -> dict[int, str]:
        """What the leader delivers now: the ids, by the events' numbers. Nothing is left, and the accounts add up."""
        ids = {}
        for event_id, event in drain(self.leader):
            number = orjson.loads(event)["number"]
            assert event == payload(number, len(event))
            assert ids.setdefault(number, event_id) == event_id
        assert os.listdir(self.home.state.spool) == []
        totals = self.home.totals()
        assert accounts.pending(totals) == 0
        assert totals[DELIVERED] >= len(ids)
        return ids

    def counted(self) -> int:
        folded, totals = self.home.page.accounts()
        return accounts.add([totals, survey(self.home.state, {}, without=folded).counters])[ACCEPTED]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as opened:
        yield Host(tmp_path / "host", opened)


def test_what_was_synced_is_delivered(host: Host) -> None:
    """Up to the last sync nothing is lost, whatever of the later writes reached the disk."""
    host.append(*range(20))
    host.leader.sync()
    host.append(*range(20, 40))
    for policy, choice in CUTS:
        found = host.after_cut(policy, choice, names=WRITTEN).recovered()
        assert set(range(20)) <= found.keys() <= set(range(40)), (policy, choice)


def test_a_file_made_while_the_server_is_away_is_synced(host: Host) -> None:
    """No scan has met it: the next one may be as far off as the server's Retry-After."""
    host.leader.scan()
    host.finish(1, 2, 3)
    host.leader.sync()
    assert set(host.after_cut(SYNCED).recovered()) == {1, 2, 3}


def test_the_names_of_files_are_synced(host: Host) -> None:
    """Data without its name is a draft, which is swept."""
    host.append(1, 2, 3)
    host.leader.sync()
    assert set(host.after_cut(WRITTEN, names=SYNCED).recovered()) == {1, 2, 3}


def test_a_file_that_cannot_be_synced_keeps_no_other_from_it(host: Host) -> None:
    """A disk with one bad file is synced all the same."""
    for number in range(3):
        host.finish(number)
    bad = min(os.listdir(host.home.state.spool))

    def sync_data(fd: int) -> None:
        if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == bad:
            raise OSError(5, "Input/output error")
        host.disk.sync(fd)

    host.home.backlog(sync_data=sync_data).sync()
    assert len(host.after_cut(SYNCED, names=WRITTEN).recovered()) == 2


def test_pages_that_reached_the_disk_in_any_order(host: Host) -> None:
    """What is whole on the disk is delivered, before or behind what is not, and whatever the position says."""
    host.append(*range(40))
    partial = 0
    for policy, choice in CUTS:
        after = host.after_cut(policy, choice, names=WRITTEN)
        whole = whole_events(after.home.state.spool)
        assert after.recovered().keys() == whole, (policy, choice)
        partial += 0 < len(whole) < 40
    assert partial > 10


def test_pages_lost_under_the_position_are_counted(host: Host) -> None:
    """The position says that there were events: those that are gone are dropped as corrupt, not pending for ever."""
    host.append(*range(40))
    counted = 0
    for choice in range(25):
        after = host.after_cut(MIXED, choice, names=WRITTEN)
        before = after.counted()
        found = after.recovered()
        corrupt = accounts.dropped(after.home.totals()).get("corrupt", 0)
        assert corrupt == max(0, before - len(found)), choice
        counted += corrupt
    assert counted


def test_an_acknowledgement_that_is_lost_resends_the_same_ids(host: Host) -> None:
    """The server has had them: an id is the event's place, so that holes before it change nothing."""
    host.append(*range(20))
    host.leader.sync()
    host.append(*range(20, 40))
    host.leader.scan()
    ids = {orjson.loads(event)["number"]: event_id for event_id, event in drain(host.leader)}
    again = 0
    for policy, choice in CUTS:
        for number, event_id in host.after_cut(policy, choice).recovered().items():
            assert ids[number] == event_id, (policy, choice)
            again += 1
    assert again


def test_totals_torn_as_they_are_written(host: Host) -> None:
    """Of the two copies one is whole: the totals are those of before the fold or of after it, never a mixture."""
    host.finish(1, 2, 3)
    drain(host.leader)
    host.leader.sync()
    for line in range(40):
        killed_at(("fold", line), lambda line=line: host.home.page.fold(f"{line:032x}-0", [5, 5, *[0] * 14]))
        host.disk.observe()
        newest = host.home.totals()[ACCEPTED]
        for choice in range(15):
            totals = host.after_cut(TORN, choice).home.totals()
            assert (totals[ACCEPTED] - 3) % 5 == 0, (line, choice)
            assert 3 <= totals[ACCEPTED] <= newest, (line, choice)
            assert totals[DELIVERED] == totals[ACCEPTED], (line, choice)
        host.home.page.fold(f"{line:032x}-1", [5, 5, *[0] * 14])  # at rest both copies are the same
        host.leader = host.home.backlog(sync_data=host.disk.sync)
        host.leader.sync()


def test_a_file_whose_deletion_is_lost_is_not_counted_again(host: Host) -> None:
    """Of the files that the totals hold, those that can be back are the ones that they name."""
    for number in range(30):
        host.finish(number)
    host.leader.sync()
    drain(host.leader)
    back = 0
    for policy in (SYNCED, WRITTEN):
        after = host.after_cut(WRITTEN, names=policy)
        back += len(os.listdir(after.home.state.spool))
        after.recovered()
        assert after.home.totals()[ACCEPTED] == 30, policy
    assert back


def test_a_deletion_that_its_predecessor_left_unsynced(host: Host) -> None:
    """A leader killed before its deletion was on the disk has a successor that sees to it before it folds."""
    for number in range(30):
        host.finish(number)
    host.leader.sync()
    for _ in range(30):
        leader = host.home.backlog(sync_data=host.disk.sync)
        leader.scan()
        leader.settle(leader.claim(1, 1 << 20), [DELIVERED_FATE])
        leader.scan()
    assert host.home.totals()[ACCEPTED] == 30
    after = host.after_cut(WRITTEN, names=SYNCED)
    after.recovered()
    assert after.home.totals()[ACCEPTED] == 30


def test_the_totals_are_synced(host: Host) -> None:
    """The counts of files that are gone are as safe as the events."""
    host.finish(1, 2, 3)
    drain(host.leader)
    host.leader.sync()
    host.finish(4)
    drain(host.leader)
    for policy, choice in CUTS:
        assert host.after_cut(policy, choice).home.totals()[ACCEPTED] in (3, 4), (policy, choice)


def test_a_file_without_its_header(host: Host) -> None:
    """A file whose first page never reached the disk is put aside, and keeps no other from being delivered."""
    host.finish(1, 2, 3)
    host.leader.sync()
    host.finish(4, 5, 6)
    after = host.after_cut(SYNCED, names=WRITTEN)
    assert set(after.recovered()) == {1, 2, 3}
    assert len(os.listdir(after.home.state.quarantine)) == 1


def test_the_leaders_clock_lost_with_its_page(host: Host) -> None:
    """Events grow old from now on: seen first by a clock that is gone, they would stay for as long as it had run."""
    host.home.page.words[LIVED] = int(10 * AGE)
    host.append(1)
    host.leader.scan()
    host.leader.sync()
    os.unlink(f"{host.home.state.path}/{control.NAME}")
    after = host.after_cut(WRITTEN)
    assert after.home.page.words[LIVED] == 0

    def leader() -> Backlog:
        return after.home.backlog(expired=lambda _: True, max_age=AGE)

    leader().scan()
    after.home.page.words[LIVED] += int(AGE) + 1
    after.leader = leader()
    assert after.recovered() == {}
    assert accounts.dropped(after.home.totals()) == {"age": 1}
