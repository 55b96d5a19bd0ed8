"""The status, as any process of the host sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from hypotest import control, health
from hypotest.backlog import Backlog
from hypotest.config import Config
from hypotest.errors import EventRefused
from hypotest.health import Status, gather
from hypotest.publisher import Publisher
from hypotest.runtime import Runtime
from tests.namespace import drain, run_python

URL = "https://hypotest.example"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    built = Runtime(Config(token="token", server_url=URL, state_dir=str(tmp_path / "state")))
    yield built
    built.close()


def all_but_silence(found: Status) -> dict[str, Any]:
    """The fields, without the one that passes while we look."""
    return {name: value for name, value in found.to_dict().items() if name != "silence"}


def leader_of(runtime: Runtime) -> Backlog:
    assert runtime.state is not None
    assert runtime.page is not None
    assert runtime.spool is not None
    segments = runtime.spool.segments
    return Backlog(runtime.state, runtime.page, lambda: segments, expired=lambda _: False, max_age=1e9)


def test_before_anything(runtime: Runtime, tmp_path: Path) -> None:
    """A new state directory is connected, and everything in it is nothing."""
    assert runtime.state is not None
    found = gather(runtime)
    assert all_but_silence(found) == {
        **all_but_silence(Status()),
        "connected": True,
        "server_url": URL,
        "state_dir": runtime.state.path,
    }
    assert found.state_dir is not None
    assert found.state_dir.startswith(str(tmp_path / "state" / "v1"))
    assert found.settings_age is None


def test_events_on_their_way(runtime: Runtime) -> None:
    """accepted = delivered + dropped + pending, while segments are open, after they are retired, and in between."""
    assert runtime.spool is not None
    for n in range(10):
        runtime.spool.append(b"%d" % n)
    found = gather(runtime)
    assert (found.accepted, found.delivered, found.pending, found.spool_bytes) == (10, 0, 10, 64 << 10)
    leader = leader_of(runtime)
    leader.scan()
    leader.settle(leader.claim(4, 1 << 20), ["", "rejected", "", ""])
    found = gather(runtime)
    assert (found.accepted, found.delivered, found.dropped, found.pending) == (10, 3, {"rejected": 1}, 6)
    drain(leader)
    runtime.spool.close()
    drain(leader)
    found = gather(runtime)
    assert (found.accepted, found.delivered, found.dropped, found.pending) == (10, 9, {"rejected": 1}, 0)
    assert found.spool_bytes == 0


def test_a_fold_without_its_unlink_counts_once(runtime: Runtime) -> None:
    """A segment whose counts are in the totals already is left out, though its file is still there."""
    assert runtime.spool is not None
    assert runtime.page is not None
    runtime.spool.append(b"x")
    (held,) = runtime.spool.segments.values()
    runtime.page.fold(held.name, held.counters())
    assert gather(runtime).accepted == 1


def test_refusals(runtime: Runtime) -> None:
    """Refused events show by reason, those that are in no file yet included."""
    assert runtime.spool is not None
    for _ in range(2):
        with pytest.raises(EventRefused):
            runtime.spool.append(bytes(1 << 20))
    assert gather(runtime).refused == {"too_large": 2}
    runtime.spool.append(b"x")
    runtime.refuse("error")
    assert gather(runtime).refused == {"too_large": 2, "error": 1}


def test_settings_and_leader(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the leader wrote for all is what the status shows."""
    assert runtime.state is not None
    assert runtime.page is not None
    Publisher(runtime.state.path, runtime.page).publish({"a": b"{}"})
    words = runtime.page.words
    words[control.EPOCH], words[control.LEADER_PID], words[control.POLLS], words[control.SENDS] = 3, 4711, 5, 6
    words[control.SETTINGS_TIME] = 1000
    runtime.page.set_text(control.LAST_ERROR, "no route")
    runtime.page.set_text(control.LEADER_CONFIG, '{"pull_interval":30.0}')
    monkeypatch.setattr(health.time, "time", lambda: 1007.5)
    found = gather(runtime)
    assert (found.leaders, found.leader_pid, found.polls, found.sends) == (3, 4711, 5, 6)
    assert (found.ready, found.generation, found.settings_age, found.is_leader) == (True, 1, 7.5, False)
    assert (found.last_error, found.leader_config) == ("no route", {"pull_interval": 30.0})
    monkeypatch.setattr(health.time, "time", lambda: 1.0)
    assert gather(runtime).settings_age == 0.0


@pytest.mark.parametrize("said", ['{"server_url":"https://' + "x" * 3000 + '"}', "[1]", "7", "nonsense"])
def test_a_leader_configuration_that_cannot_be_read(runtime: Runtime, said: str) -> None:
    """One that did not fit its area, or is none, does not cost the rest of the status."""
    assert runtime.page is not None
    runtime.page.set_text(control.LEADER_CONFIG, said)
    found = gather(runtime)
    assert (found.connected, found.leader_config) == (True, {})


def test_without_a_token() -> None:
    """Without a token the status says that, and counts the refusals."""
    built = Runtime(Config())
    built.refuse(built.trouble)
    found = gather(built)
    assert (found.connected, found.refusing, found.refused) == (False, "no_token", {"no_token": 1})
    assert (found.ready, found.state_dir) == (False, None)


def test_not_connected() -> None:
    """With connect_to_server=False there is nothing to tell, and nothing is refused."""
    found = gather(Runtime(Config(token="token", connect_to_server=False)))
    assert (found.connected, found.refusing, found.refused) == (False, "", {})


def test_another_process_sees_the_same(runtime: Runtime, tmp_path: Path) -> None:
    """The status is host-wide, and to look does not disturb the writers."""
    assert runtime.spool is not None
    runtime.spool.append(b"x")
    child = """
import json, sys
from hypotest.config import Config
from hypotest.health import gather
from hypotest.runtime import Runtime
runtime = Runtime(Config(token="token", server_url=sys.argv[1], state_dir=sys.argv[2], log_level="ERROR"))
print(json.dumps({**gather(runtime).to_dict(), "silence": None}))
"""
    seen = json.loads(run_python(child, URL, tmp_path / "state").splitlines()[-1])
    assert seen == {**gather(runtime).to_dict(), "silence": None}
    runtime.spool.append(b"y")
    assert gather(runtime).pending == 2


def test_as_json() -> None:
    """Every status is JSON."""
    assert json.loads(orjson.dumps(Status(refused={"disk": 1}).to_dict())) == Status(refused={"disk": 1}).to_dict()


def test_immutable() -> None:
    """A status is a record of one moment: its fields cannot be set, and unknown ones do not exist."""
    with pytest.raises(AttributeError):
        Status().accepted = 7
    with pytest.raises(TypeError, match="no accepte"):
        Status(accepte=7)
