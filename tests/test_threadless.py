"""Where the host lets no thread of ours run, or not yet: uWSGI's master, uWSGI without threads, and a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Script, expect_each_once, run, sdk_env
from tests.server_process import ServerProcess, wait_for

UWSGI = """
import sys, types
worker = types.SimpleNamespace(id=1, threads=1)
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
sys.modules["uwsgi"].worker_id = lambda: worker.id
def threads_of_ours():
    import threading
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("hypotest"))
"""
STANDSTILL = UWSGI + "sys.modules['uwsgi'].has_threads = 0\n"
AGENT = """
until(lambda: hypotest.status().is_leader, "leads")
say("leads")
sys.stdin.readline()
"""
COMPLAINT = "no thread of ours moves in uWSGI without enable-threads, and nobody leads"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def test_a_process_whose_threads_stand_still_never_leads(server: ServerProcess, tmp_path: Path) -> None:
    """It keeps events, starts no thread and leaves the lock to others, and says once what to do."""
    source = """
keep("before")
assert not hypotest.wait_until_ready(1.3)  # longer than any process that may lead would wait
keep("after")
assert threads_of_ours() == [], threads_of_ours()
status = hypotest.status()
assert (status.accepted, status.leader_pid, status.leaders, status.silence) == (40, 0, 0, None), status
"""
    output = run(source, sdk_env(server, tmp_path / "state"), first=STANDSTILL)
    assert output.count(COMPLAINT) == 1, output
    assert server.polls() == 0


def test_a_process_whose_threads_stand_still_is_served_by_an_agent(server: ServerProcess, tmp_path: Path) -> None:
    """Another process delivers its events and brings it settings, old and new, and it has nothing to complain of."""
    env = sdk_env(server, tmp_path / "state")
    worker = """
say("served" if hypotest.wait_until_ready(10) else "alone")
keep("event")
assert hypotest.flush(10)
before = hypotest.status().generation
say("asks")
sys.stdin.readline()
until(lambda: hypotest.status().generation > before, "the new settings")
assert hypotest.experiment("new", user_id="u", report_event=False).is_b
assert threads_of_ours() == [], threads_of_ours()
"""
    with Script(
        'until(lambda: hypotest.status().is_leader, "leads")\nsay("leads")\nsys.stdin.readline()', env
    ) as agent:
        agent.wait_for("leads")
        with Script(worker, env, first=STANDSTILL) as script:
            script.wait_for("asks")
            server.set_experiments({"new": {"variants": {"b": 1.0}}})
            script.tell()
            output = script.result()
        agent.tell()
        agent.result()
    assert "served" in output
    assert COMPLAINT not in output
    expect_each_once(server, "event")


def test_a_leader_that_is_gone_is_missed(server: ServerProcess, tmp_path: Path) -> None:
    """When the agent of a process whose threads stand still dies, the next events say so."""
    env = sdk_env(server, tmp_path / "state")
    worker = "for line in sys.stdin:\n    keep(line.strip(), 1)\n    say('kept')"
    with Script(AGENT, env) as agent:
        agent.wait_for("leads")
        with Script(worker, env, first=STANDSTILL) as script:
            script.tell("first")
            script.wait_for("kept")
            agent.kill()

            def complains() -> bool:
                script.tell("more")
                return COMPLAINT in script.output()

            wait_for(complains, "the line")


@pytest.mark.parametrize("call", ['hypotest.experiment("e", user_id="u", report_event=False)', "hypotest.status()"])
def test_a_process_that_becomes_a_worker_after_its_first_call(server: ServerProcess, tmp_path: Path, call: str) -> None:
    """uWSGI without a master loads the application before it calls itself a worker: the next call starts the thread."""
    source = f"""
worker.id = 0
keep("loading")
{call}
assert threads_of_ours() == [], threads_of_ours()
worker.id = 1
{call}
assert threads_of_ours() == ["hypotest-campaign"], threads_of_ours()
until(lambda: hypotest.status().is_leader, "leads")
assert hypotest.flush(10)
"""
    assert COMPLAINT not in run(source, sdk_env(server, tmp_path / "state"), first=UWSGI)
    expect_each_once(server, "loading")


@pytest.mark.parametrize("who", ["mule_id", "i_am_the_spooler"])
def test_a_process_beside_the_workers_may_lead(server: ServerProcess, tmp_path: Path, who: str) -> None:
    """A mule or a spooler of uWSGI is no worker, as the master is none, but it forks nobody: it gets its thread."""
    source = f"""
worker.id = 0
sys.modules["uwsgi"].{who} = lambda: 1
keep("event")
until(lambda: hypotest.status().is_leader, "leads")
assert hypotest.flush(10)
"""
    run(source, sdk_env(server, tmp_path / "state"), first=UWSGI)
    expect_each_once(server, "event")


def test_threads_that_come_at_once_start_one_campaign(server: ServerProcess, tmp_path: Path) -> None:
    """When the first requests of such a process come at once, one thread of ours starts."""
    source = """
sys.setswitchinterval(1e-6)
worker.id = 0
keep("loading")
gate = threading.Barrier(9)
def request(k):
    gate.wait()
    keep(f"request{k}")
threads = [threading.Thread(target=request, args=(k,)) for k in range(8)]
for thread in threads: thread.start()
worker.id = 1
gate.wait()
for thread in threads: thread.join()
assert threads_of_ours().count("hypotest-campaign") == 1, threads_of_ours()
assert hypotest.flush(10)
"""
    run(source, sdk_env(server, tmp_path / "state"), first=UWSGI)
    expect_each_once(server, "loading", *(f"request{k}" for k in range(8)))
