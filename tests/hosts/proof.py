"""What must hold in every host and mode, whatever happens to it: the same proof for all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from hypotest.control import GENERATION
from hypotest.demo.ledger import stored_events
from tests.hosts import rows
from tests.hosts.doors import Unanswered
from tests.hosts.host import INTERVAL, Host, Site
from tests.hosts.load import Load
from tests.hosts.work import EVENTS
from tests.server_process import DEADLINE, ROOT, ServerProcess, wait_for

_ENDED = ("SystemExit", "SystemExit: 0", "SystemExit: 1")
LATEST = INTERVAL + 15.0
"""Seconds after which a change must be in force; from then on every answer knows it."""


def versions(number: int) -> dict[str, Any]:
    """Settings of which `work` can tell the version."""
    return {name: {"variants": {f"v{number}": 1.0}, "goals": ["done"]} for name in ("left", "right")}


def server_of(directory: Path) -> ServerProcess:
    """A server with a token of its own: a host that an aborted run left behind may ask at the same port one day."""
    return ServerProcess(directory, experiments=versions(1), tokens=(uuid.uuid4().hex,))


def prove(host: Host, directory: Path) -> None:
    """Runs the host under load, through its trials, to an orderly stop, and asserts what must hold.

    What it measured goes as a row to the directory HOSTS_ROWS, if there is one.
    """
    with server_of(directory) as server, Site(host, server) as site:
        host.before(site)
        proof = Proof(host, site)
        try:
            with proof.load:
                proof.run()
            proof.account()
        finally:
            proof.load.door.close()
        rows.write(proof.row)


class Proof:
    """One host on trial.

    Attributes:
        host, site: the host and its place. load: the one who asks.
        row: what was measured, by column of the table.
        patience: seconds for what needs a worker in place of one that has ended.
    """

    def __init__(self, host: Host, site: Site) -> None:
        self.host = host
        self.site = site
        self.load = Load(host.door(site), host.threads)
        self.row: dict[str, Any] = {"host": host.name, "mode": host.mode}
        self.patience = DEADLINE + host.unnoticed
        self._version = 1
        self._changes: list[tuple[int, float]] = []
        self._began = time.monotonic()

    def run(self) -> None:
        """Start, change, trials, change, stop; the load goes on throughout."""
        self.start()
        wait_for(lambda: self.load.workers(version=1), "an answer with settings")
        wait_for(lambda: len(self.load.workers()) >= self.host.workers, "every worker answers")
        self.change()
        self._threads()
        for trial in self.host.trials:
            trial(self)
        self.change()
        if self.host.stops_at_rest:
            self.load.stop()
            self.site.settle()
        since = self.site.log_size()
        self.row["stop"] = self.site.stop()
        complaints = self.site.complaints(since)
        assert not complaints, complaints

    def start(self) -> None:
        """Starts the host, or starts it again as an operator would."""
        self.site.start()
        self.host.started(self.site, self.load.door)

    def change(self) -> None:
        """Changes the settings; returns when every worker has answered with the new ones."""
        self._version += 1
        words = self.site.page().words
        before = words[GENERATION]
        self.site.server.set_experiments(versions(self._version))
        changed = time.monotonic()
        wait_for(lambda: words[GENERATION] > before, "the change is in force", LATEST + self.host.unnoticed)
        in_force = time.monotonic()
        self._changes.append((self._version, in_force))
        wait_for(
            lambda: len(self.load.workers(since=in_force, version=self._version)) >= self.host.workers,
            f"all workers answer with version {self._version}; last trouble: {self.load.trouble}",
            self.patience,
        )
        older = self.load.older(self._version, since=changed)
        fresh = max((answer.begin - changed for answer in older), default=0.0)
        self.row["fresh"] = max(fresh, self.row.get("fresh", 0.0))

    def _threads(self) -> None:
        """A worker that follows has one thread of ours at most, one that leads three."""
        answers = self.load.older(self._version + 1, since=self._changes[-1][1])
        numbers = {len(answer.threads) for answer in answers if "hypotest-poller" not in answer.threads}
        assert max(numbers, default=0) <= 1, f"followers have {numbers} threads"
        assert max(len(answer.threads) for answer in answers) <= 3
        self.row["threads"] = max(numbers, default=0)

    def account(self) -> None:
        """After the end: what was answered is at the server once, nothing waits, no answer was stale."""
        drained = self._command("drain", "--timeout", "20")
        assert drained.returncode == 0, drained.stdout
        lasted = time.monotonic() - self._began
        status = json.loads(self._command("status", "--json").stdout)
        stored = stored_events(self.site.server.db)
        self._acknowledge_early(stored)
        self._send_parts(stored)
        verdict = self.load.ledger.compare(stored)
        polls, leaders = self.site.server.polls(), status["leaders"]
        stale = [answer for number, at in self._changes for answer in self.load.older(number, since=at)]
        self.row |= {
            "answered": len(self.load.answers),
            "unanswered": self.load.unanswered,
            "events": verdict.stored,
            "workers": len(self.load.workers()),
            "leaders": leaders,
            "polls": (polls - leaders) / (lasted / INTERVAL),  # each leader's first comes at once
            "lost": verdict.lost,
            "doubled": verdict.duplicates,
            "stale": len(stale),
        }
        assert verdict.lost == 0, f"{verdict} of {len(self.load.answers)} answers, {status}"
        assert (verdict.duplicates, verdict.strangers) == (0, 0), verdict
        assert not stale, stale[:3]
        assert not self.load.mixed(), self.load.mixed()[:3]
        assert status["pending"] == 0, status
        assert status["accepted"] == status["delivered"] == verdict.stored, (status, verdict)
        assert not any(status["refused"].values()), status["refused"]
        assert polls <= leaders + lasted / INTERVAL + 1, f"{polls} polls by {leaders} leaders in {lasted:.1f} s"
        found = "".join(_tracebacks(self.site.log()))
        for place in (sys.prefix, str(ROOT)):  # which may be called as we are
            found = found.replace(f"{place}/", "")
        assert "hypotest" not in found, self.site.log()

    def _acknowledge_early(self, stored: list[tuple[str, str, str]]) -> None:
        """What the application did while it was loaded was not asked for by us, and must be whole all the same."""
        early = {request for request, _, _ in stored if request.startswith("early-")}
        assert bool(early) == self.host.early, early
        for request in early:
            self.load.ledger.send(request)
            self.load.ledger.acknowledge(request, EVENTS)

    def _send_parts(self, stored: list[tuple[str, str, str]]) -> None:
        """Of what was asked, a part `<name>/<part>` may have been begun and not be complete."""
        for request, _, _ in stored:
            whole, slash, _ = request.partition("/")
            if slash and whole in self.load.asked:
                self.load.ledger.send(request)

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hypotest", *arguments],
            env=self.site.env | {"HT_LEADER": "auto"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def ask_once(self, name: str) -> None:
        """Asks beside the load for something that gets no answer."""
        try:
            self.load.ask(name)
        except Unanswered:
            return
        raise AssertionError(f"{name} was answered")


def _tracebacks(log: str) -> list[str]:
    """The tracebacks in a log, each to its end, but for those of a host that ends a worker in the middle of a call."""
    parts = log.split("Traceback (most recent call last)")[1:]
    found = ["\n".join(_indented(part.splitlines()[1:])) for part in parts]
    return [traceback for traceback in found if not traceback.endswith(_ENDED)]


def _indented(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return lines[: end + 1]
