"""Limits of the host: the application answers as ever, refusals are counted, and it goes on when a limit is lifted."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mounts import mounts
from tests.processes import PRELUDE, Script, expect_each_once, run, said, sdk_env
from tests.server_process import ServerProcess, wait_for

__all__ = ["mounts"]

APPLICATION = """
import json
def answers():
    return [hypotest.experiment("button", visitor_id=f"v{n}", report_event=False).variant for n in range(40)]
assert hypotest.wait_until_ready(10)
usual, offered = answers(), 0
assert {"control", "b"} == set(usual)

def serve(n, size=1000):
    # As a request does: an answer, and an event.
    global offered
    for i in range(n):
        if i % 100 == 0:
            assert answers() == usual, answers()
        hypotest.kpi_event("k", user_id="u", tags={"t": "x" * size})
    offered += n

def serve_until_refused(reason="disk"):
    until(lambda: serve(200) or hypotest.status().refused.get(reason), "refused")

def serve_until_kept():
    def kept():
        before = hypotest.status().accepted
        serve(1, 10)
        return hypotest.status().accepted > before
    until(kept, "kept again")

def settle():
    # The server has all that was accepted, each once, and the rest is counted.
    until(lambda: hypotest.flush(5), hypotest.status())
    status = hypotest.status()
    assert status.accepted + sum(status.refused.values()) == offered, (status, offered)
    assert status.pending == 0 and not status.dropped, status
    assert answers() == usual
    say("accepted", status.accepted)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def expect_accounts(server: ServerProcess, output: str) -> int:
    """Every event that the script accepted stands at the server, once; returns how many."""
    accepted = int(said(output, "accepted"))
    assert server.query("SELECT count(*), count(DISTINCT event_id) FROM events") == [(accepted, accepted)]
    assert "failed, the application goes on" not in output
    assert "Traceback" not in output, output
    return accepted


def limited(server: ServerProcess, env: dict[str, str], source: str, first: str = "") -> str:
    """Runs the application up to its limit and beyond it; the script may say `stop` and `go` to the server."""
    with Script(APPLICATION + source, env, first=first) as script:
        script.wait_for("stop")
        server.pause()
        script.tell()
        script.wait_for("go")
        server.resume()
        script.tell()
        output = script.result()
    expect_accounts(server, output)
    return output


STOP = 'say("stop"); sys.stdin.readline()\n'
GO = 'say("go"); sys.stdin.readline()\n'


def test_no_inode_left(server: ServerProcess, tmp_path: Path, mounts: str) -> None:
    """Where no file can be made, events are refused once the open ones are full, and answers stay; later both go on."""
    disk = tmp_path / "disk"
    source = f"""
disk = {str(disk)!r}
made = []
{STOP}
try:
    while True:
        made.append(f"{{disk}}/{{len(made)}}")
        open(made[-1], "w").close()
except OSError:
    made.pop()
serve_until_refused()
{GO}
for path in made:
    os.unlink(path)
serve_until_kept()
settle()
"""
    limited(server, sdk_env(server, disk / "state"), source, mounts + f"small_disk({str(disk)!r}, 'nr_inodes=60')\n")


def test_no_descriptor_left(server: ServerProcess, tmp_path: Path) -> None:
    """A process out of descriptors, which leads, answers and refuses; with descriptors again it keeps and delivers."""
    source = f"""
import resource
assert hypotest.flush(10)
{STOP}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
def take():
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
take()
until(lambda: serve(200) or take() or hypotest.runtime.current().spool._refuse_until[1], "refused")
{GO}
take()
for fd in taken:
    os.close(fd)
serve_until_kept()
settle()
"""
    limited(server, sdk_env(server, tmp_path / "state"), source)


def test_a_file_size_limit(server: ServerProcess, tmp_path: Path) -> None:
    """Where files may not grow, events are refused and new settings wait; without the limit both go on."""
    source = f"""
import resource
{STOP}
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
serve_until_refused()
{GO}
say("limited"); sys.stdin.readline()
assert answers() == usual
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
until(lambda: hypotest.experiment("new", user_id="u", report_event=False).is_b, "the new settings")
usual = answers()
serve_until_kept()
settle()
"""
    with Script(APPLICATION + source, sdk_env(server, tmp_path / "state")) as script:
        script.wait_for("stop")
        server.pause()
        script.tell()
        script.wait_for("go")
        server.resume()
        script.tell()
        script.wait_for("limited")
        server.set_experiments({"button": {"variants": ["control", "b"]}, "new": {"variants": {"b": 1.0}}})
        wait_for(lambda: "settings cannot be written" in script.output(), "a line in the log")
        script.tell()
        expect_accounts(server, script.result())


