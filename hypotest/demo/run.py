"""The story of the demo, and its exit status."""
# ruff: noqa: T201 - the demo shows what it does

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from hypotest import control
from hypotest.commands import quiet
from hypotest.config import Config
from hypotest.demo.ledger import Ledger, Verdict, stored_events
from hypotest.demo.processes import Application, Clock, DemoFailed, Server, environment
from hypotest.demo.visitors import TRUE_RATES, Visitors
from hypotest.demo.workers import Workers, session
from hypotest.health import Status, gather
from hypotest.onlooker import Onlooker

LIMIT = 55.0
_VISITORS, _PER_SECOND, _THREADS = 2000, 170.0, 8
_KILL_AT, _OUTAGE_AT, _CHANGE_AT = 500, 800, 1400
_OUTAGE = 3.0
_CONDITION = 'country == "DE"'
_NEW_CONDITION = 'country in ("DE", "AT", "CH")'
_NEW_COUNTRY = "AT"


def experiments(condition: str) -> dict[str, Any]:
    """The experiments file. No variant `control` in the newsletter's: who gets control is not in it."""
    return {
        "buy_button": {"variants": list(TRUE_RATES["buy_button"]), "goals": ["purchase"]},
        "newsletter_box": {
            "variants": list(TRUE_RATES["newsletter_box"]),
            "goals": ["signup"],
            "condition": condition,
            "tags": ["country"],
        },
    }


class Outcome(NamedTuple):
    """How it ended.

    Attributes:
        status: of the SDK, host-wide, when all processes were gone.
        verdict: of the ledger.
        resent: events that the server had already when they came, and did not store again.
        leaders: that there were while the visitors came. polls: that they made.
        all_saw: whether every worker saw the change.
    """

    status: Status
    verdict: Verdict
    resent: int
    leaders: int
    polls: int
    all_saw: bool

    def faults(self) -> list[str]:
        """What is not as promised; empty if all is well."""
        accepted, stored = self.status.accepted, self.verdict.stored
        found = {
            f"{self.verdict.lost} acknowledged events are not at the server": self.verdict.lost,
            f"{self.verdict.duplicates} events are counted more than once": self.verdict.duplicates,
            f"{self.verdict.strangers} events at the server are of no request": self.verdict.strangers,
            f"{accepted} events were accepted, {stored} are at the server": accepted != stored,
            "not every worker saw the change": not self.all_saw,
        }
        return [fault for fault, is_there in found.items() if is_there]


