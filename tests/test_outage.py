"""While the server is away: bounded, counted, and all of it delivered when it is back."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypotest import control, neighbours, statedir
from hypotest.config import Config
from hypotest.instance import Instance
from hypotest.post import Post
from hypotest.spool import Spool
from hypotest.survey import survey
from tests.http_host import TOKEN, LateHost
from tests.namespace import event_of
from tests.processes import Script, each_once, expect_each_once, run, said, sdk_env
from tests.server_process import DEADLINE, ServerProcess

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def test_the_cap_holds_in_an_outage(server: ServerProcess, tmp_path: Path) -> None:
    """Four processes that write as fast as they can pass the cap by what they open in a second; the rest is counted."""
    server.stop()
    source = """
def write(k):
    for i in range(30_000):
        hypotest.kpi_event(f"w{k}-{i}", user_id="u", tags={"t": "x" * 100})
join(*[child(lambda k=k: write(k)) for k in range(3)])
before = hypotest.status()
write("last")
status = hypotest.status()
assert status.refused["spool_full"] > 0, status
assert status.accepted - before.accepted + status.refused["spool_full"] - before.refused.get("spool_full", 0) == 30_000
say("accepted", status.accepted)
"""
    env = sdk_env(server, tmp_path / "state", max_spool_bytes=8 * MIB)
    output = run(source, env)
    spool = next((tmp_path / "state").glob("v1/*/spool"))
    assert sum(path.stat().st_size for path in spool.iterdir()) <= (8 + 4 * 6) * MIB
    accepted = int(said(output, "accepted"))
    server.restart()
    run("assert hypotest.flush(30)", env)
    assert len(set(server.event_ids())) == server.accounts()["events"] == accepted


def test_a_flush_that_outlives_the_outage(server: ServerProcess, tmp_path: Path) -> None:
    """flush() keeps asking a leader in trouble, and succeeds when the server comes back while it waits."""
    source = f"""
os.kill({server.pid}, signal.SIGSTOP)
keep("kept")
threading.Timer(2.0, os.kill, ({server.pid}, signal.SIGCONT)).start()
assert hypotest.flush(15), hypotest.status()
"""
    run(source, sdk_env(server, tmp_path / "state", connection_timeout=0.1))
    expect_each_once(server, "kept")


def test_configuring_the_leader_anew_sends_nothing_twice(server: ServerProcess, tmp_path: Path) -> None:
    """config() on the process that leads, again and again, while it sends: each event once, and the accounts add up."""
    source = """
for n in range(20):
    keep(f"n{n}", 500)
    hypotest.config(pull_interval=1 + n / 100)
assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
assert (status.accepted, status.delivered, status.dropped) == (10_000, 10_000, {}), status
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, *(f"n{n}" for n in range(20)), n=500)


def event(seconds_ago: float) -> bytes:
    """A payload with the time of an event that long ago."""
    return event_of(time.time() - seconds_ago, b',"event_type":"goal"')


def a_post(state: statedir.StateDir) -> Post:
    """One whose events are too old after 1,000 s."""
    page = control.open_control(state.path)
    return Post(Config(max_event_age=1000.0), state, page, Instance(), lambda _name, _run: None)


def test_events_of_another_namespace_age_by_both_clocks(tmp_path: Path) -> None:
    """What waits under an old token is dropped once it is too old, by its own time and by the leaders' clock."""
    mine, other = (statedir.prepare(str(tmp_path / "state"), name * 32) for name in "ab")
    page = control.open_control(other.path)
    page.words[control.LEADER_PID] = os.getpid()  # left by a leader that was killed
    spool = Spool(other.spool, 1 << 30, lambda: 0)
    for seconds_ago in (2000.0, 1500.0, 10.0):
        spool.append(event(seconds_ago))
    spool.close()
    post = a_post(mine)
    assert neighbours.visit(post, 0) == 3
    assert neighbours.visit(post, 600) == 3
    assert neighbours.visit(post, 600) == 1
    assert survey(other, {}).counters[10] == 2


def test_events_of_another_application_keep_for_as_long_as_it_wants(tmp_path: Path) -> None:
    """Its leader, which is away for a moment, had a longer `max_event_age` than the one that looks after them."""
    mine, other = (statedir.prepare(str(tmp_path / "state"), name * 32) for name in "ab")
    page = control.open_control(other.path)
    page.set_text(control.LEADER_CONFIG, '{"max_event_age":1700.0}')
    spool = Spool(other.spool, 1 << 30, lambda: 0)
    for seconds_ago in (2000.0, 1500.0, 10.0):
        spool.append(event(seconds_ago))
    spool.close()
    post = a_post(mine)
    assert [neighbours.visit(post, passed) for passed in (0, 1200, 600)] == [3, 3, 2]
    page.set_text(control.LEADER_CONFIG, '{"max_event_age":"damaged"}')
    assert neighbours.visit(post, 0) == 1


def test_more_files_than_a_leader_has_open_age_at_the_same_time(tmp_path: Path) -> None:
    """Of hundreds of files under an old token all begin to grow old when they are there, not when there is room."""
    mine, other = (statedir.prepare(str(tmp_path / "state"), name * 32) for name in "ab")
    control.open_control(other.path)
    for _ in range(300):
        spool = Spool(other.spool, 1 << 30, lambda: 0)
        spool.append(event(2000.0))
        spool.close()
    post = a_post(mine)
    assert neighbours.visit(post, 0) == 300
    left = [neighbours.visit(post, 1200)]
    while left[-1] and len(left) < 50:  # each takes a moment only, which on a slow machine is a few files
        left.append(neighbours.visit(post, 0))
    assert left[-1] == 0, left


