"""The agent as the only leader of a host: its signals, its supervisors, and readiness."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.examples import EXAMPLES, Example, need
from tests.processes import Script, expect_each_once, goal_counts, sdk_env
from tests.server_process import DEADLINE, ServerProcess, wait_for

WORKER = "import hypotest\nsay('up')\nfor line in sys.stdin:\n keep(line.strip())\n say('kept')\n"

POLLS_ONCE = {"HT_PULL_INTERVAL": "3600"}


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

    def __init__(
        self, env: dict[str, str], log: Path, before: str = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    ) -> None:
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
    """At SIGTERM, SIGINT and SIGHUP the agent says which it was, signs off and ends with status 0."""
    with Agent(env, tmp_path / "agent.log") as agent:
        wait_for(agent.leads, "it leads")
        assert agent.stop(number) == 0
        assert f"agent: pid {agent.pid} was told to stop by {number.name}\n" in agent.log()
        assert "Traceback" not in agent.log()
        assert "signed off" in status(env).stdout


def test_the_agent_outlives_its_terminal_under_nohup(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """A SIGHUP that is ignored when the agent starts stays ignored: it goes on to deliver."""
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with Agent(env, tmp_path / "agent.log", ignored) as agent, Script(WORKER, env) as worker:
        wait_for(agent.leads, "it leads")
        agent.process.send_signal(signal.SIGHUP)
        for label in ("one", "two"):
            worker.tell(label)
            wait_for(lambda label=label: f"{label}-19" in goal_counts(server), "it goes on")
        assert agent.stop(signal.SIGTERM) == 0
        assert "told to stop by SIGTERM" in agent.log()


def test_a_batch_under_way_is_finished_before_the_agent_ends(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """The server's answer to the last batch is waited for, so that the next agent does not send it again."""
    patient = "import hypotest.commands\nhypotest.commands._BATCH_GRACE = 60"  # the test may stand still for seconds
    with Agent(env | POLLS_ONCE, tmp_path / "first.log", patient) as agent, Script(WORKER, env) as worker:
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
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        # Established ones only: one that the other end has closed counts its end as a byte.
        if local.endswith(f":{port:04X}") and state == "01" and int(queues.partition(":")[2], 16):
            return True
    return False