def test_no_room_for_a_mapping(server: ServerProcess, tmp_path: Path) -> None:
    """A process at its limit of memory answers, refuses by count, and goes on when there is memory again."""
    source = f"""
import mmap, resource
assert hypotest.flush(10)
{STOP}
spare = [b"x" * n for n in range(2000, 12_000)]  # for small objects: without memory even for these, orjson crashes
del spare[:-1]
used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), -1))
held = []
def take():
    size = 8 << 20
    while size >= 32 << 10:
        try:
            held.append(mmap.mmap(-1, size))
        except OSError:
            size //= 2
take()
until(lambda: take() or serve(200) or hypotest.status().refused.get("disk"), "refused")
{GO}
held.clear()
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
serve_until_kept()
settle()
"""
    limited(server, sdk_env(server, tmp_path / "state"), source)


@pytest.mark.parametrize(
    "deleted", ["spool", "quarantine", "control", "leader.lock", "settings-*.snap", "spool/*.seg", ".", "../.."]
)
def test_what_is_deleted_under_us(server: ServerProcess, tmp_path: Path, deleted: str) -> None:
    """Whatever of the state is deleted while two processes work, their answers stay as they are, and soon events and
    new settings arrive again, from and for both. A process that comes later finds them."""
    source = """
for line in sys.stdin:
    for _ in range(20):
        hypotest.kpi_event(f"{line.strip()}-{os.getpid()}", user_id="u")
    assert answers() == usual
    if hypotest.experiment("new", user_id="u", report_event=False).is_b:
        say("new")
    say(line.strip())
"""
    env = sdk_env(server, tmp_path / "state")
    with Script(APPLICATION + source, env) as one, Script(APPLICATION + source, env) as two:
        workers = (one, two)

        def tell(word: str) -> None:
            for worker in workers:
                worker.tell(word)
            for worker in workers:
                worker.wait_for(word)

        def arrived(word: str) -> bool:
            names = {row[0] for row in server.query("SELECT DISTINCT name FROM events")}
            return all(f"{word}-{worker.pid}" in names for worker in workers)

        tell("before")
        wait_for(lambda: arrived("before"), "events arrive")
        (namespace,) = (tmp_path / "state" / "v1").iterdir()
        found = list(namespace.glob(deleted)) if "*" in deleted else [(namespace / deleted).resolve()]
        assert found
        for path in found:  # a directory in one step: into one that is half gone, a process could write
            shutil.rmtree(path.rename(tmp_path / "gone")) if path.is_dir() else path.unlink()
        tell("while")
        server.set_experiments({"button": {"variants": ["control", "b"]}, "new": {"variants": {"b": 1.0}}})
        rounds = itertools.count()

        def again() -> bool:
            number = next(rounds)
            tell(f"after{number}")
            return all("new" in worker.lines for worker in workers) and any(arrived(f"after{n}") for n in range(number))

        wait_for(again, f"events and new settings arrive: {one.output()} {two.output()}")
        run(
            'assert hypotest.wait_until_ready(10)\nuntil(lambda: hypotest.status().leader_pid, "a leader is seen")', env
        )
        for worker in workers:
            assert "failed, the application goes on" not in worker.output()
            assert "Traceback" not in worker.output(), worker.output()


def test_a_file_system_that_turns_read_only(server: ServerProcess, tmp_path: Path, mounts: str) -> None:
    """Events are refused once the open files are full, settings stay; when it can be written again, both go on."""
    disk = tmp_path / "disk"
    source = f"""
disk = {str(disk)!r}
{STOP}
read_only(disk)
serve_until_refused()
{GO}
say("limited"); sys.stdin.readline()
assert answers() == usual
unmount(disk)
until(lambda: hypotest.experiment("new", user_id="u", report_event=False).is_b, "the new settings")
usual = answers()
serve_until_kept()
settle()
"""
    first = mounts + f"small_disk({str(disk)!r}, 'size=16m')\n"
    with Script(APPLICATION + source, sdk_env(server, disk / "state"), first=first) as script:
        script.wait_for("stop")
        server.pause()
        script.tell()
        script.wait_for("go")
        server.resume()
        script.tell()
        script.wait_for("limited")
        server.set_experiments({"button": {"variants": ["control", "b"]}, "new": {"variants": {"b": 1.0}}})
        script.tell()
        expect_accounts(server, script.result())