def test_events_in_another_state_directory_are_reported_and_age(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that was used while the one that is named could not be: nobody leads there any more."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "named"))
    mine = statedir.prepare(str(tmp_path / "named"), "a" * 32)
    other = statedir.prepare(f"{home}/.local/state/hypotest", "a" * 32)
    control.open_control(other.path)
    spool = Spool(other.spool, 1 << 30, lambda: 0)
    spool.append(event(2000.0))
    spool.close()
    post = a_post(mine)
    assert neighbours.visit(post, 0) == 1
    assert f"to deliver them: hypotest drain --state-dir {other.root}\n" in caplog.text
    assert neighbours.visit(post, 1200) == 0


def test_a_lagging_settle_changes_nothing_after_a_handover(tmp_path: Path) -> None:
    """A leader that signs off while its sender waits for an answer leaves the batch to the next one."""
    source = """
keep("kept")
sys.stdin.readline()
hypotest.config(pull_interval=0.5)
keep("last")
assert hypotest.flush(20), hypotest.status()
senders = lambda: [thread for thread in threading.enumerate() if thread.name == "hypotest-sender"]
assert len(senders()) == 2, "the former leader's still waits"
say("settled")
until(lambda: len(senders()) == 1, "it has its answer")
for n in range(3):
    keep(f"more{n}")
    assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
assert (status.leaders, status.accepted, status.delivered, status.pending) == (2, 100, 100, 0), status
"""
    with LateHost() as host:
        env = sdk_env(None, tmp_path / "state", token=TOKEN, server_url=host.url, connection_timeout=10)
        with Script(source, env) as script:
            assert host.waiting.wait(DEADLINE), script.output()
            script.tell()
            script.wait_for("settled")
            host.answering.set()
            script.result()
        stored = set(host.goals)
        assert len(host.goals) > len(stored), "the next leader has sent the batch again"
        assert Counter(name for _, name in stored) == each_once("kept", "last", "more0", "more1", "more2")


def test_refusals_are_seen_by_all_and_survive_the_process(server: ServerProcess, tmp_path: Path) -> None:
    """What the cap refuses stands in a file: another process sees it, also after a kill, and after the outage."""
    server.stop()
    env = sdk_env(server, tmp_path / "state", max_spool_bytes=MIB, leader="off")
    source = """
for i in range(20_000):
    hypotest.kpi_event("k", user_id="u")
say("refused", hypotest.status().refused["spool_full"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Script(source, env) as script:
        refused = int(script.wait_for("refused").split()[1])
    assert refused > 1000
    assert f"'spool_full': {refused}" in run('say("seen", dict(hypotest.status().refused))', env)
    server.restart()
    ask = 'assert hypotest.flush(15)\nuntil(lambda: hypotest.status().spool_bytes == 0, "folded")\n'
    output = run(ask + 'say("seen", dict(hypotest.status().refused))', env | {"HT_LEADER": "auto"})
    assert said(output, "seen") == f"{{'spool_full': {refused}}}"


def test_a_poll_that_is_answered_makes_the_sender_try_again(server: ServerProcess, tmp_path: Path) -> None:
    """It waits for up to a minute after many failures; the poller is answered before, and then both go on."""
    server.stop()
    source = """
from hypotest import leadership
leadership.backoff = lambda failures, cap, at_least: 0.2 if cap == leadership_interval else 3600.0
leadership_interval = 0.3
keep("kept")
until(lambda: "refused" in hypotest.status().last_error, "trouble")
say("away")
until(lambda: hypotest.status().delivered == 20, "delivered")
until(lambda: not hypotest.status().last_error, "no trouble any more")
"""
    with Script(source, sdk_env(server, tmp_path / "state")) as script:
        script.wait_for("away")
        server.restart()
        script.result()
    expect_each_once(server, "kept")


def through_an_outage(server: ServerProcess, tmp_path: Path, first: str = "") -> str:
    """What a process prints that sees the server stop and go on; `first` runs in it before."""
    source = f"""{first}
assert hypotest.wait_until_ready(10)
os.kill({server.pid}, signal.SIGSTOP)
keep("kept")
until(lambda: hypotest.status().last_error, "an error")
os.kill({server.pid}, signal.SIGCONT)
until(lambda: not hypotest.status().last_error, "no error any more")
"""
    return run(source, sdk_env(server, tmp_path / "state", connection_timeout=0.1, pull_interval=3600))


def test_trouble_ends_with_the_outage(server: ServerProcess, tmp_path: Path) -> None:
    """The first batch that is acknowledged again clears the last error, whatever the pull interval."""
    assert "serves again" in through_an_outage(server, tmp_path)


def test_what_the_status_shows_is_in_the_log(server: ServerProcess, tmp_path: Path) -> None:
    """The line about trouble, or its end, comes before the status tells of it: who looks there finds it in the log."""
    output = through_an_outage(
        server,
        tmp_path,
        """
import logging
class Handler(logging.Handler):
    def emit(self, record):
        say("logged", repr(hypotest.status().last_error), record.getMessage())
logger = logging.getLogger("hypotest")
logger.addHandler(Handler())
logger.setLevel("INFO")
""",
    )
    logged = [line for line in output.splitlines() if line.startswith("logged")]
    shown = {what: line.split()[1] for line in logged for what in ("does not serve", "serves again") if what in line}
    assert shown["does not serve"] == "''"
    assert shown["serves again"] != "''"