def test_a_server_that_hangs_does_not_hold_the_agent_up(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """An agent that is told to stop ends within a bounded time; what was under way, the next one delivers."""
    slow = POLLS_ONCE | {"HT_CONNECTION_TIMEOUT": "600"}
    with Agent(env | slow, tmp_path / "agent.log") as agent, Script(WORKER, env) as worker:
        wait_for(agent.leads, "it leads")
        wait_for(server.polls, "it has polled")
        server.pause()
        worker.tell("kept")
        worker.wait_for("kept")
        wait_for(lambda: _bytes_unanswered(server.port), "a batch is under way")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(DEADLINE) == 0
        server.resume()
        with Agent(env, tmp_path / "second.log"):
            expect_each_once(server, "kept")


def test_with_flush_events_the_agent_sends_what_is_pending_before_it_ends(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """With flush_events nothing that was pending at the signal is left for another agent."""
    slow = {"HT_SEND_INTERVAL": "3600", "HT_FLUSH_EVENTS": "true"}
    with Agent(env | slow, tmp_path / "agent.log") as agent, Script(WORKER, env) as worker:
        wait_for(agent.leads, "it leads")
        for label in ("one", "two"):
            worker.tell(label)
        wait_for(lambda: worker.lines.count("kept") == 2, "events are pending")
        assert agent.stop() == 0
    assert goal_counts(server) == {f"{label}-{i}": 1 for label in ("one", "two") for i in range(20)}


def test_a_second_agent_waits_quietly_and_takes_over(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """A second agent says one line and does nothing until the first is dead; then it delivers."""
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


# --- readiness


def test_ready_means_settings_and_a_living_leader(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Events alone, a leader without settings and settings without a leader do not make a host ready."""
    assert status(env, "--ready").returncode == 1  # nothing has run
    with Script(WORKER, env) as worker:
        worker.tell("early")
        worker.wait_for("kept")
        assert status(env, "--ready").returncode == 1  # nobody leads
        server.kill()
        with Agent(env, tmp_path / "agent.log") as agent:
            wait_for(agent.leads, "it leads")
            wait_for(lambda: "does not serve" in agent.log(), "it has tried")
            assert status(env, "--ready").returncode == 1  # no settings
            server.start()
            wait_for(lambda: "settings: generation 1" in agent.log(), "settings arrive")
            wait_for(lambda: status(env, "--ready").returncode == 0, "it is ready")
            agent.process.kill()
            agent.process.wait()
            assert status(env, "--ready").returncode == 1  # settings, and nobody leads
    with Agent(env, tmp_path / "next.log"):
        expect_each_once(server, "early")


# --- supervisors


class Visitors:
    """Threads that visit and buy for as long as the context lasts; each request has a name of its own."""

    def __init__(self, shop: Example) -> None:
        self._shop = shop
        self._stop = threading.Event()
        self.served: list[str] = []
        self.failed: list[object] = []
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(3)]

    def __enter__(self) -> Visitors:  # noqa: PYI034 - Self needs Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _visit(self, number: int) -> None:
        for count in itertools.count():
            if self._stop.is_set():
                break
            name = f"{number}-{count}"
            try:
                self._shop.ask("GET", "/", name, "DE", headers={"X-Request-Id": name})
                self._shop.ask("POST", "/buy", name, "DE", headers={"X-Request-Id": name})
                self.served.append(name)
            except requests.RequestException as error:
                self.failed.append(error)
            self._stop.wait(0.002)

    def all_counted_once(self) -> None:
        """Waits until the server has what every request told, and asserts that it has it once."""
        assert self.failed == []
        told = ("buy_button", "newsletter_box", "purchase")
        expected = {(event, name): 1 for name in self.served for event in told}
        self._shop.wait_for(lambda: self._counted().keys() >= expected.keys(), "every event is at the server")
        assert self._counted() == expected
        ids = self._shop.server.event_ids()
        assert len(set(ids)) == len(ids) == len(expected)

    def _counted(self) -> dict[tuple[str, str], int]:
        query = "SELECT name, visitor_id, count(*) FROM events GROUP BY name, visitor_id"
        return {(event, name): count for event, name, count in self._shop.server.query(query)}


def led(log: str) -> list[int]:
    """The pids of those who led, in order."""
    return [int(pid) for pid in re.findall(r"leader: pid (\d+) polls and sends", log)]


def agents(log: str) -> list[int]:
    """The pids of the agents, in order."""
    return [int(pid) for pid in re.findall(r"agent: pid (\d+) campaigns", log)]


def newest_agent_leads(shop: Example, number: int) -> int:
    """Waits until that many agents have started and the newest of them leads; returns its pid."""

    def leads() -> int | None:
        pids = agents(shop.log())
        return pids[-1] if len(pids) == number and led(shop.log())[-1:] == pids[-1:] else None

    pid: int = shop.wait_for(leads, f"agent {number} leads")
    return pid


def kill_agents(shop: Example, times: int) -> None:
    """Kills the agent so often, each time once events have arrived through it, and waits for the next one."""
    for number in range(1, times + 1):
        pid = newest_agent_leads(shop, number)
        before = shop.server.accounts()["events"]
        shop.wait_for(lambda before=before: shop.server.accounts()["events"] > before, "events arrive through it")
        os.kill(pid, signal.SIGKILL)
    newest_agent_leads(shop, times + 1)


QUICK = {"HT_PULL_INTERVAL": "0.3", "HT_PULL_JITTER": "0", "HT_SEND_INTERVAL": "0.1"}


def test_under_supervisord_the_agent_leads_and_workers_never_do(tmp_path: Path) -> None:
    """Through kills of the agent and a change of the settings no request fails and each event is counted once."""
    need(("flask",), ("gunicorn", "supervisord"))
    with Example("agent", tmp_path, experiments="flask_gunicorn", env=QUICK) as shop:
        supervisord = shop.start("supervisord")
        shop.wait_for(lambda: (shop.answers("/worker") or {}).get("generation") == 1, "settings have arrived")
        with Visitors(shop) as visitors:
            kill_agents(shop, 3)
            shop.server.set_experiments(
                {"newsletter_box": {"variants": {"middle": 1.0}}, "buy_button": {"variants": ["b"]}}
            )
            shop.wait_for(lambda: len(workers_with(shop, 2)) == 4, "all workers have the change")
        visitors.all_counted_once()
        assert led(shop.log()) == agents(shop.log())
        shop.wait_for(lambda: shop.hypotest("status", "--ready").returncode == 0, "it is ready")
        assert shop.stop(supervisord) == 0
        assert "stopped: hypotest-agent (exit status 0)" in shop.log()
        assert shop.hypotest("drain").stdout.splitlines()[0] == "nothing is pending"


def workers_with(shop: Example, generation: int) -> set[object]:
    """The workers that answer with that generation, of those that some requests reach."""
    answers = [shop.ask("GET", "/worker") for _ in range(20)]
    assert not any(answer["is_leader"] for answer in answers)
    return {answer["pid"] for answer in answers if answer["generation"] == generation}


def test_as_a_daemon_of_uwsgi_the_agent_leads_and_workers_never_do(tmp_path: Path) -> None:
    """uWSGI starts a killed agent anew and stops the last one in order; each event is counted once."""
    need(("django",), ("uwsgi",))
    with Example("agent", tmp_path, experiments="django_uwsgi", env=QUICK) as shop:
        uwsgi = shop.start("HT_LEADER=off")
        shop.wait_for(lambda: shop.answers("/ready"), "settings have arrived")
        with Visitors(shop) as visitors:
            kill_agents(shop, 2)
        visitors.all_counted_once()
        assert led(shop.log()) == agents(shop.log())
        assert shop.stop(uwsgi) == 0
        assert f"agent: pid {agents(shop.log())[-1]} was told to stop by SIGTERM" in shop.log()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """systemd finds nothing to complain about in the units of the example."""
    for unit in EXAMPLES.glob("agent/*.service"):
        # It looks for the programs, but not for the user.
        text = re.sub(r"/opt/shop/venv/bin/\w+", "/bin/true", unit.read_text()).replace("/opt/shop", str(tmp_path))
        (tmp_path / unit.name).write_text(text)
    units = sorted(map(str, tmp_path.glob("*.service")))
    assert len(units) == 2
    verified = subprocess.run(["systemd-analyze", "verify", *units], check=False, capture_output=True, text=True)
    told = [line for line in verified.stderr.splitlines() if re.search(r"(hypotest-agent|shop)\.service", line)]
    assert (verified.returncode, told) == (0, []), verified.stderr


def test_the_unit_waits_for_settings_in_vain_for_a_bounded_time(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """The agent's unit waits for settings, but an outage of the server does not hold up what is ordered after it."""
    text = (EXAMPLES / "agent" / "hypotest-agent.service").read_text()
    waits = re.findall(r"^ExecStartPost=-(.*)$", text, re.MULTILINE)[0]
    waits = waits.replace("/opt/shop/venv/bin/hypotest", f"{sys.executable} -m hypotest").replace(" 10 ", " 2 ")
    server.kill()
    with Agent(env, tmp_path / "agent.log"):
        assert subprocess.run(shlex.split(waits), env=env, check=False).returncode == 124  # and systemd goes on
        server.start()
        wait_for(lambda: subprocess.run(shlex.split(waits), env=env, check=False).returncode == 0, "it is ready")


def test_agent_and_shop_of_the_units_share_user_directory_and_environment() -> None:
    """Agent and shop are one user's, with one state directory and one configuration, and only the agent leads."""
    agent, shop = (
        (EXAMPLES / "agent" / f"{name}.service").read_text().splitlines() for name in ("hypotest-agent", "shop")
    )
    for name in ("User", "Group", "StateDirectory", "StateDirectoryMode", "EnvironmentFile"):
        (line,) = [line for line in agent if line.startswith(f"{name}=")]
        assert line in shop
    assert "Environment=HT_STATE_DIR=%S/hypotest" in agent
    assert "Environment=HT_STATE_DIR=%S/hypotest HT_LEADER=off" in shop
