"""One leader, whatever dies: another takes over within a second, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from hypotest.lock import LeaderLock
from hypotest.statedir import namespace_of
from tests.processes import WORKER, Script, expect_each_once, goal_counts, leader_pid, run, sdk_env
from tests.server_process import ServerProcess, wait_for

FORMER_LEADER = """
import gc; gc.disable()
from hypotest import runtime
from tests.faults.bytecodes import open_paths
until(lambda: hypotest.status().is_leader, "leads")
say("leads")
sys.stdin.readline()
sources = runtime.current().campaign._leadership._backlog._sources
until(lambda: any(source.orphan for source in sources.values()), "holds the segment of the dead one")
del sources
hypotest.config(leader="off")  # no status() from here on: it would look into the file, and so drop the lock
until(lambda: not any(path.endswith(".seg") for path in open_paths()), "has closed it")
say("closed")
sys.stdin.readline()
"""
"""Leads until it is told not to; then it holds the lock of a segment whose writer is dead."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


BLIND = "import hypotest.watch; hypotest.watch.pid_space = lambda: 0\n"
"""Begins a process whose kernel does not tell it when the leader ends."""


@pytest.mark.parametrize("first", ["", BLIND], ids=["told by the kernel", "by the heartbeat"])
def test_another_process_leads_after_each_kill(server: ServerProcess, tmp_path: Path, first: str) -> None:
    """The leader is SIGKILLed ten times among six processes: another one polls; how soon, the benchmark tells."""
    env = sdk_env(server, tmp_path / "state")
    delays = []
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Script(WORKER, env, first=first)) for _ in range(6)]
        for worker in workers:
            worker.wait_for("ready")
        for _ in range(10):
            leader = next(worker for worker in workers if worker.pid == leader_pid(server, tmp_path))
            polls = server.polls()
            killed = time.monotonic()
            leader.kill()
            wait_for(lambda seen=polls: server.polls() > seen, "another process polls")
            delays.append(time.monotonic() - killed)
            wait_for(lambda dead=leader: leader_pid(server, tmp_path) not in (0, dead.pid), "another process leads")
            workers.remove(leader)
            workers.append(stack.enter_context(Script(WORKER, env, first=first)))
            workers[-1].wait_for("ready")
        pids = [worker.pid for worker in workers]
    print(f"takeover: median {statistics.median(delays):.2f} s, worst {max(delays):.2f} s")
    run("assert hypotest.flush(15)", env)
    counts = goal_counts(server)
    assert set(counts.values()) == {1}
    assert {f"worker{pid}-4" for pid in pids} <= counts.keys()
    assert len(counts) == 16 * 5


def test_a_host_polls_once_an_interval(server: ServerProcess, tmp_path: Path) -> None:
    """Eight processes make the polls of one."""
    env = sdk_env(server, tmp_path / "state", pull_interval=0.5)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Script(WORKER, env)) for _ in range(8)]
        for worker in workers:
            worker.wait_for("ready")
        started, first = time.monotonic(), server.polls()
        wait_for(lambda: server.polls() >= first + 6, "six more polls")
        passed = time.monotonic() - started
    assert passed >= 5 * 0.5


def test_a_change_reaches_every_worker(server: ServerProcess, tmp_path: Path) -> None:
    """A published generation is what every worker serves at its next call."""
    env = sdk_env(server, tmp_path / "state")
    source = """
assert hypotest.wait_until_ready(10)
say("ready")
before = hypotest.experiment("button", visitor_id="v", report_event=False).variant
until(lambda: hypotest.experiment("button", visitor_id="v", report_event=False).variant == "new", "the change")
say("changed")
"""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Script(source, env)) for _ in range(4)]
        for worker in workers:
            worker.wait_for("ready")
        server.set_experiments({"button": {"variants": {"new": 1.0}}})
        for worker in workers:
            worker.wait_for("changed")
            worker.result()


