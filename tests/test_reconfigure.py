"""config() at any moment, and other changes of what a process works with: nothing is lost, and one leader remains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import expect_each_once, run, sdk_env
from tests.server_process import ServerProcess

FLUSH = """
assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
assert (status.accepted, status.dropped) == (status.delivered, {}), status
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def test_config_again_and_again_leaves_nothing_open(server: ServerProcess, tmp_path: Path) -> None:
    """Files and mappings of the clients before are given back at once, also where the host has no collector."""
    source = """
import gc; gc.disable()
from tests.faults.bytecodes import descriptors
keep("first", 1)
assert hypotest.flush(20)
before = descriptors()
for n in range(20):
    hypotest.config(pull_interval=30 + n)
    keep(f"n{n}", 1)
until(lambda: descriptors() <= before + 12, "what was before is closed")
assert hypotest.flush(20)
"""
    run(source, sdk_env(server, tmp_path / "state"))


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1, 0.15])
def test_config_while_the_process_becomes_the_leader(server: ServerProcess, tmp_path: Path, delay: float) -> None:
    """However far the campaign has come when config() ends it, no leadership stays behind that nobody ends."""
    source = f"""
keep("first", 1)
time.sleep({delay})  # into the time that a new leader takes to load what it needs
hypotest.config(pull_jitter=0.25)
for n in range(6):
    keep(f"n{{n}}", 5)
    time.sleep(0.1)
until(lambda: hypotest.status().is_leader, "the new runtime leads")
names = sorted(thread.name for thread in threading.enumerate())
until(lambda: sum(t.name == "hypotest-campaign" for t in threading.enumerate()) == 1, "one campaign")
{FLUSH}"""
    run(source, sdk_env(server, tmp_path / "state"))
    assert len(set(server.event_ids())) == server.accounts()["events"] == 31


def test_config_that_changes_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """The same values again, say at every request, leave the process and its leadership as they are."""
    source = f"""
assert hypotest.wait_until_ready(10)
for _ in range(50):
    hypotest.config(pull_interval=0.3, flush_events=False)
    keep("same", 1)
assert hypotest.status().leaders == 1
assert len(os.listdir(hypotest.status().state_dir + "/spool")) == 1
{FLUSH}"""
    run(source, sdk_env(server, tmp_path / "state"))


def test_config_while_threads_write(server: ServerProcess, tmp_path: Path) -> None:
    """Eight threads in the middle of their calls while the process is configured anew: each event once."""
    source = f"""
def write(k):
    for part in range(20):
        keep(f"t{{k}}.{{part}}", 50)
threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
for thread in threads: thread.start()
n = 0
while any(thread.is_alive() for thread in threads):
    n += 1
    hypotest.config(pull_jitter=n / 1000)
    time.sleep(0.02)
for thread in threads: thread.join()
{FLUSH}"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, *(f"t{k}.{part}" for k in range(8) for part in range(20)), n=50)


def test_a_lost_control_page(server: ServerProcess, tmp_path: Path) -> None:
    """The control page deleted under the leader: it starts anew, and what it accepts from then on arrives."""
    source = """
keep("before")
assert hypotest.flush(10)
os.unlink(hypotest.status().state_dir + "/control")
until(lambda: os.path.exists(hypotest.status().state_dir + "/control"), "a new page")
for n in range(10):
    keep(f"n{n}", 5)
    time.sleep(0.1)
assert hypotest.flush(20), hypotest.status()
"""
    run(source, sdk_env(server, tmp_path / "state"))
    names = {row[0] for row in server.query("SELECT name FROM events")}
    assert {f"n{n}-{i}" for n in range(10) for i in range(5)} <= names
    assert len(set(server.event_ids())) == server.accounts()["events"] == 70


def test_lost_snapshots(server: ServerProcess, tmp_path: Path) -> None:
    """Snapshots deleted under the leader come back with the next poll, though the server's settings are unchanged."""
    source = """
import glob
assert hypotest.wait_until_ready(10)
generation = hypotest.status().generation
for path in glob.glob(hypotest.status().state_dir + "/settings-*"):
    os.unlink(path)
until(lambda: glob.glob(hypotest.status().state_dir + "/settings-*"), "a new snapshot")
until(lambda: hypotest.status().generation > generation, "a new generation")
"""
    run(source, sdk_env(server, tmp_path / "state"))


def test_a_signal_handler_that_flushes(server: ServerProcess, tmp_path: Path) -> None:
    """A handler may call what it interrupts: nothing waits for itself."""
    source = f"""
def handler(number, frame):
    hypotest.flush(0)
    hypotest.status()
    keep("handler", 1)
    if time.monotonic() < end:  # not by an interval: a handler that takes longer would interrupt itself for ever
        signal.setitimer(signal.ITIMER_REAL, 0.002)
signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 1
signal.setitimer(signal.ITIMER_REAL, 0.002)
while time.monotonic() < end:
    keep("main", 1)
    hypotest.status()
    hypotest.flush(0)
signal.setitimer(signal.ITIMER_REAL, 0)
{FLUSH}"""
    run(source, sdk_env(server, tmp_path / "state"))


