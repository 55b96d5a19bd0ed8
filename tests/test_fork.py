"""A process may fork at any moment: the parent and every child keep working, and every event arrives once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.http_host import TOKEN, LateHost
from tests.processes import Script, each_once, expect_each_once, run, sdk_env
from tests.server_process import DEADLINE, ServerProcess, wait_for

SCENARIOS = {
    "before the first call": (
        """
pid = child(lambda: keep("child"))
keep("parent")
join(pid)
""",
        ("parent", "child"),
    ),
    "after the first call": (
        """
keep("before")
assert hypotest.wait_until_ready(10)
pid = child(lambda: keep("child"))
keep("parent")
join(pid)
""",
        ("before", "parent", "child"),
    ),
    "from a thread": (
        """
keep("before")
def fork_here():
    pid = child(lambda: keep("child"))
    keep("thread")
    join(pid)
thread = threading.Thread(target=fork_here)
thread.start()
thread.join()
""",
        ("before", "thread", "child"),
    ),
    "twice in a row": (
        """
keep("before")
def body():
    keep("child")
    join(child(lambda: keep("grandchild")))
    keep("child again")
def quick():
    join(child(lambda: keep("grandchild of one that never called")))
pids = [child(body), child(quick)]
keep("parent")
join(*pids)
""",
        ("before", "child", "grandchild", "child again", "grandchild of one that never called", "parent"),
    ),
    "with its threads writing": (
        """
def write(k):
    for part in range(5):
        keep(f"writer{k}.{part}", 4)
threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
for thread in threads: thread.start()
pids = [child(lambda k=k: keep(f"child{k}", 4)) for k in range(4)]
for thread in threads: thread.join()
join(*pids)
""",
        (*(f"writer{k}.{part}" for k in range(8) for part in range(5)), *(f"child{k}" for k in range(4))),
    ),
    "with a child that leads after its parent": (
        """
keep("before")
until(lambda: hypotest.status().is_leader, "the parent leads")
def body():
    keep("child")
    os.kill(os.getppid(), signal.SIGKILL)
    until(lambda: hypotest.status().is_leader, "the child leads")
    assert hypotest.flush(10)
    say("led")
    os._exit(0)
if os.fork():
    time.sleep(30)
body()
""",
        ("before", "child"),
    ),
}
NO_HOOKS = "import logging, os  # as every host has\nos.register_at_fork = lambda **hooks: None\n"
FLUSH = """
assert hypotest.flush(15), hypotest.status()
say("flushed")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def play(server: ServerProcess, tmp_path: Path, scenario: str, first: str = "") -> None:
    source, labels = SCENARIOS[scenario]
    env = sdk_env(server, tmp_path / "state")
    if "SIGKILL" in source:
        with Script(source, env, first=first) as script:
            wait_for(lambda: "led" in script.lines, "the child leads")
    else:
        output = run(source + FLUSH, env, first=first)
        assert "flushed" in output
        assert "Traceback" not in output
    expect_each_once(server, *labels, n=4 if "keep(f" in source else 20)
    expect_apart(server.query("SELECT event_id, name FROM events"))


def expect_apart(events: Iterable[tuple[str, str]]) -> None:
    """Asserts of ids and names that no child has written to its parent's file: that goes well for some time."""
    writers: dict[bool, set[str]] = {True: set(), False: set()}
    for event_id, name in events:
        writers["child" in name].add(event_id.partition("-")[0])
    assert writers[True]
    assert writers[True].isdisjoint(writers[False])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_fork_loses_and_doubles_nothing(server: ServerProcess, tmp_path: Path, scenario: str) -> None:
    """Parent, children and grandchildren work on after os.fork."""
    play(server, tmp_path, scenario)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if "leads after" not in name])
def test_a_fork_whose_hooks_do_not_run_loses_and_doubles_nothing(
    server: ServerProcess, tmp_path: Path, scenario: str
) -> None:
    """The same where no at-fork hook of ours or of filelock runs: a child is told by its memory alone."""
    play(server, tmp_path, scenario, NO_HOOKS)