def test_orphans_by_the_thousand(server: ServerProcess, tmp_path: Path) -> None:
    """What 10,000 processes left behind is delivered, each event once, with a bounded number of descriptors."""
    env = sdk_env(server, tmp_path / "state")
    leave = """
import hypotest.spool
from hypotest import statedir
hypotest.spool._SMALLEST = 4096
state = statedir.prepare(os.environ["HT_STATE_DIR"], statedir.namespace_of(*sys.stdin.readline().split()))
for n in range(10_000):
    left = hypotest.spool.Spool(state.spool, 1 << 30, lambda: 0)
    left._mapped = False  # in this writer only: to make them quickly
    left.append(b'{"time":"2026-01-01 00:00:00.000000","event_type":"goal","goal_name":"k"}')
    del left
say("left")
os._exit(1)
"""
    with Script(leave, env) as script:
        script.tell(f"{server.url} {server.token}")
        script.wait_for("left", 300)
    deliver = """
most = began = 0
def all_arrived():
    global most
    most = max(most, len(os.listdir("/proc/self/fd")))
    return hypotest.runtime.current().page.accounts()[1][1] == 10_000
began = time.monotonic()
hypotest.status()
until(all_arrived, "all delivered", 300)
say("took", round(time.monotonic() - began, 1))
say("most", most)
assert hypotest.flush(10)
"""
    output = run(deliver, env, deadline=360)
    print(f"10,000 segments in {said(output, 'took')} s, {said(output, 'most')} descriptors at most")
    assert int(said(output, "most")) < 200
    assert server.query("SELECT count(*), count(DISTINCT event_id) FROM events") == [(10_000, 10_000)]


def test_a_small_disk_for_several_writers(server: ServerProcess, tmp_path: Path, mounts: str) -> None:
    """Four processes that fill a disk of 64 MB together are refused by count, and none of them is killed by it."""
    disk = tmp_path / "disk"
    source = f"""
{STOP}
join(*[child(lambda: serve_until_refused()) for _ in range(4)])
assert os.statvfs({str(disk)!r}).f_bavail > 0
status = hypotest.status()
assert status.spool_bytes > 40 << 20, status
offered = status.accepted + sum(status.refused.values())
{GO}
until(lambda: hypotest.flush(5), "delivered", 300)
until(lambda: hypotest.status().spool_bytes < 1 << 20, "the disk is free again")
serve_until_kept()
settle()
"""
    first = mounts + f"small_disk({str(disk)!r}, 'size=64m')\n"
    with Script(APPLICATION + source, sdk_env(server, disk / "state"), first=first) as script:
        script.wait_for("stop")
        server.pause()
        script.tell()
        script.wait_for("go", 60)
        server.resume()
        script.tell()
        output = script.result(120)
    expect_accounts(server, output)


def test_no_thread_can_be_started(server: ServerProcess) -> None:
    """Where the limit of threads is reached, events are kept, one line says so, and another process delivers them."""
    user = 1_234_567  # of whom nobody else is: the limit counts all processes of a user
    become = f"""
import ctypes, logging, os, resource, signal, traceback
import hypotest, hypotest.handler, hypotest.leadership
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({user}); os.setuid({user})
"""
    source = """
for _ in range(20):
    assert hypotest.experiment("button", user_id="u", report_event=False).is_control
keep("kept")
assert threading.active_count() == 1
"""
    with tempfile.TemporaryDirectory() as directory:
        if os.geteuid() == 0:
            os.chown(directory, user, user)
        env = sdk_env(server, f"{directory}/state")
        output = run(source, env, first=become + "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n")
        assert output.count("no thread can be started here") == 1, output
        assert server.polls() == 0
        run("assert hypotest.flush(10), hypotest.status()", env, first=become)
    expect_each_once(server, "kept")


def test_a_log_that_cannot_be_written(server: ServerProcess, tmp_path: Path) -> None:
    """Where the disk is full for the log, on stdout or by a handler of the application, nobody is disturbed."""
    source = """
import logging
{setup}
assert hypotest.wait_until_ready(10)
hypotest.kpi_event("k", user_id=None)
hypotest.config(pull_interval="often")
keep("kept")
assert hypotest.flush(10), hypotest.status()
"""
    theirs = "logging.basicConfig(filename='/dev/full'); logging.raiseExceptions = False"  # what their handler says
    for number, setup in enumerate(("", theirs)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", PRELUDE + source.format(setup=setup)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
                env=sdk_env(server, tmp_path / f"state{number}"),
            )
        assert (done.returncode, done.stderr) == (0, "")
    assert server.accounts()["events"] == 42