def test_trouble_at_the_first_call_passes(server: ServerProcess, tmp_path: Path) -> None:
    """A process out of descriptors at its first call refuses and counts; when it has some again, it keeps events."""
    source = """
import resource
from hypotest import client
client._DISK_RETRY = 3600
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
keep("refused", 3)
for fd in taken:
    os.close(fd)
client._DISK_RETRY = 0
keep("one more", 1)
keep("kept", 5)
assert hypotest.flush(10), hypotest.status()
assert hypotest.status().refused == {"disk": 4}, hypotest.status()
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "kept", n=5)


def test_a_leadership_that_is_over_leaves_no_connection(server: ServerProcess, tmp_path: Path) -> None:
    """A process that leads again and again has the connections of the last time only."""
    source = """
import gc
gc.disable()  # connections must not wait for a collection

def link(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""

def sockets():
    return sum(link(fd).startswith("socket:") for fd in os.listdir("/proc/self/fd"))

keep("first")
assert hypotest.flush(15)
for n in range(5):
    hypotest.config(send_interval=0.1 + n / 100)
    keep(f"n{n}")
    until(lambda: hypotest.status().is_leader, "it leads again")
    assert hypotest.flush(15)
until(lambda: sockets() <= 2, f"{sockets()} sockets")
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "first", *(f"n{n}" for n in range(5)))


def test_config_while_another_thread_makes_the_first_call(tmp_path: Path) -> None:
    """What a call was built with before is not in force after config() has returned."""
    with ServerProcess(tmp_path, tokens=("test-token", "second-token")) as server:
        source = """
from hypotest import runtime
real = runtime.Client
def slow(*arguments):  # as a thread that is held up in its first call
    made, runtime.Client = real(*arguments), real
    hypotest.config(token="second-token")
    return made
runtime.Client = slow
keep("n", 5)
assert runtime.current().config.token == "second-token"
assert hypotest.flush(20)
"""
        run(source, sdk_env(server, tmp_path / "state"))
        assert server.accounts("second-token")["events"] == 5
        assert server.accounts("test-token")["events"] == 0


@pytest.mark.parametrize("then", ["hypotest.config(log_level='WARNING')", "child(lambda: keep('kept', 5))"])
def test_secrets_that_are_taken_out_of_the_environment(server: ServerProcess, tmp_path: Path, then: str) -> None:
    """So that no subprocess sees them: ids are hashed as before, and events go to the same server, with the token."""
    source = f"""
keep("before", 1)
for name in ("HT_TOKEN", "HT_SERVER_URL", "HT_HASH_IDS"):
    del os.environ[name]
pid = {then}
join(pid) if pid else keep("kept", 5)
assert hypotest.flush(20), hypotest.status()
"""
    run(source, sdk_env(server, tmp_path / "state", hash_ids="salt"))
    ids = {row[0] for row in server.query("SELECT user_id FROM events")}
    assert len(ids) == 1
    assert "u" not in ids
    assert server.accounts()["events"] == 6


def test_config_in_two_threads_at_once(server: ServerProcess, tmp_path: Path) -> None:
    """Each client is ended that is out of use: one left behind would lead on by what was configured before."""
    source = """
from hypotest import runtime
class Built(dict):  # the next call comes where a second thread that retires the same client has taken out the next one
    def pop(self, *args):
        taken = dict.pop(self, *args)
        if taken is not None:
            runtime._here.built = dict(self)
            threading.Thread(target=runtime.current).start()
            until(lambda: runtime._here.built, "there is a third client")
        return taken
first = runtime.current()
runtime.retire(first)
second = runtime.current()
runtime._here.built = Built(runtime._here.built)
runtime.retire(first)
third = runtime.current()
assert third not in (first, second) and first.campaign.stopping and second.campaign.stopping
keep("kept", 5)
until(lambda: sum(t.name == "hypotest-campaign" for t in threading.enumerate()) == 1, "one campaign")
assert hypotest.flush(20)
"""
    run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "kept", n=5)


def test_refusals_are_counted_once_over_configurations(server: ServerProcess, tmp_path: Path) -> None:
    """Also by a thread that is still in a call of the client before."""
    source = """
from hypotest import runtime
keep("first", 1)
before = runtime.current().spool
(writer,) = before._idle
before._idle.clear()  # a thread has it
for n in range(3):
    before.refuse("too_large")
hypotest.config(pull_interval=17)
keep("second", 1)
before._idle.append(writer)
before.append(b"x" * 60_000)  # it goes on, and opens another file
before.append(b"x" * 60_000)
refused = hypotest.status().refused
assert refused == {"too_large": 3}, refused
"""
    run(source, sdk_env(server, tmp_path / "state"))


def test_a_handler_that_configures_while_the_process_ends(server: ServerProcess, tmp_path: Path) -> None:
    """It may come in the midst of stepping down, in the same thread: the host ends all the same."""
    source = """
from hypotest.leadership import Leadership
real = Leadership.end
def interrupted(self):
    Leadership.end = real
    hypotest.config(pull_interval=77)  # as a signal handler would
    real(self)
Leadership.end = interrupted
keep("n", 5)
until(lambda: hypotest.status().is_leader, "leads")
"""
    run(source, sdk_env(server, tmp_path / "state"))
