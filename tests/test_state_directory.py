"""A state directory that cannot be used: one warning, a private fallback, or control and counted drops."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Script, expect_each_once, run, said, sdk_env
from tests.server_process import ServerProcess, wait_for

NOBODY = 65534
FALLBACK = Path(f"/var/tmp/hypotest-{os.geteuid()}")
FLUSH = '\nassert hypotest.flush(10), hypotest.status()\nsay("state", hypotest.status().state_dir)\n'

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it changes owners and mounts file systems")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    # A token of its own: what an earlier run left under /var/tmp for the same port must not be taken for this one's.
    with ServerProcess(tmp_path, tokens=(uuid.uuid4().hex,)) as running:
        yield running


def expect_fallback(server: ServerProcess, state: Path, why: str) -> None:
    """Events go through the private directory under /var/tmp, and one warning says why."""
    output = run(
        f'keep("kept")\nfor _ in range(30): hypotest.kpi_event("kept-0x", user_id="u"){FLUSH}', sdk_env(server, state)
    )
    others = "of another token or server wait in"  # that directory is all tests'
    warnings = [line for line in output.splitlines() if " WARNING" in line and others not in line]
    assert len(warnings) == 1
    assert why in warnings[0]
    assert said(output, "state").startswith(str(FALLBACK))
    assert FALLBACK.stat().st_mode & 0o777 == 0o700
    wait_for(lambda: server.accounts()["events"] == 50, "all events arrive")


def test_a_file_in_its_place(server: ServerProcess, tmp_path: Path) -> None:
    """A plain file where the directory should be."""
    (tmp_path / "state").write_text("")
    expect_fallback(server, tmp_path / "state", "is not a directory")


def test_a_symlink(server: ServerProcess, tmp_path: Path) -> None:
    """A symlink is not followed, wherever it leads."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    expect_fallback(server, tmp_path / "state", "is a symbolic link")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_writable_by_others(server: ServerProcess, tmp_path: Path) -> None:
    """A directory in which others could replace ours."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    expect_fallback(server, tmp_path / "state", "can be written by others")


@root_only
def test_not_ours(server: ServerProcess, tmp_path: Path) -> None:
    """A directory of another user, though root could write to it."""
    (tmp_path / "state").mkdir(mode=0o755)
    os.chown(tmp_path / "state", NOBODY, NOBODY)
    expect_fallback(server, tmp_path / "state", f"belongs to user {NOBODY}")


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs of our own."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, check=False)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr!r}")
    assert done.returncode == 0, done.stderr
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@root_only
def test_read_only(server: ServerProcess, tmp_path: Path) -> None:
    """A file system mounted read-only."""
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        expect_fallback(server, disk / "state", "Read-only file system")


@root_only
def test_a_disk_that_is_full_from_the_start(server: ServerProcess, tmp_path: Path) -> None:
    """No room for the control page."""
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        expect_fallback(server, disk / "state", "No space left on device")


@root_only
def test_a_disk_that_fills_later(server: ServerProcess, tmp_path: Path) -> None:
    """On a disk that fills while the application runs, events are refused by count, and the application goes on."""
    source = """
assert hypotest.wait_until_ready(10)
os.kill(server, signal.SIGSTOP)
for i in range(40_000):
    hypotest.kpi_event("k", user_id="u", tags={"t": "x" * 200})
    hypotest.experiment("button", visitor_id=str(i))
os.kill(server, signal.SIGCONT)
refused = sum(hypotest.status().refused.values())
assert refused > 0
assert hypotest.flush(30), hypotest.status()
status = hypotest.status()
assert status.accepted + sum(status.refused.values()) == 80_000, status
assert status.accepted == status.delivered, status
say("accounted", status.accepted)
"""
    with mounted(tmp_path / "disk", "size=6m") as disk:
        output = run(f"server = {server.pid}\n{source}", sdk_env(server, disk / "state"))
        errors = [line for line in output.splitlines() if " ERROR" in line]
        assert len(errors) == 1
        assert "event refused: disk" in errors[0]
        accepted = int(said(output, "accounted"))
        assert server.accounts()["events"] == accepted


@root_only
def test_nowhere_at_all(tmp_path: Path) -> None:
    """A user who can write nowhere gets control, counted refusals and one error line."""
    source = """
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for _ in range(30):
    assert hypotest.experiment("button", user_id="u").is_control
    hypotest.kpi_event("k", user_id="u")
status = hypotest.status()
assert status.refusing == "disk" and status.refused == {"disk": 60}, status
"""
    with mounted(tmp_path / "disk", "size=1m") as disk:
        for name in ("state", "home"):
            (disk / name).mkdir(mode=0o700)
        env = sdk_env(None, disk / "state", token="t", server_url="http://127.0.0.1:9")
        # Its fallback is taken by a file of root's.
        squat = Path(f"/var/tmp/hypotest-{NOBODY}")
        shutil.rmtree(squat, ignore_errors=True)
        squat.write_text("")
        try:
            output = run(source, env | {"HOME": str(disk / "home")}, first="import logging\n")
        finally:
            squat.unlink()
    assert len([line for line in output.splitlines() if " ERROR" in line]) == 1


def test_a_directory_deleted_under_us(server: ServerProcess, tmp_path: Path) -> None:
    """When the directory disappears while the application runs, it starts anew, says so, and counts what was lost."""
    source = """
keep("before")
assert hypotest.flush(10)
say("flushed")
sys.stdin.readline()
keep("after")
assert hypotest.flush(10)
"""
    with Script(source, sdk_env(server, tmp_path / "state")) as script:
        script.wait_for("flushed")
        shutil.rmtree((tmp_path / "state").rename(tmp_path / "gone"))
        wait_for(lambda: "deleted or replaced" in script.output(), "a line in the log")
        script.tell()
        script.result()
    wait_for(lambda: "after-19" in {row[0] for row in server.query("SELECT name FROM events")}, "events arrive again")
    expect_each_once(server, "before", "after")
