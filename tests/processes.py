"""Processes that use the SDK for real: scripts run in a fresh interpreter against a real server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from hypotest.statedir import namespace_of
from tests.server_process import DEADLINE, ServerProcess, clean_env, wait_for

PRELUDE = """
import ctypes, os, signal, sys, threading, time, traceback
import hypotest

def keep(label, n=20):
    for i in range(n):
        hypotest.kpi_event(f"{label}-{i}", user_id="u")

def child(body, fork=os.fork):
    pid = fork()
    if pid:
        return pid
    try:
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def join(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0, f"child {pid} failed"

def raw_fork():
    # As uWSGI forks: the interpreter is not told. PyDLL keeps the GIL, which the child inherits held. Of a thread that
    # has asked for it the child would wait for ever that it takes it: for a moment, none asks.
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    time.sleep(0.02)
    pid = ctypes.PyDLL(None).fork()
    sys.setswitchinterval(usual)
    return pid

def until(condition, what, deadline=20):
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one write: lines of several processes stay whole
"""

WORKER = """
keep(f"worker{os.getpid()}", 5)
assert hypotest.wait_until_ready(10)
say("ready")
while line := sys.stdin.readline():
    if line == "status\\n":
        s = hypotest.status()
        say("status", int(s.is_leader), s.generation, s.leaders)
    else:
        keep(line.strip(), 5)
        say("kept")
"""
"""Keeps events of its own, and then what it is told to, or tells its status."""


def sdk_env(server: ServerProcess | None, state_dir: Path | str | None, **options: object) -> dict[str, str]:
    """An environment in which the SDK talks to `server`: quick intervals, and `options` as HT_ variables."""
    env = clean_env() | {"HT_PULL_INTERVAL": "0.3", "HT_PULL_JITTER": "0", "HT_SEND_INTERVAL": "0.1"}
    if server is not None:
        env |= {"HT_TOKEN": server.token, "HT_SERVER_URL": server.url}
    if state_dir is not None:
        env["HT_STATE_DIR"] = str(state_dir)
    env |= {f"HT_{name.upper()}": str(value) for name, value in options.items()}
    return env | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


class Script:
    """A running script; its output is read as it comes. Ends with the context, and its process group with it."""

    def __init__(self, source: str, env: dict[str, str], *, first: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", first + PRELUDE + source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Script:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def output(self) -> str:
        """Everything printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, word: str, deadline: float = DEADLINE) -> str:
        """The first line that starts with `word`."""

        def found() -> str | None:
            line = next((line for line in self.lines if line.startswith(word)), None)
            if line is None and self.process.poll() is not None:
                self._reader.join(DEADLINE)
                line = next((line for line in self.lines if line.startswith(word)), None)
                assert line is not None, f"ended without {word!r}: {self.output()}"
            return line

        line: str = wait_for(found, f"{word!r} in: {self.output()}", deadline)
        return line

    def tell(self, line: str = "") -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def result(self, deadline: float = 3 * DEADLINE) -> str:
        """Waits for its end, which must be a good one, and returns its output."""
        try:
            status = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # of which faulthandler prints where each thread is
            self._reader.join(DEADLINE)
            raise AssertionError(f"hangs after: {self.output()}") from None
        self._reader.join(DEADLINE)
        output = self.output()
        assert status == 0, f"exit status {status}, and at last: {output[-2000:]}\n-- all of it: {output}"
        return output

    def kill(self) -> None:
        """SIGKILL, without a word."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ends the script and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def run(source: str, env: dict[str, str], *, first: str = "", deadline: float = 2 * DEADLINE) -> str:
    """Runs a script to its end and returns its output; `first` runs before the SDK is imported."""
    with Script(source, env, first=first) as script:
        return script.result(deadline)


def said(output: str, word: str) -> str:
    """What a script said after `word`; log lines of its threads may stand around it."""
    return next(line.removeprefix(f"{word} ") for line in output.splitlines() if line.startswith(f"{word} "))


def leader_pid(server: ServerProcess, directory: Path) -> int:
    """The pid on the control page, where the state is in `directory`/state."""
    page = directory / "state" / "v1" / namespace_of(server.url, server.token) / "control"
    with page.open("rb") as file:
        return int.from_bytes(file.read(32)[24:32], "little")


def goal_counts(server: ServerProcess) -> dict[str, int]:
    """How often each KPI event name stands in the server's database."""
    return dict(server.query("SELECT name, count(*) FROM events WHERE type = 'goal' GROUP BY name"))


def each_once(*labels: str, n: int = 20) -> dict[str, int]:
    """How often each KPI event name is there when each event of `keep(label)`, for every label, counts once."""
    return {f"{label}-{i}": 1 for label in labels for i in range(n)}


def expect_each_once(server: ServerProcess, *labels: str, n: int = 20) -> None:
    """Waits until `keep(label)` of every label is at the server, and asserts that each event counts once."""
    expected = each_once(*labels, n=n)
    wait_for(lambda: expected.keys() <= goal_counts(server).keys(), f"all events of {labels} at the server")
    assert goal_counts(server) == expected
