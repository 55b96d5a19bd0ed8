"""What other users of the host can do to us: plant things, look, take our place."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hypotest import statedir
from hypotest.statedir import StateDir, namespace_of
from tests.http_host import Exchange, HttpHost
from tests.namespace import Namespace
from tests.processes import Script, run, said, sdk_env
from tests.server_process import wait_for

TOKEN = "test-token"
VICTIM, ATTACKER = 64_321, 64_322
SETTINGS = b"""{"tests": {"button": {"test_id": 1, "test_state": "running", "test_active": true,
    "condition_to_enter_test": "True", "variants_distribution": {"control": 0.5, "b": 0.5}}}}"""
CONTENT = b"mine, and not to be touched\n"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users and make devices")


class Place:
    """What is planted, and what it leads to."""

    def __init__(self, directory: Path) -> None:
        self.target = directory / "target"
        self.target.write_bytes(CONTENT)

    def symlink(self, path: Path) -> None:
        path.symlink_to(self.target)

    def dangling_symlink(self, path: Path) -> None:
        path.symlink_to(self.target.parent / "nowhere")

    def hard_link(self, path: Path) -> None:
        path.hardlink_to(self.target)

    def fifo(self, path: Path) -> None:
        os.mkfifo(path)

    def directory(self, path: Path) -> None:
        path.mkdir()

    def socket(self, path: Path) -> None:
        before = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # its whole path is longer than a socket's may be
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)

    def device(self, path: Path) -> None:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def foreign(self, path: Path) -> None:
        path.write_bytes(CONTENT)
        os.chown(path, ATTACKER, ATTACKER)


NEED_ROOT = ("device", "foreign")
KINDS = [
    pytest.param(name, marks=as_root if name in NEED_ROOT else ())
    for name in ("symlink", "dangling_symlink", "hard_link", "fifo", "directory", "socket", *NEED_ROOT)
]


@pytest.fixture
def host() -> Iterator[HttpHost]:
    """A server that refuses one kind of event."""

    def answer(exchange: Exchange) -> None:
        if exchange.asked.method == "GET":
            exchange.reply(body=SETTINGS)
        else:
            exchange.reply(422 if b"poison" in exchange.asked.body else 200)

    with HttpHost(answer) as running:
        yield running


def environment(host: HttpHost, root: Path) -> dict[str, str]:
    return sdk_env(None, root, token=TOKEN, server_url=host.url)


def prepared(host: HttpHost, root: Path) -> StateDir:
    return statedir.prepare(str(root), namespace_of(host.url, TOKEN))


APPLICATION = """
assert hypotest.wait_until_ready(20)
assert any(hypotest.experiment("button", visitor_id=i, report_event=False).is_b for i in range(20))
keep("kept")
hypotest.kpi_event("poison", user_id="u")
assert hypotest.flush(20), hypotest.status()
status = hypotest.status()
corrupt = status.dropped.get("corrupt", 0)
assert status.accepted == 21 + corrupt and status.delivered == 20 and status.dropped["rejected"] == 1, status
say("state", status.state_dir)
say("corrupt", corrupt)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_planted_files(host: HttpHost, tmp_path: Path, kind: str) -> None:
    """Whatever stands where a file of ours should be: nothing waits for it or writes to it, and all works on."""
    state, place = prepared(host, tmp_path / "state"), Place(tmp_path)
    days = [datetime.now(timezone.utc) + timedelta(days=n) for n in range(2)]  # it may be midnight
    planted = [f"{state.path}/settings-7.snap", f"{state.spool}/{'0' * 32}-0.seg"]
    planted += [f"{state.quarantine}/rejected-{day:%Y-%m-%d}.jsonl" for day in days]
    if kind != "directory":  # which cannot be replaced: the next state directory is used
        planted.append(f"{state.path}/control")
    for path in planted:
        getattr(place, kind)(Path(path))
    output = run(APPLICATION, environment(host, tmp_path / "state"))
    assert said(output, "state") == state.path
    # A regular file of ours that is no segment counts as one event: it may have been one, once.
    assert said(output, "corrupt") == ("1" if kind == "hard_link" else "0")
    assert place.target.read_bytes() == CONTENT
    assert not place.target.with_name("nowhere").exists()
    if kind == "foreign":
        assert Path(planted[0]).read_bytes() == Path(planted[2]).read_bytes() == CONTENT
    assert not list(Path(state.spool).glob(f"{'0' * 32}*")), "set aside: it would count as pending for ever"


@pytest.mark.parametrize("kind", [param for param in KINDS if param.values[0] != "hard_link"])
def test_a_planted_lock(host: HttpHost, tmp_path: Path, kind: str) -> None:
    """What stands for the lock is not locked, where its owner could hold it: events wait, and a line says why.

    Nobody is said to hold it, whom an operator would look for.
    """
    state, place = prepared(host, tmp_path / "state"), Place(tmp_path)
    getattr(place, kind)(Path(state.lock))
    source = """
from hypotest import leader
leader._STUCK_AFTER = 0.0
keep("kept")
sys.stdin.readline()
assert hypotest.flush(20), hypotest.status()
"""
    with Script(source, environment(host, tmp_path / "state")) as script:
        wait_for(lambda: "this process cannot lead: " in script.output(), "a line in the log")
        assert host.asked == []
        if kind == "directory":
            os.rmdir(state.lock)
        else:
            os.unlink(state.lock)
        script.tell()
        script.result()
        assert "does not move" not in script.output()
    assert place.target.read_bytes() == CONTENT


