"""Holds what the writers wrote down against what the server has, and against the SDK's own accounts."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypotest import accounts
from stress.chaos import history
from stress.chaos.history import KINDS

_BEGUN, _KEPT, _REFUSED = 1, 2, 3
_SHOWN = 20


@dataclass
class Findings:
    """What the histories say.

    Attributes:
        fates: of each writer, a byte for each of its events.
        kept: events whose call returned and that were not refused.
        interrupted: calls that never returned.
        refused: by reason.
        unwritten: of each process, by pid, the refusals that it had in no file when it ended, at most.
        by_timer: processes that a timer of their own killed, in the middle of calls.
        leaders: who said that it led, by epoch.
        versions: that answers showed.
        stale: answers older than one that had been given before they were asked for.
    """

    fates: dict[str, bytearray] = field(default_factory=dict)
    kept: int = 0
    interrupted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unwritten: Counter[str] = field(default_factory=Counter)
    by_timer: int = 0
    leaders: dict[int, set[str]] = field(default_factory=dict)
    versions: int = 0
    stale: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What the check found.

    Attributes:
        lost, twice: accepted events that are not at the server; events that are there more than once.
        unexplained: everything else that should not be, in words.
    """

    lost: int = 0
    twice: int = 0
    unexplained: list[str] = field(default_factory=list)

    def expect(self, fine: object, what: str) -> None:
        """Something unexplained, unless it is `fine`."""
        if not fine:
            self.unexplained.append(what)


def examine(histories: Path) -> Findings:
    """Reads all histories."""
    found = Findings()
    first_seen: dict[int, int] = {}
    for path in histories.iterdir():
        _examine_one(path, found, first_seen)
    found.versions = len(first_seen)
    _examine_versions(histories, found, first_seen)
    return found


def _examine_one(path: Path, found: Findings, first_seen: dict[int, int]) -> None:
    fates = found.fates[path.name] = bytearray()
    unreported = timer = 0
    pid = path.name.partition("-")[0]
    for record in history.read(path):
        if record.what == history.BEGAN:
            fates.append(_BEGUN)
        elif record.what == history.ENDED:
            if record.outcome == history.KEPT:
                fates[record.number] = _KEPT
            else:
                fates[record.number] = _REFUSED
                found.refused[accounts.REFUSALS[record.outcome]] += 1
            if record.version:
                first_seen[record.version] = min(record.time, first_seen.get(record.version, record.time))
        elif record.what == history.STATUS:
            found.leaders.setdefault(record.number, set()).add(pid)
        elif record.what == history.UNREPORTED:
            unreported = record.number
        elif record.what == history.TIMER:
            timer = record.number
    found.unwritten[pid] = max(found.unwritten[pid], unreported)  # its threads share them
    found.by_timer += timer
    found.kept += fates.count(_KEPT)
    found.interrupted += fates.count(_BEGUN)


def _examine_versions(histories: Path, found: Findings, first_seen: Mapping[int, int]) -> None:
    """No call that began after a version was shown to anybody may show an older one."""
    newer_since: dict[int, int] = {}
    earliest = 1 << 63
    for version in sorted(first_seen, reverse=True):
        newer_since[version] = earliest
        earliest = min(earliest, first_seen[version])
    for path in histories.iterdir():
        began = 0
        for record in history.read(path):
            if record.what == history.BEGAN:
                began = record.time
            elif record.what == history.ENDED and record.version and began > newer_since[record.version]:
                found.stale.append(f"{path.name}.{record.number} shows version {record.version}, a newer one was seen")


def judge(found: Findings, database: Path, status: Mapping[str, Any]) -> Verdict:
    """Compares the histories with the server's database and the status, after everything was drained."""
    verdict = Verdict()
    stored = {label: bytearray(len(fates)) for label, fates in found.fates.items()}
    rows = _count(database, stored, verdict)
    for label, fates in found.fates.items():
        counts = stored[label]
        for number, (fate, count) in enumerate(zip(fates, counts, strict=True)):
            if fate == _KEPT and not count:
                verdict.lost += 1
                if verdict.lost <= _SHOWN:
                    print(f"lost: {label}.{number}")
            if count > 1:
                verdict.twice += 1
                if verdict.twice <= _SHOWN:
                    print(f"counted twice: {label}.{number}")
            verdict.expect(fate != _REFUSED or not count, f"{label}.{number} was refused and is at the server")
    _balance(found, rows, status, verdict)
    verdict.unexplained += found.stale
    for epoch, labels in found.leaders.items():
        verdict.expect(len(labels) == 1, f"leader {epoch} was {' and '.join(sorted(labels))}")
    return verdict


def _count(database: Path, stored: Mapping[str, bytearray], verdict: Verdict) -> int:
    """Counts each event that is at the server; returns how many rows there are."""
    rows = 0
    with closing(sqlite3.connect(database)) as connection:
        for name, kind in connection.execute("SELECT visitor_id, type FROM events"):
            rows += 1
            label, _, number = str(name).rpartition(".")
            at = int(number) if number.isdecimal() else -1
            if label not in stored or not 0 <= at < len(stored[label]) or kind != KINDS[at % 3]:
                verdict.unexplained.append(f"{name!r}, a {kind}, is at the server and nobody offered it")
            elif stored[label][at] < 255:
                stored[label][at] += 1
    return rows


def _balance(found: Findings, rows: int, status: Mapping[str, Any], verdict: Verdict) -> None:
    """The accounts: exact but for calls that were killed, and for refusals that died with their process."""
    accepted, delivered = status["accepted"], status["delivered"]
    dropped, refused = sum(status["dropped"].values()), sum(status["refused"].values())
    verdict.expect(status["pending"] == 0, f"{status['pending']} events are pending after the drain")
    verdict.expect(not dropped, f"dropped: {status['dropped']}")
    verdict.expect(delivered == rows, f"{delivered} events delivered, {rows} at the server")
    verdict.expect(
        found.kept <= accepted <= found.kept + found.interrupted,
        f"{accepted} events accepted by the accounts, {found.kept} by the histories, {found.interrupted} interrupted",
    )
    unwritten = sum(found.unwritten.values())
    offered = sum(map(len, found.fates.values()))
    verdict.expect(
        offered - found.interrupted - unwritten <= accepted + refused <= offered,
        f"{offered} events offered, {accepted} accepted and {refused} refused by the accounts; {found.interrupted}"
        f" calls were interrupted, {unwritten} refusals died with their processes",
    )
    for reason in accounts.REFUSALS:
        said, seen = status["refused"].get(reason, 0), found.refused[reason]
        verdict.expect(
            seen - unwritten <= said <= seen + found.interrupted,
            f"{said} events refused for {reason} by the accounts, {seen} by the histories",
        )
