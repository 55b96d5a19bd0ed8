"""Accepted means kept: what a killed process accepted is delivered by another, once."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Script, expect_each_once, goal_counts, run, said, sdk_env
from tests.server_process import ServerProcess, wait_for

EVENTS = 1000
LEADS = """
until(lambda: hypotest.status().is_leader, "leads")
say("leads")
sys.stdin.readline()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


@pytest.mark.parametrize("first_call", ["before the fork", "after the fork"])
def test_four_killed_workers_lose_nothing(server: ServerProcess, tmp_path: Path, first_call: str) -> None:
    """Four forked workers accept 4,000 events and are SIGKILLed at once; then one process drains all, each once."""
    source = f"""
if {first_call == "before the fork"}:
    hypotest.experiment("button", user_id="u", report_event=False)
def work(k):
    keep(f"w{{k}}", {EVENTS})
    say("done")
    time.sleep(60)
for k in range(4):
    child(lambda: work(k))
time.sleep(60)
"""
    server.stop()  # nothing may leave before the kill
    with Script(source, sdk_env(server, tmp_path / "state")) as script:
        wait_for(lambda: script.lines.count("done") == 4, "four workers are done")
    server.restart()
    assert server.accounts()["events"] == 0
    run("assert hypotest.flush(15)", sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "w0", "w1", "w2", "w3", n=EVENTS)


def test_kills_at_random_moments_lose_nothing_that_was_accepted(server: ServerProcess, tmp_path: Path) -> None:
    """Workers killed in the middle of their calls, leaders among them: what they had said they kept arrives once."""
    env = sdk_env(server, tmp_path / "state")
    source = """
n = 0
while True:
    keep(f"{os.getpid()}.{n}", 10)
    say("kept", f"{os.getpid()}.{n}")
    n += 1
"""
    said: set[str] = set()
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(Script(source, env)) for _ in range(2)]
            for worker in workers:
                worker.wait_for("kept")
            time.sleep(random.uniform(0, 0.1))  # any moment will do
            for worker in workers:
                worker.kill()
        for worker in workers:
            said |= {line.split()[1] for line in worker.lines if line.startswith("kept ")}
    run("assert hypotest.flush(30)", env)
    counts = goal_counts(server)
    assert set(counts.values()) == {1}
    assert {f"{label}-{i}" for label in said for i in range(10)} <= counts.keys()


def test_a_server_that_dies_after_committing_counts_once(server: ServerProcess, tmp_path: Path) -> None:
    """The server is SIGKILLed again and again while it receives: resent events are recognised."""
    env = sdk_env(server, tmp_path / "state")
    source = """
for n in range(200):
    keep(f"n{n}", 50)
    time.sleep(0.005)
say("done")
sys.stdin.readline()
"""
    with Script(source, env) as script:
        for _ in range(5):
            seen = server.accounts()["events"]
            wait_for(lambda before=seen: server.accounts()["events"] > before or "done" in script.lines, "progress")
            server.kill()
            server.restart()
        script.wait_for("done")
        script.tell()
        script.result()
    run("assert hypotest.flush(30)", env)
    expect_each_once(server, *(f"n{n}" for n in range(200)), n=50)


@pytest.mark.parametrize(
    "crash", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os.execv('/bin/true', ['true'])"]
)
def test_an_end_without_exit_handlers_loses_nothing(server: ServerProcess, tmp_path: Path, crash: str) -> None:
    """os._exit, SIGKILL and exec right after a call: the event is kept."""
    with contextlib.suppress(AssertionError):
        run(f'keep("last", 1)\n{crash}', sdk_env(server, tmp_path / "state"))
    run("assert hypotest.flush(10)", sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "last", n=1)


UNMAPPED = "from hypotest import platform\nplatform.mappable = lambda _: False\n"


@pytest.mark.parametrize("first", ["", UNMAPPED], ids=["mapped", "not mapped"])
def test_a_host_that_closes_all_descriptors_loses_nothing(server: ServerProcess, tmp_path: Path, first: str) -> None:
    """As one does that becomes a daemon: with them go the locks, and the leader takes the file for an orphan's."""
    env = sdk_env(server, tmp_path / "state", send_interval=0.1)
    source = """
keep("before", 1)
assert hypotest.flush(20)
os.closerange(3, 1000)
for n in range(16):
    keep(f"after{n}", 1)
    time.sleep(0.3)
assert hypotest.flush(20)
status = hypotest.status()
assert (status.accepted, status.delivered, status.pending) == (17, 17, 0), status
assert not any(status.dropped.values()), status
"""
    # The leader must not take it for one before the writer has looked, however long that stands still.
    patience = 'from hypotest.backlog import Backlog\nBacklog.__init__.__kwdefaults__["patience"] = 60\n'
    with Script(patience + LEADS, env) as leading:
        leading.wait_for("leads")
        run(source, {**env, "HT_LEADER": "off"}, first=first)
        expect_each_once(server, "before", *(f"after{n}" for n in range(16)), n=1)


