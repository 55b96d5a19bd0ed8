"""Scripts: a daemon, threads that fork, two PID namespaces, and short ones that send one event and end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hypotest.demo.ledger import Ledger, stored_events
from tests.hosts import rows
from tests.hosts.containers import UNSHARE
from tests.hosts.host import LineHost, Site
from tests.hosts.proof import prove
from tests.hosts.script import PID_FILE
from tests.hosts.trials import kill_the_leader, kill_the_leading_worker
from tests.processes import sdk_env
from tests.server_process import ServerProcess


class Script(LineHost):
    """A script of one process that works on lines."""

    name = "script"
    workers = 1

    def command(self, site: Site) -> Sequence[str]:
        return ["python", "-m", "tests.hosts.script", *self.options]


class Daemon(Script):
    """One that left its parent: whoever starts it anew and stops it has to know its pid."""

    name = "daemon by two forks"

    def ask_to_stop(self, site: Site) -> None:
        os.kill(int((site.home / PID_FILE).read_text()), signal.SIGTERM)


class Containers(Script):
    """Two scripts, each of which is pid 1 where it runs."""

    name = "two PID namespaces, one state directory"
    workers = 2

    def command(self, site: Site) -> Sequence[str]:
        return ["python", "-m", "tests.hosts.containers"]


MODES = [
    Script("threads", trials=(kill_the_leader,)),
    Script("os.fork in threads, while others work", "forks", trials=(kill_the_leader,)),
    Daemon("SDK used after the forks", "daemon", lone=True, trials=(kill_the_leader,)),
    Daemon("SDK used before the forks, too", "daemon", early=True, lone=True, trials=(kill_the_leader,)),
    Containers("each with pid 1", trials=(kill_the_leading_worker,)),
]


@pytest.mark.parametrize("host", MODES, ids=str)
def test_script(host: Script, tmp_path: Path) -> None:
    """In threads, forks, daemons and containers alike nothing is lost or doubled, and no answer is stale."""
    if isinstance(host, Containers) and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("unshare is not permitted here")
        pytest.skip("unshare is not permitted here")
    prove(host, tmp_path)


SHORT = """
import os, time
import hypotest
name = os.environ["SCRIPT"]
if name.startswith("script-"):
    hypotest.kpi_event("done", visitor_id=name, tags={"request": name})
elif name:
    __import__(name)
