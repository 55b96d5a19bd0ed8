"""A short run of the chaos, and whether its checker would notice anything."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stress.chaos import checker, history
from stress.chaos.history import BEGAN, KINDS, STATUS, History
from tests.server_process import ROOT, clean_env

SECONDS = 10
GOOD = {"accepted": 6, "delivered": 6, "pending": 0, "dropped": {}, "refused": {"spool_full": 1}}


@pytest.mark.skipif(sys.platform != "linux", reason="finds the forked processes in /proc")
def test_a_short_run(tmp_path: Path) -> None:
    """Processes, leaders and the server killed and stopped, a proxy that lies: nothing lost, doubled or unexplained."""
    done = subprocess.run(
        [sys.executable, "-m", "stress", "chaos", "--seconds", str(SECONDS), "--seed", str(time.time_ns() % 10**6)],
        cwd=ROOT,
        env=clean_env() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert int(table["events accepted"].replace(",", "")) > 0, done.stdout


class Played:
    """Seven calls of one writer, the last of them refused, and a database that has the first six."""

    def __init__(self, root: Path) -> None:
        self.histories = root / "histories"
        self.histories.mkdir()
        self.writer = History(self.histories)
        self.other = History(self.histories)
        self.database = root / "events.db"
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE events (visitor_id TEXT, type TEXT)")
        for number in range(7):
            self.call(self.writer, number, version=2, reason="spool_full" if number == 6 else None)
        for number in range(6):
            self.store(f"{self.writer.label}.{number}", KINDS[number % 3])

    def call(self, writer: History, number: int, *, version: int = 0, reason: str | None = None) -> None:
        writer.write(BEGAN, number)
        writer.ended(number, version if number % 3 == 0 else 0, reason, 0)

    def store(self, name: str, kind: str) -> None:
        self.sql("INSERT INTO events VALUES (?, ?)", name, kind)

    def sql(self, text: str, *values: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(text, values)

    def verdict(self, **status: Any) -> tuple[int, int, str]:
        verdict = checker.judge(checker.examine(self.histories), self.database, GOOD | status)
        return verdict.lost, verdict.twice, "; ".join(verdict.unexplained)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    return Played(tmp_path)


def test_what_is_right(played: Played) -> None:
    """A history that fits is not complained about, nor is a call that was killed, delivered or not."""
    assert played.verdict() == (0, 0, "")
    played.writer.write(BEGAN, 7)
    assert played.verdict() == (0, 0, "")
    played.store(f"{played.writer.label}.7", KINDS[1])
    assert played.verdict(accepted=7, delivered=7) == (0, 0, "")


def test_a_lost_event_is_seen(played: Played) -> None:
    """An accepted event that is not at the server is lost, although the accounts agree with the server."""
    played.sql("DELETE FROM events WHERE visitor_id LIKE '%.3'")
    assert played.verdict(delivered=5) == (1, 0, "")


def test_an_event_counted_twice_is_seen(played: Played) -> None:
    """An event that the server has twice is counted as such, and the accounts no longer fit."""
    played.store(f"{played.writer.label}.3", KINDS[0])
    lost, twice, unexplained = played.verdict()
    assert (lost, twice) == (0, 1)
    assert "6 events delivered, 7 at the server" in unexplained


@pytest.mark.parametrize("event", ["{}.6", "{}.7", "nobody.0", "{}.x"])
def test_an_event_that_should_not_be_there_is_seen(played: Played, event: str) -> None:
    """It was refused, or never offered."""
    name = event.format(played.writer.label)
    played.store(name, KINDS[0])
    assert name in played.verdict(accepted=7, delivered=7)[2]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"accepted": 7}, "7 events accepted by the accounts"),
        ({"accepted": 5}, "5 events accepted by the accounts"),
        ({"pending": 1}, "pending"),
        ({"dropped": {"age": 1}}, "dropped"),
        ({"refused": {}}, "0 events refused for spool_full"),
        ({"refused": {"spool_full": 1, "disk": 1}}, "1 events refused for disk"),
    ],
)
def test_accounts_that_do_not_add_up_are_seen(played: Played, status: dict[str, Any], said: str) -> None:
    """Accounts that differ from what the processes saw, or have events pending or dropped, are complained about."""
    assert said in played.verdict(**status)[2]


def test_refusals_that_died_with_their_process_are_explained(played: Played) -> None:
    """As far as the process wrote down that they were in no file yet, and no further."""
    played.other.write(BEGAN, 0)
    played.other.ended(0, 0, "disk", 1)
    assert played.verdict() == (0, 0, "")
    assert "refused" in played.verdict(refused={})[2]


def test_settings_that_go_back_are_seen(played: Played) -> None:
    """An answer by an older version after another process saw a newer one."""
    played.call(played.other, 0, version=1, reason="disk")
    lost, twice, unexplained = played.verdict(refused={"spool_full": 1, "disk": 1})
    assert (lost, twice) == (0, 0)
    assert f"{played.other.label}.0 shows version 1" in unexplained


def test_two_leaders_are_seen(played: Played) -> None:
    """Two processes that led under one number are complained about; one process alone is not."""
    played.writer.write(STATUS, 5)
    assert played.verdict() == (0, 0, "")
    history_of_another = played.histories / "fff-another"
    history_of_another.write_bytes((played.histories / played.writer.label).read_bytes()[-history.SIZE :])
    assert "leader 5 was" in played.verdict()[2]