@as_root
def test_forged_events_are_not_sent(host: HttpHost, tmp_path: Path) -> None:
    """A whole segment that another user left in a loose directory is not delivered as ours."""
    state = prepared(host, tmp_path / "state")
    forger = Namespace(tmp_path)
    forger.spool.append(b'{"forged":1}')
    (forged,) = Path(forger.state.spool).glob("*.seg")
    os.chmod(state.spool, 0o777)
    planted = Path(state.spool, forged.name)
    shutil.copy(forged, planted)
    os.chown(planted, ATTACKER, ATTACKER)
    run(APPLICATION, environment(host, tmp_path / "state"))
    assert not [asked for asked in host.asked if b"forged" in asked.body]
    assert Path(state.quarantine, forged.name).exists()
    assert stat.S_IMODE(os.stat(state.spool).st_mode) == 0o700


def test_a_planted_generation(host: HttpHost, tmp_path: Path) -> None:
    """A settings file with a number beyond all words does not stop the publishing of settings."""
    state = prepared(host, tmp_path / "state")
    for number in ("9" * 30, "1844674407370955161\u0665"):
        Path(state.path, f"settings-{number}.snap").write_bytes(CONTENT)
    run(APPLICATION, environment(host, tmp_path / "state"))


# --- other users, as processes of theirs


BECOME = """
import hypotest.survey, hypotest.handler, hypotest.leadership, logging, encodings.idna, stringprep
os.setgroups([]); os.setgid({0}); os.setuid({0})
"""
"""All that is imported later first: the interpreter may be closed to the user."""

VICTIM_AT_WORK = (
    BECOME.format(VICTIM)
    + """
assert hypotest.wait_until_ready(20)
keep("kept")
assert hypotest.flush(20), hypotest.status()
say("state", hypotest.status().state_dir)
sys.stdin.readline()
keep("later")
assert hypotest.flush(20), hypotest.status()
"""
)

ATTACK = (
    BECOME.format(ATTACKER)
    + """
import shutil, socket
root, namespace, victim = os.environ["ROOT"], os.environ["NAMESPACE"], int(os.environ["VICTIM_PID"])
proc = f"/proc/{victim}"
def control(flags): return os.close(os.open(f"{namespace}/control", flags))
attempts = {
    "list": lambda: os.listdir(f"{root}/v1"),
    "list the namespace": lambda: os.listdir(namespace),
    "read control": lambda: control(os.O_RDONLY),
    "write control": lambda: control(os.O_RDWR),
    "cut control": lambda: os.truncate(f"{namespace}/control", 0),
    "plant a link": lambda: os.symlink("/etc/passwd", f"{namespace}/spool/x.seg"),
    "plant in the root": lambda: os.symlink("/etc", f"{root}/v2"),
    "take the lock": lambda: os.open(f"{namespace}/leader.lock", os.O_RDWR),
    "delete the lock": lambda: os.unlink(f"{namespace}/leader.lock"),
    "move the root": lambda: os.rename(root, root + "-gone"),
    "move v1": lambda: os.rename(f"{root}/v1", f"{root}/v0"),
    "open it up": lambda: os.chmod(f"{root}/v1", 0o777),
    "its environment": lambda: open(f"{proc}/environ").read(),
    "its descriptors": lambda: os.listdir(f"{proc}/fd"),
    "its memory": lambda: open(f"{proc}/mem", "rb").read(1),
    "a signal": lambda: os.kill(victim, signal.SIGTERM),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        say("refused", name)
    except OSError as error:
        say("odd", name, repr(error))
    else:
        say("done", name)
say("command", open(f"{proc}/cmdline", "rb").read())
"""
)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=oct)
def test_another_user(host: HttpHost, shared: Path, mode: int) -> None:
    """Another user cannot read, write, plant, lock or signal anything of ours, also where the root can be entered."""
    root = shared / "state"
    root.mkdir()
    root.chmod(mode)
    os.chown(root, VICTIM, VICTIM)
    env = environment(host, root) | {"HOME": "/nonexistent"}
    with Script(VICTIM_AT_WORK, env) as victim:
        namespace = victim.wait_for("state").removeprefix("state ")
        told = {"ROOT": str(root), "NAMESPACE": namespace, "VICTIM_PID": str(victim.pid)}
        output = run(ATTACK, sdk_env(None, None) | told)
        victim.tell()
        victim.result()
    verdicts = [line for line in output.splitlines() if line.split()[0] in ("refused", "odd", "done")]
    assert len(verdicts) == 16
    assert all(line.startswith("refused") for line in verdicts), verdicts
    assert TOKEN not in said(output, "command")


@as_root
@pytest.mark.parametrize(("kind", "victim"), [("symlink", VICTIM + 10), ("directory", VICTIM + 11)])
def test_the_fallback_is_taken(host: HttpHost, shared: Path, kind: str, victim: int) -> None:
    """Whoever makes our directory in /var/tmp before us gets no event, no token and nothing written through a link."""
    fallback = Path(f"/var/tmp/hypotest-{victim}")
    with contextlib.suppress(OSError):  # of an earlier run that was killed
        fallback.unlink() if fallback.is_symlink() else shutil.rmtree(fallback)
    theirs = shared / "theirs"
    theirs.mkdir()
    os.chown(theirs, victim, victim)  # all it would take is to follow the link
    source = (
        BECOME.format(victim)
        + """
keep("kept")
status = hypotest.status()
assert status.refusing == "disk" and status.refused == {"disk": 20}, status
"""
    )
    try:
        if kind == "symlink":
            fallback.symlink_to(theirs)
        else:
            fallback.mkdir(mode=0o777)
        os.chown(fallback, ATTACKER, ATTACKER, follow_symlinks=False)
        output = run(source, environment(host, shared / "closed" / "state") | {"HOME": "/nonexistent"})
        assert "no usable state directory" in output
        assert list(theirs.iterdir()) == []
        assert list(fallback.iterdir()) == []
    finally:
        fallback.unlink() if fallback.is_symlink() else fallback.rmdir()
