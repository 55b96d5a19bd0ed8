"""The agent as the only leader of a host: its signals, its supervisors, and readiness."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Script, expect_each_once, sdk_env
from tests.server_process import DEADLINE, ServerProcess, wait_for

WORKER = "import hypotest\nsay('up')\nfor line in sys.stdin:\n keep(line.strip())\n say('kept')\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    directory = tmp_path / "server"
    directory.mkdir()
    with ServerProcess(directory) as process:
        yield process


@pytest.fixture
def env(server: ServerProcess, tmp_path: Path) -> dict[str, str]:
    return sdk_env(server, tmp_path / "state", leader="off")


class Agent:
    """`hypotest agent` as a process; ends with the context."""

    def __init__(self, env: dict[str, str], log: Path, before: str = "") -> None:
        self.log_file = log
        program = f"import signal, sys\n{before}\nfrom hypotest.cli import main\nsys.exit(main(['agent']))"
        with log.open("wb") as output:
            self.process = subprocess.Popen([sys.executable, "-c", program], env=env, stdout=output, stderr=output)

    def __enter__(self) -> Agent:  # noqa: PYI034 - Self needs Python 3.11
        wait_for(lambda: "agent: pid " in self.log(), "the agent is at work")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_file.read_text()

    def leads(self) -> bool:
        return f"leader: pid {self.pid} polls and sends" in self.log()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def status(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hypotest", "status", *options]
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=DEADLINE)


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_agent_in_order(number: signal.Signals, env: dict[str, str], tmp_path: Path) -> None:
    with Agent(env, tmp_path / "agent.log") as agent:
        wait_for(agent.leads, "it leads")
        assert agent.stop(number) == 0
        assert f"agent: pid {agent.pid} was told to stop by {number.name}\n" in agent.log()
        assert "Traceback" not in agent.log()
        assert "signed off" in status(env).stdout


def test_the_agent_outlives_its_terminal_under_nohup(env: dict[str, str], tmp_path: Path) -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with Agent(env, tmp_path / "agent.log", ignored) as agent:
        wait_for(agent.leads, "it leads")
        agent.process.send_signal(signal.SIGHUP)
        assert agent.stop(signal.SIGTERM) == 0
        assert "told to stop by SIGTERM" in agent.log()


def test_a_batch_under_way_is_finished_before_the_agent_ends(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    with Agent(env, tmp_path / "first.log") as agent, Script(WORKER, env) as worker:
        wait_for(agent.leads, "it leads")
        wait_for(server.polls, "it has polled")
        server.pause()
        worker.tell("one")
        worker.wait_for("kept")
        wait_for(lambda: _bytes_unanswered(server.port), "a batch is under way")
        agent.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "told to stop" in agent.log(), "it has heard")
        server.resume()
        assert agent.process.wait(DEADLINE) == 0
        assert server.accounts()["events"]
        with Agent(env, tmp_path / "second.log"):
            worker.tell("two")
            expect_each_once(server, "one", "two")
    assert server.accounts()["duplicates"] == 0


def _bytes_unanswered(port: int) -> bool:
    """Whether the kernel holds bytes for the server that it has not read: a request it does not get to."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    words = [line.split() for line in lines]
    return any(word[1].endswith(f":{port:04X}") and int(word[4].split(":")[1], 16) for word in words)


def test_a_server_that_hangs_does_not_hold_the_agent_up(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    with Agent(env, tmp_path / "agent.log") as agent, Script(WORKER, env) as worker:
        wait_for(agent.leads, "it leads")
        wait_for(server.polls, "it has polled")
        server.pause()
        worker.tell("kept")
        worker.wait_for("kept")
        wait_for(lambda: _bytes_unanswered(server.port), "a batch is under way")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(8) == 0
        server.resume()
        with Agent(env, tmp_path / "second.log"):
            expect_each_once(server, "kept")


def test_a_second_agent_waits_quietly_and_takes_over(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    with Agent(env, tmp_path / "first.log") as first:
        wait_for(first.leads, "the first leads")
        with Agent(env, tmp_path / "second.log") as second, Script(WORKER, env) as worker:
            worker.tell("one")
            expect_each_once(server, "one")
            assert [line.partition("] ")[2].split(" pid ")[0] for line in second.log().splitlines()] == ["agent:"]
            first.process.kill()
            wait_for(second.leads, "the second leads")
            worker.tell("two")
            expect_each_once(server, "one", "two")
            assert second.stop() == 0