def test_a_master_that_forks_like_uwsgi(server: ServerProcess, tmp_path: Path) -> None:
    """In uWSGI's master, which forks behind the interpreter's back, no thread runs; its events and workers' arrive."""
    source = """
import types
master = os.getpid()
sys.modules["uwsgi"] = types.SimpleNamespace(worker_id=lambda: 0 if os.getpid() == master else 1)
keep("master")
assert threading.active_count() == 1
def worker(k):
    keep(f"worker{k}")
    assert hypotest.wait_until_ready(10)
    join(child(lambda: keep(f"child of worker{k}")))
    assert hypotest.flush(10)
join(*[child(lambda k=k: worker(k), raw_fork) for k in range(4)])
assert threading.active_count() == 1
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "master", *(f"{who}worker{k}" for k in range(4) for who in ("", "child of ")))


def test_a_fork_waits_for_the_leaders_import(server: ServerProcess, tmp_path: Path) -> None:
    """A fork while the leader's thread imports leaves no module lock behind: the child can import the same."""
    source = """
class Slow:
    entered = threading.Event()
    def find_spec(self, name, path=None, target=None):
        if name == "requests" and threading.current_thread() is not threading.main_thread():
            self.entered.set()
            time.sleep(0.3)
        return None
sys.meta_path.insert(0, Slow())
keep("before")
assert Slow.entered.wait(10)
def body():
    import requests, filelock
    keep("child")
    assert hypotest.wait_until_ready(10)
pid = child(body)
keep("parent")
join(pid)
"""
    run(source + FLUSH, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "before", "parent", "child")


@pytest.mark.parametrize(
    ("first", "fork"),
    [("", "os.fork"), (NO_HOOKS, "os.fork"), ("", "raw_fork")],
    ids=["hooks", "no hooks", "no hooks of logging either"],
)
def test_a_fork_while_a_thread_logs(server: ServerProcess, tmp_path: Path, first: str, fork: str) -> None:
    """A child can log although a thread of its parent held the locks of `logging` at the fork."""
    # All is quiet but that thread: one that waits for the interpreter at a fork without hooks stops Python itself.
    source = f"""
import logging
class Slow(logging.Handler):
    inside = threading.Event()
    def emit(self, record):
        if threading.current_thread().name == "slow":
            self.inside.set()
            time.sleep(0.5)
logging.getLogger("hypotest").addHandler(Slow())
logging.getLogger("hypotest").setLevel("DEBUG")
keep("before")
assert hypotest.flush(15)
threading.Thread(target=logging.getLogger("hypotest").info, args=("slowly",), name="slow").start()
assert Slow.inside.wait(10)
def body():
    hypotest.experiment("unheard of", user_id="u")  # logs
    hypotest.config(pull_interval=-1)  # logs
    keep("child")
pid = child(body, {fork})
keep("parent")
join(pid)
"""
    run(source + FLUSH, sdk_env(server, tmp_path / "state", pull_interval=30, send_interval=30), first=first)
    expect_each_once(server, "before", "parent", "child")


@pytest.mark.parametrize("first", ["", NO_HOOKS], ids=["hooks", "no hooks"])
def test_a_fork_while_the_leader_sends(tmp_path: Path, first: str) -> None:
    """A child keeps events while its parent's sender is in the middle of a request, and nothing is sent twice."""
    source = """
keep("before")
sys.stdin.readline()
pids = [child(lambda k=k: keep(f"child{k}")) for k in range(3)]
keep("parent")
join(*pids)
say("joined")
"""
    with LateHost() as host:
        env = sdk_env(None, tmp_path / "state", token=TOKEN, server_url=host.url, connection_timeout=10)
        with Script(source + FLUSH, env, first=first) as script:
            assert host.waiting.wait(DEADLINE), script.output()
            script.tell()
            script.wait_for("joined")
            assert not host.goals, "the parent is still in its request"
            host.answering.set()
            script.result()
        assert Counter(name for _, name in host.goals) == each_once("before", "parent", "child0", "child1", "child2")
        expect_apart(host.goals)


