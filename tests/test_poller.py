"""The settings side of the leader, against a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypotest import control, log, settings, snapshot
from hypotest.assignment import Experiment
from hypotest.config import Config
from hypotest.control import GENERATION, POLLS, SETTINGS_TIME
from hypotest.errors import TransportError, Unauthorized
from hypotest.poller import Poller
from hypotest.publisher import Publisher
from hypotest.transport import HttpTransport
from tests.http_host import HttpHost
from tests.server_process import ServerProcess

TEST = {
    "test_id": 1,
    "condition_to_enter_test": "True",
    "variants_distribution": {"control": 0.5, "b": 0.5},
    "test_state": "active",
    "test_active": True,
}


class Home:
    """A namespace whose settings a poller keeps."""

    def __init__(self, root: Path, url: str, token: str) -> None:
        self.page = control.open_control(str(root))
        self.publisher = Publisher(str(root), self.page)
        self.reader: snapshot.Reader[Experiment] = snapshot.Reader(str(root), self.page, settings.decode)
        self.transport = HttpTransport(Config(token=token, server_url=url))
        self.poller = Poller(self.transport, self.publisher, self.page)


@pytest.fixture
def host() -> Iterator[HttpHost]:
    with HttpHost() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, host: HttpHost) -> Home:
    return Home(tmp_path, host.url, "token")


def serves(host: HttpHost, tests: Any, etag: str | None = None, status: int = 200) -> None:
    body = tests if isinstance(tests, bytes) else json.dumps({"tests": tests}).encode()

    def answer(exchange: Any) -> None:
        if etag and exchange.headers.get("If-None-Match") == etag:
            exchange.reply(304, b"", ETag=etag)
        else:
            exchange.reply(status, body, ETag=etag)

    host.answer = answer


def test_settings_of_a_real_server(tmp_path: Path) -> None:
    """What the server has is published, unchanged settings are not, changed ones are; all are counted."""
    with ServerProcess(tmp_path) as server:
        home = Home(tmp_path, server.url, server.token)
        assert home.poller.poll_once()
        assert home.reader.get("button") is not None
        assert not home.poller.poll_once()
        server.set_experiments({"other": {"variants": ["control", "b"]}})
        assert home.poller.poll_once()
        assert home.reader.get("button") is None
        assert home.reader.get("other") is not None
        assert (home.page.words[POLLS], home.page.words[GENERATION]) == (3, 2)
        assert server.polls() == 3


def test_the_etag_is_sent_back(host: HttpHost, home: Home) -> None:
    """The second poll is conditional; a new leader, who has no ETag, asks in full and publishes nothing anew."""
    serves(host, {"a": TEST}, '"1"')
    assert home.poller.poll_once()
    assert not home.poller.poll_once()
    assert not Poller(home.transport, home.publisher, home.page).poll_once()
    assert [asked.headers.get("If-None-Match") for asked in host.asked] == [None, '"1"', None]


def test_overrides_in_another_order_are_the_same_settings(host: HttpHost, home: Home) -> None:
    """They are a set, and servers that keep them as one serve them in any order: each poll would be a publication."""
    for ids in (["u1", "u2", "u3"], ["u3", "u1", "u2"], ["u2", "u3", "u1"]):
        serves(host, {"a": {**TEST, "override_b": ids, "override_control": ids[::-1]}}, f'"{ids[0]}"')
        home.poller.poll_once()
    assert home.page.words[GENERATION] == 1


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"tests":[]}', b"[" * 200_000, b'{"tests":{"a":1e999}}x'])
def test_unusable_settings(host: HttpHost, home: Home, body: bytes) -> None:
    """A document that is none leaves the last good settings in force, says so, and is asked for again in full."""
    serves(host, {"a": TEST}, '"1"')
    home.poller.poll_once()
    confirmed = home.page.words[SETTINGS_TIME] = 1000
    serves(host, body, '"2"')
    for _ in range(2):
        assert not home.poller.poll_once()
        assert home.poller.error.startswith("settings refused")
        assert home.page.words[SETTINGS_TIME] == confirmed
        assert home.reader.get("a") is not None
    assert [asked.headers.get("If-None-Match") for asked in host.asked[1:]] == ['"1"', '"1"']


@pytest.mark.parametrize("etag", [None, '"1"'])
def test_mended_settings(host: HttpHost, home: Home, etag: str | None) -> None:
    """When the server has the good settings again, the error is gone, also where it says that they are unchanged."""
    serves(host, {"a": TEST}, etag)
    home.poller.poll_once()
    serves(host, b"broken")
    home.poller.poll_once()
    assert home.poller.error
    serves(host, {"a": TEST}, etag)
    home.poller.poll_once()
    assert home.poller.error == ""


def test_an_outage(host: HttpHost, home: Home) -> None:
    """While the server does not answer as it should, the settings in force stay, and the caller is told."""
    serves(host, {"a": TEST})
    home.poller.poll_once()
    serves(host, {}, status=500)
    with pytest.raises(TransportError):
        home.poller.poll_once()
    serves(host, {}, status=401)
    with pytest.raises(Unauthorized):
        home.poller.poll_once()
    assert home.reader.get("a") is not None
    assert home.page.words[POLLS] == 3


def test_one_bad_experiment(host: HttpHost, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """An experiment that cannot be used does not keep the others, and is named in the log, in one line each."""
    tests = {"good": TEST, "bad\nname": {**TEST, "condition_to_enter_test": "exec('x')"}}
    serves(host, tests | {f"bad {n}": {} for n in range(20)})
    assert home.poller.poll_once()
    assert home.reader.get("good") is not None
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(r"bad\nname" in line for line in lines)
    assert any("more problems" in line for line in lines)
    assert len(lines) == 1 + 5 + 1  # that some cannot be used, the first five, and how many more
    assert not any("\n" in line for line in lines)


def test_unchanged_settings_are_confirmed(host: HttpHost, home: Home) -> None:
    """Each answer that confirms the settings makes them young again."""
    serves(host, {"a": TEST}, '"1"')
    for _ in range(2):
        home.page.words[SETTINGS_TIME] = 0
        home.poller.poll_once()
        assert abs(home.page.words[SETTINGS_TIME] - time.time()) < 60


def test_settings_refused_where_there_are_none(host: HttpHost, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """The line does not speak of good ones that there never were."""
    log._last.clear()
    serves(host, b"{}")
    home.poller.poll_once()
    assert "settings refused, there are none: all is control" in caplog.text
    caplog.clear()
    serves(host, {"a": TEST})
    home.poller.poll_once()
    home.page.unsaid("settings")
    log._last.clear()
    serves(host, b"{}")
    home.poller.poll_once()
    assert "settings refused, the last good ones stay in force" in caplog.text


@pytest.mark.parametrize(
    ("tests", "said"),
    [({}, "0 experiments"), ({"a": {}}, "1 experiments, 1 of them unusable: control for everybody")],
    ids=["none", "none that can be used"],
)
def test_settings_that_give_control_to_all(
    host: HttpHost, home: Home, caplog: pytest.LogCaptureFixture, tests: Any, said: str
) -> None:
    """They are in force, and a warning says what they are."""
    serves(host, tests)
    assert home.poller.poll_once()
    (line,) = (record for record in caplog.records if "generation" in record.getMessage())
    assert line.getMessage() == f"settings: generation 1, {said}"
    assert line.levelname == "WARNING"


def test_another_leader_tells_of_the_problems_again(
    host: HttpHost, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that are the same have the same problems, and its log may be another one; once an hour at most."""
    serves(host, {"a": TEST, "bad": {}})
    home.poller.poll_once()
    for times in (2, 2):
        Poller(home.transport, home.publisher, home.page).poll_once()
        told = [record for record in caplog.records if "experiment 'bad'" in record.getMessage()]
        assert len(told) == times
