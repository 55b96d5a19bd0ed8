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
from hypotest.client import Client
from hypotest.config import Config
from hypotest.errors import EventRefused
from hypotest.health import Status, gather
from hypotest.publisher import Publisher
from tests.namespace import drain, run_python

URL = "https://hypotest.example"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    built = Client(Config(token="token", server_url=URL, state_dir=str(tmp_path / "state")))
    yield built
    built.close()


def all_but_silence(found: Status) -> dict[str, Any]:
    """The fields, without the one that passes while we look."""
    return {name: value for name, value in found.to_dict().items() if name != "silence"}


def leader_of(client: Client) -> Backlog:
    assert client.state is not None
    assert client.page is not None
    assert client.spool is not None
    segments = client.spool.segments
    return Backlog(client.state, client.page, segments, expired=lambda _: False, max_age=1e9)


def test_before_anything(client: Client, tmp_path: Path) -> None:
    """A new state directory is connected, and everything in it is nothing."""
    assert client.state is not None
    found = gather(client)
    assert all_but_silence(found) == {
        **all_but_silence(Status()),
        "connected": True,
        "server_url": URL,
        "state_dir": client.state.path,
    }
    assert found.state_dir is not None
    assert found.state_dir.startswith(str(tmp_path / "state" / "v1"))
    assert found.settings_age is None


def test_events_on_their_way(client: Client) -> None:
    """accepted = delivered + dropped + pending, while segments are open, after they are retired, and in between."""
    assert client.spool is not None
    for n in range(10):
        client.spool.append(b"%d" % n)
    found = gather(client)
    assert (found.accepted, found.delivered, found.pending, found.spool_bytes) == (10, 0, 10, 64 << 10)
    leader = leader_of(client)
    leader.scan()
    leader.settle(leader.claim(4, 1 << 20), ["", "rejected", "", ""])
    found = gather(client)
    assert (found.accepted, found.delivered, found.dropped, found.pending) == (10, 3, {"rejected": 1}, 6)
    drain(leader)
    client.spool.close()
    drain(leader)
    found = gather(client)
    assert (found.accepted, found.delivered, found.dropped, found.pending) == (10, 9, {"rejected": 1}, 0)
    assert found.spool_bytes == 0


def test_a_fold_without_its_unlink_counts_once(client: Client) -> None:
    """A segment whose counts are in the totals already is left out, though its file is still there."""
    assert client.spool is not None
    assert client.page is not None
    client.spool.append(b"x")
    (held,) = client.spool.segments.values()
    client.page.fold(held.name, held.counters())
    assert gather(client).accepted == 1


def test_refusals(client: Client) -> None:
    """Refused events show by reason, those that are in no file yet included."""
    assert client.spool is not None
    for _ in range(2):
        with pytest.raises(EventRefused):
            client.spool.append(bytes(1 << 20))
    assert gather(client).refused == {"too_large": 2}
    client.spool.append(b"x")
    client.refuse("error")
    assert gather(client).refused == {"too_large": 2, "error": 1}


def test_settings_and_leader(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the leader wrote for all is what the status shows."""
    assert client.state is not None
    assert client.page is not None
    Publisher(client.state.path, client.page).publish({"a": b"{}"})
    words = client.page.words
    words[control.EPOCH], words[control.LEADER_PID], words[control.POLLS], words[control.SENDS] = 3, 4711, 5, 6
    words[control.SETTINGS_TIME] = 1000
    client.page.set_text(control.LAST_ERROR, "no route")
    client.page.set_text(control.LEADER_CONFIG, '{"pull_interval":30.0}')
    monkeypatch.setattr(health.time, "time", lambda: 1007.5)
    found = gather(client)
    assert (found.leaders, found.leader_pid, found.polls, found.sends) == (3, 4711, 5, 6)
    assert (found.ready, found.generation, found.settings_age, found.is_leader) == (True, 1, 7.5, False)
    assert (found.last_error, found.leader_config) == ("no route", {"pull_interval": 30.0})
    monkeypatch.setattr(health.time, "time", lambda: 1.0)
    assert gather(client).settings_age == 0.0


@pytest.mark.parametrize("said", ['{"server_url":"https://' + "x" * 3000 + '"}', "[1]", "7", "nonsense"])
def test_a_leader_configuration_that_cannot_be_read(client: Client, said: str) -> None:
    """One that did not fit its area, or is none, does not cost the rest of the status."""
    assert client.page is not None
    client.page.set_text(control.LEADER_CONFIG, said)
    found = gather(client)
    assert (found.connected, found.leader_config) == (True, {})


def test_without_a_token() -> None:
    """Without a token the status says that, and counts the refusals."""
    built = Client(Config())
    built.refuse(built.trouble)
    found = gather(built)
    assert (found.connected, found.refusing, found.refused) == (False, "no_token", {"no_token": 1})
    assert (found.ready, found.state_dir) == (False, None)


def test_not_connected() -> None:
    """With connect_to_server=False there is nothing to tell, and nothing is refused."""
    found = gather(Client(Config(token="token", connect_to_server=False)))
    assert (found.connected, found.refusing, found.refused) == (False, "", {})


def test_another_process_sees_the_same(client: Client, tmp_path: Path) -> None:
    """The status is host-wide, and to look does not disturb the writers."""
    assert client.spool is not None
    client.spool.append(b"x")
    child = """
import json, sys
from hypotest.config import Config
from hypotest.health import gather
from hypotest.client import Client
client = Client(Config(token="token", server_url=sys.argv[1], state_dir=sys.argv[2], log_level="ERROR"))
print(json.dumps({**gather(client).to_dict(), "silence": None}))
"""
    seen = json.loads(run_python(child, URL, tmp_path / "state").splitlines()[-1])
    assert seen == {**gather(client).to_dict(), "silence": None}
    client.spool.append(b"y")
    assert gather(client).pending == 2


def test_as_json() -> None:
    """Every status is JSON."""
    assert json.loads(orjson.dumps(Status(refused={"disk": 1}).to_dict())) == Status(refused={"disk": 1}).to_dict()


def test_immutable() -> None:
    """A status is a record of one moment: its fields cannot be set, and unknown ones do not exist."""
    with pytest.raises(AttributeError):
        Status().accepted = 7
    with pytest.raises(TypeError, match="no accepte"):
        Status(accepte=7)