class Demo:
    """The demo, in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        """Starts nothing yet."""
        self._clock = Clock(LIMIT)
        self._token = secrets.token_urlsafe(16)
        self._experiments = directory / "experiments.json"
        self._db = directory / "events.db"
        self._state = str(directory / "state")
        env = environment(directory) | {"HT_TOKEN": self._token}
        self._server = Server(directory, env, self._experiments, self._db)
        self._application = Application(directory, env)
        self._workers = Workers(self._application)
        self._ledger = Ledger()
        self._visitors: Visitors | None = None

    @property
    def unanswered(self) -> int:
        """Requests that the killed worker did not answer."""
        return self._visitors.unanswered if self._visitors is not None else 0

    def run(self) -> Outcome:
        """Tells the story."""
        self._start()
        visitors = Visitors(self._application.url, self._ledger, _VISITORS, _PER_SECOND, _THREADS)
        self._visitors = visitors
        visitors.start()
        self._say("visitors", f"{_VISITORS:,} begin to come, {_PER_SECOND:.0f} a second")
        self._until(visitors, _KILL_AT)
        self._kill_leader(visitors)
        self._until(visitors, _OUTAGE_AT)
        self._outage(visitors)
        self._until(visitors, _CHANGE_AT)
        all_saw = self._change()
        self._until(visitors, _VISITORS)
        visitors.stop()
        return self._end(all_saw)

    def close(self) -> None:
        """Ends every process that is left; bounded."""
        if self._visitors is not None:
            self._visitors.stop()
        self._workers.close()
        self._application.end()
        self._server.end()

    def logs(self) -> str:
        """The last lines of what the processes logged."""
        return "\n".join(f"{child.name}:\n{child.tail()}" for child in (self._server, self._application))

    def _say(self, subject: str, text: str) -> None:
        print(f"{self._clock.passed():5.1f} s  {subject:<12} {text}", flush=True)

    def _write_experiments(self, condition: str) -> None:
        draft = self._experiments.with_suffix(".new")
        draft.write_bytes(orjson.dumps(experiments(condition)))
        draft.replace(self._experiments)

    def _start(self) -> None:
        self._write_experiments(_CONDITION)
        self._server.start_and_wait(self._clock)
        self._say("server", f"listens on {self._server.url}; experiments: {', '.join(TRUE_RATES)}")
        self._application.start_and_wait(
            self._clock,
            {
                "HT_SERVER_URL": self._server.url,
                "HT_STATE_DIR": self._state,
                "HT_PULL_INTERVAL": "1",
                "HT_PULL_JITTER": "0",
            },
        )
        found = self._workers.all(self._clock, "every worker has settings", lambda each: each["generation"] > 0, "DE")
        pids = ", ".join(map(str, sorted(found)))
        self._say("application", f"gunicorn, preloaded, {len(found)} workers (pid {pids}) on {self._application.url}")
        quiet()
        self._look = Onlooker(Config(token=self._token, server_url=self._server.url, state_dir=self._state))
        self._page = self._clock.wait(lambda: self._look.page, "there is a state directory")
        self._say("leader", f"worker {self._clock.wait(self._leader, 'there is a leader')} polls and sends for all")

    def _leader(self) -> int | None:
        """The pid of the worker that says that it leads."""
        answers = self._workers.ask("DE")
        return next((pid for pid, answer in answers.items() if answer["is_leader"]), None)

    def _until(self, visitors: Visitors, count: int) -> None:
        def arrived() -> bool:
            visitors.check()
            return visitors.seen >= count

        self._clock.wait(arrived, f"{count} visitors", LIMIT)
        self._say("visitors", f"{visitors.seen:,} of {_VISITORS:,}; {self._flow()}")

    def _flow(self) -> str:
        status = gather(self._look)
        return f"{status.accepted:,} events accepted, {status.delivered:,} delivered, {status.pending:,} pending"

    def _kill_leader(self, visitors: Visitors) -> None:
        leader = self._clock.wait(self._leader, "there is a leader")
        visitors.worker_was_killed = True
        os.kill(leader, signal.SIGKILL)
        killed = time.monotonic()
        self._say("SIGKILL", f"to worker {leader}, the leader, with visitors on the line")
        another = self._clock.wait(
            lambda: (pid := self._page.words[control.LEADER_PID]) != leader and pid, "another takes over", poll=0.002
        )
        self._say("leader", f"worker {another} took over after {time.monotonic() - killed:.2f} s")

    def _outage(self, visitors: Visitors) -> None:
        self._server.end(signal.SIGKILL)
        self._say("server", f"killed; it stays away for {_OUTAGE:g} s, the shop stays open")
        back_at = self._clock.passed() + _OUTAGE
        self._clock.wait(lambda: self._clock.passed() >= back_at, "the outage is over")
        visitors.check()
        self._say("visitors", f"{visitors.seen:,} of {_VISITORS:,}; {self._flow()}")
        self._server.start_and_wait(self._clock)
        self._say("server", "is back, same port, same database")

    def _change(self) -> bool:
        before = self._page.words[control.GENERATION]
        self._write_experiments(_NEW_CONDITION)
        changed = time.monotonic()
        self._say("settings", f"newsletter_box changes from {_CONDITION} to {_NEW_CONDITION}")
        try:
            found = self._workers.all(
                self._clock,
                "every worker sees the change",
                lambda each: each["generation"] > before and each["newsletter_box"] is not None,
                _NEW_COUNTRY,
            )
        except DemoFailed as error:
            self._say("settings", str(error))
            return False
        pids = ", ".join(map(str, sorted(found)))
        took = time.monotonic() - changed
        self._say("settings", f"each of the {len(found)} workers (pid {pids}) acts on it after {took:.1f} s")
        return True

    def _end(self, all_saw: bool) -> Outcome:
        kick = control.Kicks(self._page)  # a leader that backed off during the outage is meant to try now

        def delivered() -> bool:
            kick()
            return gather(self._look).pending == 0

        with contextlib.suppress(DemoFailed):  # what is missing then is counted as lost
            self._clock.wait(delivered, "everything is delivered", poll=0.05)
        leaders, polls = self._page.words[control.EPOCH], self._page.words[control.POLLS]
        with session() as connection:
            headers = {"Authorization": f"Bearer {self._token}"}
            results = connection.get(f"{self._server.url}/v1/results", headers=headers, timeout=10).json()
            resent = connection.get(f"{self._server.url}/v1/accounts", headers=headers, timeout=10).json()["duplicates"]
        self._workers.close()
        self._application.end()
        self._server.end()
        self._say("the end", f"all processes have ended; {self._flow()}")
        print(f"\n{results_table(results)}\n")
        verdict = self._ledger.compare(stored_events(self._db))
        return Outcome(gather(self._look), verdict, resent, leaders, polls, all_saw)


def results_table(results: dict[str, Any]) -> str:
    """The table of `GET /v1/results`, with the rates that the visitors really had."""
    row = "{:<16} {:<9} {:>8} {:>12} {:>8} {:>11}".format
    lines = [row("experiment", "variant", "visitors", "conversions", "rate", "true rate")]
    for name, experiment in results["experiments"].items():
        for variant, counted in experiment["variants"].items():
            goal = next(iter(counted["goals"].values()))
            rates = f"{goal['rate']:.1%}", f"{TRUE_RATES[name][variant]:.0%}"
            lines.append(row(name, variant, f"{counted['visitors']:,}", f"{goal['converted']:,}", *rates))
    return "\n".join(lines)


def accounts_line(outcome: Outcome, unanswered: int) -> str:
    """The line of accounts, and what stands beside it."""
    status, verdict = outcome.status, outcome.verdict
    return (
        f"accepted {status.accepted:,}  delivered {status.delivered:,}  duplicates {verdict.duplicates}"
        f"  lost {verdict.lost}  leaders {outcome.leaders}  polls {outcome.polls}\n"
        f"(sent again and recognised by the server: {outcome.resent}; requests that the killed worker left unanswered,"
        f" and that were repeated: {unanswered})"
    )


@contextlib.contextmanager
def _signals_do(action: Callable[[int, Any], Any] | signal.Handlers) -> Iterator[None]:
    """What SIGTERM, SIGHUP and SIGINT do meanwhile; one that is ignored, as under nohup, stays so."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, action) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Runs the demo.

    Returns:
        0 if nothing was lost or counted twice and every worker saw the change, else 1.

    Raises:
        DemoFailed: it did not get to its end.
    """
    started = time.monotonic()
    with _signals_do(_interrupt):
        directory = tempfile.mkdtemp(prefix="hypotest-demo-")
        demo = Demo(Path(directory))
        try:
            outcome = demo.run()
        except DemoFailed:
            print(demo.logs(), file=sys.stderr)
            raise
        finally:
            with _signals_do(signal.SIG_IGN):  # it takes a few seconds at most
                demo.close()
                shutil.rmtree(directory, ignore_errors=True)
    print(accounts_line(outcome, demo.unanswered))
    faults = outcome.faults()
    for fault in faults:
        print(f"hypotest demo: {fault}", file=sys.stderr)
    print(f"{'FAILED' if faults else 'all is well'}, {time.monotonic() - started:.0f} s")
    return int(bool(faults))