def test_two_threads_make_the_first_calls_of_a_child(server: ServerProcess, tmp_path: Path) -> None:
    """The one that turns from what was inherited may be held up: it must not close what the other has opened since."""
    source = """
from hypotest import lock, runtime
until(lambda: hypotest.status().is_leader, "leads")
def first_calls():
    hypotest.config(token="child")  # a namespace of its own, in which it leads at once
    abandon, held_up, goes_on = runtime._abandon, threading.Event(), threading.Event()
    def late(inherited):
        held_up.set()
        assert goes_on.wait(20)
        abandon(inherited)
    runtime._abandon = late
    thread = threading.Thread(target=runtime.current)
    thread.start()
    assert held_up.wait(20)
    runtime._abandon = abandon
    campaign = runtime.current().campaign
    until(lambda: campaign.leading, "the child leads")
    goes_on.set()
    thread.join()
    assert campaign.leading and campaign._lock.held()
join(child(first_calls))
"""
    run(source, sdk_env(server, tmp_path / "state"))


def test_a_child_does_not_keep_its_dead_parents_lock(server: ServerProcess, tmp_path: Path) -> None:
    """When a leader is killed whose idle child lives on, another process takes over: the child holds no lock."""
    source = """
keep("before")
until(lambda: hypotest.status().is_leader, "the parent leads")
parent = os.getpid()
if os.fork() == 0:      # an idle child, which never calls the SDK
    time.sleep(60)
    os._exit(0)
if os.fork() == 0:      # another, which sees the parent die
    keep("child")
    os.kill(parent, signal.SIGKILL)
    until(lambda: hypotest.status().is_leader, "the child leads", 10)
    assert hypotest.flush(10)
    say("led")
    os._exit(0)
time.sleep(60)
"""
    with Script(source, sdk_env(server, tmp_path / "state")) as script:
        wait_for(lambda: "led" in script.lines, "the child leads")
    expect_each_once(server, "before", "child")


def test_first_calls_import_nothing_in_the_thread_that_calls(server: ServerProcess, tmp_path: Path) -> None:
    """A fork may have begun before them, and go on in the middle: what they import would be locked in the child."""
    source = """
import importlib.abc
imported = []

class Witness(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            imported.append(name)

sys.meta_path.insert(0, Witness())
hypotest.experiment("germans", visitor_id="v", tags={"country": "DE"})
hypotest.match_user_visitor("u", "v")
keep("first")
assert hypotest.wait_until_ready(15)
assert hypotest.experiment("germans", visitor_id="v", tags={"country": "DE"})
assert not imported, imported
assert hypotest.flush(15)
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "first")


def test_a_fork_while_the_campaign_opens_its_lock(server: ServerProcess, tmp_path: Path) -> None:
    """No child gets the descriptor, and with it the lock of a parent that dies."""
    source = """
from hypotest import platform
opened, real = threading.Event(), platform.open_own
def slow(path, flags):
    fd = real(path, flags)
    if path.endswith("leader.lock"):
        opened.set()
        time.sleep(0.3)  # a slow disk
    return fd
platform.open_own = slow
keep("parent")
assert opened.wait(10)
def body():
    held = [name for name in os.listdir("/proc/self/fd") if "leader.lock" in link(name)]
    assert held == [], held
def link(name):
    try:
        return os.readlink("/proc/self/fd/" + name)
    except OSError:
        return ""
join(child(body))
"""
    run(source + FLUSH, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "parent")


def test_a_fork_while_a_segment_is_made(server: ServerProcess, tmp_path: Path) -> None:
    """By a signal handler, and the child goes on with the call: it writes nothing into the parent's file."""
    source = """
from hypotest import platform
real, (waits, goes), parent = platform.preallocate, os.pipe(), os.getpid()
def cut(fd, size):
    platform.preallocate = real
    if os.fork() == 0:
        os.close(goes)
        os.read(waits, 1)
    return real(fd, size)
platform.preallocate = cut
keep("cut", 1)
if os.getpid() != parent:
    os._exit(0)
keep("parent", 1)
os.close(goes)
os.wait()
"""
    run(source + FLUSH, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "cut", "parent", n=1)
