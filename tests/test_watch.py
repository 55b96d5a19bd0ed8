"""The kernel tells a follower when the leader ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hypotest.watch import Watch, pid_space
from tests.namespace import run_python
from tests.server_process import wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_end_of_a_process_is_told_at_once(other: subprocess.Popen[bytes]) -> None:
    """A process that is alive is not said to have ended; one that is killed is."""
    watch = Watch()
    assert watch.on(other.pid, pid_space())
    assert not watch.wait()
    other.kill()
    wait_for(watch.wait, "its end is told")


def test_an_end_is_told_once_and_the_next_process_is_watched(other: subprocess.Popen[bytes]) -> None:
    """A process whose end was told is not watched again, and the next one is."""
    watch = Watch()
    watch.on(other.pid, pid_space())
    other.kill()
    wait_for(watch.wait, "its end is told")
    assert not watch.on(other.pid, pid_space())  # or a follower would look again and again without a rest
    assert watch.on(os.getpid(), pid_space())
    assert watch.pid == os.getpid()
    watch.close()


def test_a_process_of_another_namespace_is_not_watched(other: subprocess.Popen[bytes]) -> None:
    """A pid means nothing in another pid namespace, or in one that is not known."""
    watch = Watch()
    assert not watch.on(other.pid, pid_space() + 1)
    assert not watch.on(os.getpid(), 0)


GREEN = """
from gevent import monkey
{patch}
import gevent, os, subprocess, sys
from hypotest.watch import Watch, pid_space
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
watch = Watch()
watching = watch.on(other.pid, pid_space())
{kill}
print(watching, any(watch.wait() for _ in range(100)))
with other:
    other.kill()
"""


@pytest.mark.parametrize(
    ("patch", "kill", "said"),
    [
        ("monkey.patch_all()", "gevent.spawn_later(0.05, other.kill)", "True True\n"),
        ("", "other.kill()", "True True\n"),
        ("monkey.patch_thread()", "", "False False\n"),
    ],
    ids=["a greenlet that lets others run", "a real thread", "a greenlet that would block all"],
)
def test_a_watch_under_gevent_holds_nobody_up(patch: str, kill: str, said: str) -> None:
    """A watch works where its wait lets other greenlets run, and is declined where it would block them all."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    assert run_python(GREEN.format(patch=patch, kill=kill)) == said


def test_a_process_that_is_gone_is_not_watched(other: subprocess.Popen[bytes]) -> None:
    """A process that has ended and was waited for cannot be watched."""
    other.kill()
    other.wait()
    assert not Watch().on(other.pid, pid_space())


def test_descriptors_are_given_back(other: subprocess.Popen[bytes]) -> None:
    """One process after another is watched with one descriptor, and none stays open at the end."""
    before = len(os.listdir("/proc/self/fd"))
    watch = Watch()
    for pid in (other.pid, os.getpid()) * 3:
        assert watch.on(pid, pid_space())
    watch.close()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor is left")


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:  # that of the listing itself
        return ""


def test_a_descriptor_that_the_host_closed_is_not_closed_again(other: subprocess.Popen[bytes]) -> None:
    """A host that becomes a daemon closes whatever is open; the number is then another's."""
    watch = Watch()
    watch.on(other.pid, pid_space())
    (number,) = (int(name) for name in os.listdir("/proc/self/fd") if "pidfd" in _target(name))
    reads, writes = os.pipe()
    os.dup2(reads, number)
    os.write(writes, b"x")
    assert not watch.wait()
    assert os.read(number, 1) == b"x"
    assert not watch.on(other.pid, pid_space())
    for fd in (number, reads, writes):
        os.close(fd)
