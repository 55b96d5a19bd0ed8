"""Import is inert: no thread, no file, no descriptor, no network; and it stays light."""

from __future__ import annotations

from pathlib import Path

from tests.processes import run, sdk_env

WATCH = """
import os, sys, threading
import encodings.idna, orjson, mmh3  # what they open is theirs
seen = []
def hook(event, args):
    if event in ("open", "os.mkdir", "socket.__new__", "subprocess.Popen", "os.fork", "fcntl.flock", "mmap.__new__"):
        if event != "open" or not str(args[0]).endswith((".py", ".pyc", ".so")):
            if event != "mmap.__new__" or args[0] != -1:
                seen.append((event, str(args[0])))
sys.addaudithook(hook)
before = set(os.listdir("/proc/self/fd"))
"""
AFTER = """
assert threading.active_count() == 1, threading.enumerate()
assert set(os.listdir("/proc/self/fd")) == before
inert = [entry for entry in seen if "importlib" not in entry[1] and not entry[1].startswith("/proc")]
assert not inert, inert
say("inert")
"""


def test_import_and_config_touch_nothing(tmp_path: Path) -> None:
    """`import hypotest` and `config()` open no file, start no thread, make no directory."""
    env = sdk_env(None, tmp_path / "state")
    assert "inert" in run('hypotest.config(token="t", pull_interval=3)' + AFTER, env, first=WATCH)
    assert not (tmp_path / "state").exists()


def test_without_a_connection_nothing_is_ever_touched(tmp_path: Path) -> None:
    """With connect_to_server=False no call opens a file or a socket or starts a thread."""
    source = """
hypotest.config(token="t", connect_to_server=False)
assert hypotest.experiment("e", user_id="u").is_control
assert hypotest.experiment("e", user_id="u", override="b").is_b
hypotest.kpi_event("k", user_id="u")
hypotest.match_user_visitor("u", "v")
assert hypotest.wait_until_ready(0) and hypotest.flush(0)
"""
    assert "inert" in run(source + AFTER, sdk_env(None, tmp_path / "state"), first=WATCH)
    assert not (tmp_path / "state").exists()


def test_a_worker_that_does_not_lead_loads_neither_requests_nor_ssl(tmp_path: Path) -> None:
    """What only a leader needs is imported by leaders only."""
    source = """
keep("here")
heavy = {"requests", "urllib3", "ssl", "filelock", "asyncio", "typing", "hypotest.transport"} & set(sys.modules)
assert not heavy, heavy
say("light")
"""
    env = sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9", leader="off")
    assert "light" in run(source, env)
