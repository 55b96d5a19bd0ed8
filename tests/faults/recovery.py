"""What has to hold after an operation was cut, wherever that was.

Allowed after a kill, as docs/design.md has it: the event whose call was cut may be delivered, once; one drop may be
counted twice.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hypotest import accounts
from hypotest.accounts import ACCEPTED
from hypotest.control import EPOCH, HEARTBEAT, LEADER_PID
from hypotest.publisher import Publisher
from hypotest.snapshot import generations
from hypotest.statedir import StateDir
from hypotest.survey import survey
from tests.faults.operations import (
    BEGUN,
    FAILED,
    KEPT,
    NEIGHBOUR,
    OFFERED,
    PUBLISHED,
    REFUSED,
    UNWRITTEN,
    Ledger,
    Operation,
    World,
    records,
)

if TYPE_CHECKING:
    from hypotest.backlog import Backlog
    from hypotest.leader import Campaign


def recover(root: Path, ledger: Ledger, operation: type[Operation], *, killed: bool) -> None:
    """Another process comes, leads at once, and finds all as it was promised."""
    world = World(root, ledger)
    _settings_stand(world)
    found = _accounts(world)
    kept, cut = len(ledger.numbers(KEPT)), len(ledger.numbers(BEGUN, FAILED))
    assert kept <= found[ACCEPTED] <= kept + cut, f"{found[ACCEPTED]} accepted of {kept} and {cut}"
    refused = sum(found[accounts.FIRST_REFUSAL : accounts.FIRST_DROP]) + ledger.words[UNWRITTEN]
    assert refused == len(ledger.numbers(REFUSED)), f"{refused} refusals counted"

    epoch = world.home.page.words[EPOCH]
    campaign = world.campaign()
    campaign.tick()
    assert campaign.leading, "nobody can lead"
    assert (world.home.page.words[EPOCH], world.home.page.words[LEADER_PID]) == (epoch + 1, os.getpid())

    backlog = world.backlog()
    sent_before = len(ledger.sent())
    world.deliver(backlog)
    _each_once(ledger, operation)
    _adds_up(world, operation, found, len(ledger.sent()) - sent_before, killed=killed)
    _goes_on(world, backlog)
    _leaves_nothing(world, backlog, campaign)
    campaign.stop()
    assert world.home.page.words[HEARTBEAT] == 0


def _settings_stand(world: World) -> None:
    generation, published = world.generation(), world.ledger.words[PUBLISHED]
    assert generation in (published, published + 1), f"generation {generation} after {published}"


def _accounts(world: World) -> list[int]:
    """The accounts as any process sees them."""
    folded, totals = world.home.page.accounts()
    return accounts.add([totals, survey(world.home.state, {}, without=folded).counters])


def _each_once(ledger: Ledger, operation: type[Operation]) -> None:
    """What was accepted has arrived, under one id however often it was sent; nothing else has but what was cut."""
    sent = set(ledger.sent())
    arrived = {number for _, number in sent}
    assert len(arrived) == len(sent) == len({event_id for event_id, _ in sent}), f"ids of events differ: {sent}"
    kept, cut = ledger.numbers(KEPT), ledger.numbers(BEGUN, FAILED)
    assert kept - arrived == operation.expires, f"lost: {kept - arrived - operation.expires}"
    assert arrived - kept <= cut, f"delivered although refused: {arrived - kept - cut}"


def _adds_up(world: World, operation: type[Operation], found: list[int], sent: int, *, killed: bool) -> None:
    """The accounts are those of the events, and what was sent is what was waiting.

    Args:
        world: where everything is delivered now.
        operation: that was cut.
        found: the accounts right after the cut.
        sent: how many events were sent since.
        killed: whether the operation was ended, and not only given an error.
    """
    totals = world.home.page.accounts()[1]
    arrived = {number for _, number in world.ledger.sent()}
    assert totals[ACCEPTED] == len(arrived | world.ledger.numbers(KEPT)), f"{totals[ACCEPTED]} accepted"
    assert accounts.pending(totals) == 0
    dropped = accounts.dropped(totals)
    assert dropped.keys() == operation.drops.keys(), dropped
    twice = sum(dropped.values()) - sum(operation.drops.values())
    assert twice in ((0, 1) if killed else (0,)), f"dropped: {dropped}"
    assert all(dropped[reason] >= times for reason, times in operation.drops.items()), dropped
    unseen = totals[ACCEPTED] - found[ACCEPTED]
    expired = operation.drops.get("age", 0) - accounts.dropped(found).get("age", 0)
    waiting = accounts.pending(found) + unseen - expired
    assert sent == waiting, f"{sent} were sent, {waiting} were waiting"


def _goes_on(world: World, backlog: Backlog) -> None:
    """The next event is delivered, and the next settings are seen."""
    accepted = world.home.page.accounts()[1][ACCEPTED]
    world.offer()
    world.deliver(backlog)
    assert world.ledger.sent()[-1][1] == world.ledger.words[OFFERED] - 1
    world.home.spool.close()
    world.deliver(backlog)
    assert world.home.page.accounts()[1][ACCEPTED] == accepted + 1
    state, generation = world.home.state, world.generation()
    above = max([generation, *generations(state.path)]) + 1
    assert Publisher(state.path, world.home.page).publish(records(above)) == above
    assert world.generation() == above > generation
    neighbour = StateDir(state.root, NEIGHBOUR)
    if os.path.exists(neighbour.path):
        assert accounts.pending(survey(neighbour, {}).counters) == 1, "a neighbour's event is gone"


def _leaves_nothing(world: World, backlog: Backlog, campaign: Campaign) -> None:
    """An hour later nothing is there but what has to be."""
    state = world.home.state
    hour = time.time() - 3600
    for directory in (state.path, state.spool):
        for entry in os.scandir(directory):
            if entry.name.startswith("."):
                os.utime(entry.path, (hour, hour))
    leadership = campaign._leadership
    assert leadership is not None
    leadership._neighbours_due = 0.0
    leadership.housekeep()
    backlog.scan()
    assert os.listdir(state.spool) == []
    kept = {f"settings-{generation}.snap" for generation in generations(state.path)[:2]}
    assert set(os.listdir(state.path)) == {"control", "leader.lock", "spool", "quarantine"} | kept
    assert all(name.startswith("rejected-") or name == "garbage.seg" for name in os.listdir(state.quarantine))