print(time.monotonic(), flush=True)
"""
FLUSH_TIMEOUT = 0.6
SOON = 1.0
"""Seconds: less than any wait for the network takes. The figure itself is measured by `python -m stress stop`."""
NUMBER = 5
PATIENCE = 60


class Cron:
    """Starts short scripts, and holds what they sent against what arrives."""

    def __init__(self, server: ServerProcess, directory: Path, *, flush: bool, **options: object) -> None:
        usual = {"pull_interval": 30, "send_interval": 1} | options
        self.env = sdk_env(server, directory / "state", flush_events=flush, **usual)
        self.env |= {"HOME": str(directory)}
        self._server = server
        self._ledger = Ledger()
        self._numbers = itertools.count()
        self._ends: list[float] = []

    def run(self, _: object = None) -> float:
        """Runs one; returns the seconds from its last line to its end."""
        name = f"script-{next(self._numbers)}"
        self._ledger.send(name)
        ended = self._run(name)
        self._ledger.acknowledge(name, [("goal", "done")])
        self._ends.append(ended)
        return ended

    def idle(self, module: str = "") -> float:
        """The least of several that do nothing with the SDK, but load a module, perhaps."""
        return min(self._run(module) for _ in range(NUMBER))

    def _run(self, name: str) -> float:
        command = [sys.executable, "-c", SHORT]
        env = self.env | {"SCRIPT": name}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as script:
            assert script.stdout is not None
            assert script.stderr is not None
            last_line = float(script.stdout.readline())
            assert script.wait(20) == 0
            ended = time.monotonic() - last_line
            log = script.stderr.read().decode()
            assert "Traceback" not in log, log
        return ended

    def stored(self) -> int:
        """How many events are at the server, asked of its database."""
        return len(stored_events(self._server.db))

    def command(self, *arguments: str) -> str:
        """Runs `hypotest`, which has to succeed."""
        command = [sys.executable, "-m", "hypotest", *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def account(self, mode: str) -> None:
        """After the end, and with the server back: each event is there once. Writes the row."""
        number = len(self._ends)
        before = json.loads(self.command("status", "--json"))
        assert before["accepted"] == before["pending"] + before["delivered"] == number
        self.command("drain", "--timeout", "20")
        verdict = self._ledger.compare(stored_events(self._server.db))
        assert verdict == (number, 0, 0, 0), verdict
        after = json.loads(self.command("status", "--json"))
        assert (after["accepted"], after["delivered"], after["pending"]) == (number, number, 0)
        row = {"host": "short script", "mode": mode, "answered": number, "workers": number, "events": verdict.stored}
        row |= {"lost": verdict.lost, "doubled": verdict.duplicates, "stop": statistics.median(self._ends)}
        rows.write(row)


@pytest.fixture
def cron(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with ServerProcess(tmp_path) as server:
        yield lambda **options: (server, Cron(server, tmp_path, **options))


Begin = Callable[..., tuple[ServerProcess, Cron]]


def test_short_with_flush(cron: Begin) -> None:
    """With flush_events each event is at the server when its script has ended, and that is soon."""
    _, scripts = cron(flush=True, flush_timeout=PATIENCE)
    idle, took = scripts.idle("requests"), []
    for number in range(NUMBER):
        took.append(scripts.run())
        assert scripts.stored() == number + 1
    assert min(took) < idle + SOON
    scripts.account("flush_events on")


def test_short_without_flush(cron: Begin) -> None:
    """Without it nothing waits, and what is left on disk the next process that leads delivers, whoever it is."""
    _, scripts = cron(flush=False)
    idle = scripts.idle()
    assert min(scripts.run() for _ in range(NUMBER)) < idle + SOON
    next_one = "import hypotest; assert hypotest.flush(20)"
    subprocess.run([sys.executable, "-c", next_one], env=scripts.env, check=True, timeout=30)
    assert scripts.stored() == NUMBER
    scripts.account("flush_events off")


@pytest.mark.parametrize("flush", [True, False], ids=["flush", "no flush"])
@pytest.mark.parametrize("trouble", ["unreachable", "hung"])
def test_short_in_an_outage(cron: Begin, trouble: str, flush: bool) -> None:
    """An outage costs a script flush_timeout at most, and nothing without flush_events; no event is lost."""
    server, scripts = cron(flush=flush, flush_timeout=FLUSH_TIMEOUT)
    idle = scripts.idle("requests" if flush else "")  # whoever sends has it, and to take it down takes time
    server.kill() if trouble == "unreachable" else server.pause()
    took = min(scripts.run() for _ in range(NUMBER))
    assert took < idle + SOON + FLUSH_TIMEOUT * flush
    assert scripts.stored() == 0
    server.restart() if trouble == "unreachable" else server.resume()
    scripts.account(f"flush_events {'on' if flush else 'off'}, server {trouble}")


@pytest.mark.parametrize("flush", [True, False], ids=["flush", "no flush"])
def test_fifty_short_ones_in_a_row(cron: Begin, flush: bool) -> None:
    """One after the other: none waits for what another left, and nothing piles up."""
    server, scripts = cron(flush=flush, flush_timeout=PATIENCE)
    for _ in range(50):
        scripts.run()
    if flush:
        assert scripts.stored() == 50
    assert server.polls() <= 50
    scripts.account(f"flush_events {'on' if flush else 'off'}, 50 one after the other")


@pytest.mark.parametrize("flush", [True, False], ids=["flush", "no flush"])
def test_ten_short_ones_at_once(cron: Begin, flush: bool) -> None:
    """As cron starts them at the full minute, twice."""
    _, scripts = cron(flush=flush, flush_timeout=PATIENCE)
    for minute in (1, 2):
        with ThreadPoolExecutor(10) as threads:
            list(threads.map(scripts.run, range(10)))
        if flush:
            assert scripts.stored() == 10 * minute
    scripts.account(f"flush_events {'on' if flush else 'off'}, 10 at once, twice")