@pytest.mark.parametrize("first", ["", UNMAPPED], ids=["mapped", "not mapped"])
def test_a_leader_whose_host_closes_all_descriptors(server: ServerProcess, tmp_path: Path, first: str) -> None:
    """It has lost its lock, steps down and leads again, whatever has got the numbers; what it had accepted arrives."""
    source = """
import socket
from hypotest import control, runtime
keep("before", 1)
assert hypotest.flush(20)
campaign, page = runtime.current().campaign, runtime.current().page
assert campaign.leading
os.closerange(3, 1000)
theirs = [socket.socket() for _ in range(30)]
until(lambda: page.words[control.EPOCH] == 2 and campaign.leading and campaign._lock.held(), "leads again")
for n in range(16):
    keep(f"after{n}", 1)
assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
assert (status.accepted, status.delivered, status.refused, status.dropped) == (17, 17, {}, {}), status
"""
    run(source, sdk_env(server, tmp_path / "state", send_interval=0.1), first=first)
    expect_each_once(server, "before", *(f"after{n}" for n in range(16)), n=1)


def test_flush_events_leaves_nothing_behind(server: ServerProcess, tmp_path: Path) -> None:
    """With flush_events an orderly exit right after the first call delivers what the process accepted."""
    run('keep("only")', sdk_env(server, tmp_path / "state", flush_events="true", flush_timeout=20, send_interval=60))
    assert len(goal_counts(server)) == 20


CONFIGURED = {
    "before a config()": """
hypotest.config(flush_events=True)
keep("kept")
hypotest.config(pull_interval=15)
""",
    "before a config(), with a call after it": """
hypotest.config(flush_events=True)
keep("kept")
hypotest.config(pull_interval=15)
hypotest.experiment("button", user_id="1", report_event=False)
""",
    "before a detour without a state": """
hypotest.config(flush_events=True)
keep("kept")
hypotest.config(connect_to_server=False)
hypotest.experiment("button", user_id="1", report_event=False)
hypotest.config(connect_to_server=True)
""",
    "before it was asked for": """
keep("kept")
hypotest.config(flush_events=True)
""",
}


@pytest.mark.parametrize("alone", [True, False], ids=["it leads itself", "another leads"])
@pytest.mark.parametrize("source", CONFIGURED.values(), ids=list(CONFIGURED))
def test_flush_events_waits_for_what_was_accepted_under_another_configuration(
    server: ServerProcess, tmp_path: Path, source: str, alone: bool
) -> None:
    """`config()` begins anew, and what was accepted until then is this process's all the same."""
    in_vain = alone and sys.version_info >= (3, 12)  # which may start no thread at exit: then nobody leads
    env = sdk_env(server, tmp_path / "state", send_interval=60, flush_timeout=3 if in_vain else 20)
    with contextlib.ExitStack() as stack:
        if not alone:
            leading = stack.enter_context(Script(LEADS, env))
            leading.wait_for("leads")
        output = run(source, env)
        if "exit: events of this process are not delivered yet; they are kept on disk" in output:
            assert in_vain
            run("assert hypotest.flush(20)", env)
        expect_each_once(server, "kept")


def test_flush_events_is_bounded(server: ServerProcess, tmp_path: Path) -> None:
    """With a server that does not answer, an orderly exit takes flush_timeout and says what it left."""
    server.pause()
    env = sdk_env(server, tmp_path / "state", flush_events="true", flush_timeout=0.5)
    output = run(
        'import atexit\natexit.register(lambda: say("bye", time.monotonic() - began))\n'
        'keep("only")\nbegan = time.monotonic()',
        env,
    )
    assert "not delivered yet" in output
    server.resume()
    run("assert hypotest.flush(10)", env)
    expect_each_once(server, "only")


def test_flush_is_bounded_while_the_leader_imports(server: ServerProcess, tmp_path: Path) -> None:
    """Flush waits for an import of the leader's thread, too, as long as it is told and no longer."""
    source = """
class Slow:
    entered = threading.Event()
    def find_spec(self, name, path=None, target=None):
        if name == "requests":
            self.entered.set()
            time.sleep(60)
        return None
sys.meta_path.insert(0, Slow())
keep("only")
assert Slow.entered.wait(10)
began = time.monotonic()
assert not hypotest.flush(0.5)
say("took", time.monotonic() - began)
"""
    server.pause()
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert float(said(output, "took")) < 20
    server.resume()