def test_a_stopped_leader_delays_and_loses_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """A leader under SIGSTOP keeps its lock: others keep events, say so once, and all arrives when it moves again."""
    env = sdk_env(server, tmp_path / "state")
    with Script(WORKER, env) as leader:
        leader.wait_for("ready")
        wait_for(lambda: leader_pid(server, tmp_path) == leader.pid, "it leads")
        with Script(WORKER, env) as follower:
            follower.wait_for("ready")
            os.kill(leader.pid, signal.SIGSTOP)
            follower.tell("while stopped")
            follower.wait_for("kept")
            wait_for(lambda: "does not move" in follower.output(), "a line in the log")
            assert "while stopped-0" not in goal_counts(server)
            os.kill(leader.pid, signal.SIGCONT)
            wait_for(lambda: "while stopped-4" in goal_counts(server), "the events arrive")
            assert follower.output().count("does not move") == 1
    assert set(goal_counts(server).values()) == {1}


def test_an_unlinked_lock_file_does_not_leave_two_leaders(server: ServerProcess, tmp_path: Path) -> None:
    """A leader whose lock file was deleted or replaced steps down."""
    env = sdk_env(server, tmp_path / "state")
    with Script(WORKER, env) as first:
        first.wait_for("ready")
        wait_for(lambda: leader_pid(server, tmp_path) == first.pid, "it leads")
        (tmp_path / "state" / "v1" / namespace_of(server.url, server.token) / "leader.lock").unlink()
        first.wait_for(time.strftime("%Y"))
        wait_for(lambda: "stepping down" in first.output(), "it notices")
        wait_for(lambda: leader_pid(server, tmp_path) == first.pid, "it is elected anew")


IDLE_CHILD = """
until(lambda: hypotest.status().is_leader, "leads")
pid = raw_fork()
if not pid:
    signal.pause()
say("forked", pid)
sys.stdin.readline()
"""
"""Leads, and has a child without fork hooks that never calls the SDK."""


@pytest.mark.parametrize("end", ["hypotest.config(leader='off')", "pass"], ids=["steps down", "exits"])
def test_an_idle_child_keeps_no_lock_of_a_leader_that_ends_in_order(
    server: ServerProcess, tmp_path: Path, end: str
) -> None:
    """The leader takes its lock back itself: the child has the same descriptor, and does nothing with it."""
    env = sdk_env(server, tmp_path / "state")
    waits = "" if end == "pass" else "\nsys.stdin.readline()"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Script(IDLE_CHILD + end + waits, env))
        first.wait_for("forked")
        other = stack.enter_context(Script(WORKER, env))
        other.wait_for("ready")
        first.tell()
        wait_for(lambda: leader_pid(server, tmp_path) == other.pid, "another leads")


def test_a_leader_that_steps_down_holds_no_segment(server: ServerProcess, tmp_path: Path) -> None:
    """Its successor, another process, can tell that the writer of one is dead; no collection of garbage is needed."""
    env = sdk_env(server, tmp_path / "state")
    with contextlib.ExitStack() as stack:
        former = stack.enter_context(Script(FORMER_LEADER, env))
        former.wait_for("leads")
        dead = stack.enter_context(Script(WORKER, env))
        dead.wait_for("ready")
        server.kill()
        dead.tell("late")
        dead.wait_for("kept")
        dead.kill()
        former.tell()
        former.wait_for("closed")
        server.restart()
        spool = tmp_path / "state" / "v1" / namespace_of(server.url, server.token) / "spool"
        orphans = set(spool.iterdir())
        successor = stack.enter_context(Script(WORKER, env))
        successor.wait_for("ready")
        wait_for(lambda: not orphans & set(spool.iterdir()), "what the dead one left is deleted")
    expect_each_once(server, "late", f"worker{dead.pid}", f"worker{successor.pid}", n=5)


def test_a_follower_that_may_not_lead(server: ServerProcess, tmp_path: Path) -> None:
    """With HT_LEADER=off a process keeps events and never polls; one that may lead delivers them."""
    state = tmp_path / "state"
    run('keep("off")\nassert not hypotest.flush(1)', sdk_env(server, state, leader="off"))
    assert server.polls() == 0
    run("assert hypotest.flush(10)", sdk_env(server, state))
    expect_each_once(server, "off")


def test_an_orderly_exit_signs_off(server: ServerProcess, tmp_path: Path) -> None:
    """A leader that exits leaves the lock free and says so, so that the next one need not wait for silence."""
    run('keep("first")\nassert hypotest.flush(10)', sdk_env(server, tmp_path / "state"))
    assert leader_pid(server, tmp_path) == 0


def test_a_lock_whose_descriptor_the_host_closed_is_not_closed_again(tmp_path: Path) -> None:
    """A host that becomes a daemon closes all descriptors; the next file that it opens has the number of ours."""
    lock = LeaderLock(str(tmp_path / "leader.lock"))
    assert lock.acquire()
    with open(os.devnull) as theirs:
        number = os.dup2(theirs.fileno(), lock._fd)
        assert not lock.held()
        lock.release()
        os.close(number)
    again = LeaderLock(lock.path)
    assert again.acquire()
    again.release()


def test_filelock_contends_with_the_leader(server: ServerProcess, tmp_path: Path) -> None:
    """Whoever holds leader.lock by the filelock library keeps everyone else from leading."""
    env = sdk_env(server, tmp_path / "state")
    run('keep("one")\nassert hypotest.flush(10)', env)
    path = tmp_path / "state" / "v1" / namespace_of(server.url, server.token) / "leader.lock"
    with FileLock(path):
        polls = server.polls()
        run('keep("two")\nassert not hypotest.flush(1)', env)
        assert server.polls() == polls
    run("assert hypotest.flush(10)", env)
    expect_each_once(server, "one", "two")


def test_a_follower_whose_host_left_the_lock_of_imports_taken(server: ServerProcess, tmp_path: Path) -> None:
    """As a signal handler that raises in a hook of a fork does: who has leader.lock must come to lead all the same."""
    env = sdk_env(server, tmp_path / "state")
    source = """
from hypotest import lazy
assert hypotest.wait_until_ready(10) and "hypotest.leadership" not in sys.modules
lazy.importing.acquire()
say("left taken")
until(lambda: hypotest.status().is_leader, "leads", 45)  # two modules, for each of which it waits 5 s
"""
    with Script(WORKER, env) as leading:
        leading.wait_for("ready")
        with Script(source, env) as follower:
            follower.wait_for("left taken")
            leading.process.kill()
            follower.result()


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gc, gevent
"""
KILLED = """
until(lambda: hypotest.status().is_leader, "leads")
gevent.killall([each for each in gc.get_objects() if isinstance(each, gevent.Greenlet)])
say("killed")
sys.stdin.readline()
"""


def test_a_leader_whose_greenlets_the_host_kills(server: ServerProcess, tmp_path: Path) -> None:
    """It steps down: its process lives on, and would keep all others from the lead."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    env = sdk_env(server, tmp_path / "state")
    with Script(KILLED, env, first=GREENLETS) as killed:
        killed.wait_for("killed")
        run('until(lambda: hypotest.status().is_leader, "leads")', env)
        killed.tell()
        killed.result()


def test_a_leader_that_can_start_no_more_threads(server: ServerProcess, tmp_path: Path) -> None:
    """At a limit of threads, or while the interpreter goes down, the campaign's own thread polls and sends."""
    source = """
start = threading.Thread.start
def limited(thread):
    if thread.name in ("hypotest-poller", "hypotest-sender"):
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = limited
keep("kept")
assert hypotest.wait_until_ready(10)
assert hypotest.flush(10)
assert hypotest.status().leaders == 1
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "kept")
