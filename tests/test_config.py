"""Configuration: what is valid, which source wins, and what a warning says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hypotest.config import OPTIONS, Config, parse, resolve
from hypotest.errors import ConfigError

GOOD: list[tuple[str, Any, Any]] = [
    ("token", "abc-123", "abc-123"),
    ("pull_interval", 5, 5.0),
    ("pull_interval", "2.5", 2.5),
    ("pull_jitter", 0, 0.0),
    ("log_level", "debug", "DEBUG"),
    ("log_level", " Warning ", "WARNING"),
    ("log_level", "warn", "WARNING"),
    ("flush_events", True, True),
    ("flush_events", "Yes", True),
    ("connect_to_server", "0", False),
    ("connect_to_server", " off ", False),
    ("server_url", "http://localhost:8000/", "http://localhost:8000"),
    ("server_url", "https://proxy.example/hypotest//", "https://proxy.example/hypotest"),
    ("server_url", "https://[::1]:8443", "https://[::1]:8443"),
    ("server_url", "http://[::1]/x", "http://[::1]/x"),
    ("state_dir", "/srv/state", "/srv/state"),
    ("state_dir", "/srv/state//", "/srv/state"),
    ("state_dir", "/", "/"),
    ("state_dir", Path("/srv/state"), "/srv/state"),
    ("max_spool_bytes", "1048576", 1 << 20),
    ("max_spool_bytes", 1.5e9, 1_500_000_000),
    ("max_event_age", 60, 60.0),
    ("hash_ids", "sålt", "sålt"),
    ("hash_ids", "sålt".encode(), "sålt"),
    ("hash_ids", b"\xff\xfe", "\udcff\udcfe"),
    ("hash_ids", 7, "7"),
    ("leader", "OFF", "off"),
    ("leader", False, "off"),
    ("leader", "false", "off"),
]

BAD: list[tuple[str, Any]] = [
    ("token", ""),
    ("token", "two words"),
    ("token", "line\nbreak"),
    ("token", "tökén"),
    ("token", "x" * 4097),
    ("token", b"bytes"),
    ("token", 7),
    ("pull_interval", 0),
    ("pull_interval", -1),
    ("pull_interval", True),
    ("pull_interval", math.nan),
    ("pull_interval", "nan"),
    ("pull_interval", math.inf),
    ("pull_interval", "soon"),
    ("pull_interval", [1]),
    ("pull_interval", 10**400),
    ("log_level", "LOUD"),
    ("log_level", 10),
    ("flush_events", "maybe"),
    ("flush_events", 1),
    ("server_url", "sdk.hypotest.io"),
    ("server_url", "ftp://sdk.hypotest.io"),
    ("server_url", "https://"),
    ("server_url", "https://user:secret@host"),
    ("server_url", "https://host/?query"),
    ("server_url", "https://host/#fragment"),
    ("server_url", "https://hö.st"),
    ("server_url", "https://ho\nst"),
    ("server_url", "https://[::1"),
    ("server_url", "https://::1]"),
    ("server_url", "https://[::1]x"),
    ("server_url", "https://a:b:80"),
    ("server_url", "https://host:http"),
    ("server_url", "https://:80"),
    ("server_url", 8000),
    ("state_dir", "relative/path"),
    ("state_dir", ""),
    ("state_dir", "/with\0null"),
    ("state_dir", b"/bytes"),
    ("state_dir", "/\ud800"),
    ("max_spool_bytes", 1000),
    ("max_event_age", 1),
    ("hash_ids", ""),
    ("hash_ids", True),
    ("hash_ids", b""),
    ("leader", "on"),
    ("leader", None),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_usable_values(name: str, value: Any, expected: Any) -> None:
    """What people write for a parameter becomes its one canonical form."""
    found = parse(name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_unusable_values(name: str, value: Any) -> None:
    """A value that cannot be used is a ConfigError of one short line that names the parameter."""
    with pytest.raises(ConfigError) as caught:
        parse(name, value)
    message = str(caught.value)
    assert message.startswith(f"{name}: expected")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("name", ["token", "hash_ids"])
def test_no_message_holds_a_secret(name: str) -> None:
    """The message about a bad token or salt does not quote it."""
    with pytest.raises(ConfigError) as caught:
        parse(name, "se cret\0")
    assert "cret" not in str(caught.value)


def test_no_message_holds_a_password() -> None:
    """A URL of a server with user and password is not quoted."""
    _, warnings = resolve({}, {"HT_SERVER_URL": "https://user:passw0rd@host", "HT_STATE_DIR": "x://user:passw0rd@host"})
    assert len(warnings) == 2
    assert "passw0rd" not in str(warnings)


def test_no_repr_holds_a_secret() -> None:
    """The repr of a configuration, which ends up in logs, has neither token nor salt."""
    text = repr(Config(token="geheim", hash_ids="pfeffer"))
    assert "geheim" not in text
    assert "pfeffer" not in text
    assert "pull_interval=30.0" in text


def test_unknown_parameter() -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(ConfigError, match=r"'pul_interval'.*pull_interval"):
        parse("pul_interval", 1)


def test_every_parameter_has_its_variable() -> None:
    """The environment's names follow from the parameters'."""
    assert {name: option.env for name, option in OPTIONS.items()} == {name: f"HT_{name.upper()}" for name in OPTIONS}


def test_every_default_is_valid() -> None:
    """Each default, given explicitly, is accepted and unchanged."""
    for name, option in OPTIONS.items():
        if option.default is not None:
            assert parse(name, option.default) == option.default


def test_call_beats_environment_beats_default() -> None:
    """The nearest source wins, for each parameter by itself."""
    settled, warnings = resolve({"pull_interval": 1.0}, {"HT_PULL_INTERVAL": "2", "HT_SEND_INTERVAL": "3"})
    assert (settled.pull_interval, settled.send_interval, settled.pull_jitter) == (1.0, 3.0, 5.0)
    assert warnings == []


def test_a_bad_variable_is_one_warning() -> None:
    """A variable that cannot be used is named in a warning, and the default stands; an empty one counts as unset."""
    settled, warnings = resolve({}, {"HT_PULL_INTERVAL": "often", "HT_LEADER": "", "HT_TOKEN": "a token"})
    assert settled == Config()
    assert sorted(warning.split()[0] for warning in warnings) == ["HT_PULL_INTERVAL", "HT_TOKEN"]
    assert not any("a token" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["HT_SERVR_URL", "HT_SERVER_URl", "HT_SERVER_URLS"])
def test_a_variable_whose_name_is_mistyped(name: str) -> None:
    """It is said which one is meant; what looks like none is somebody else's."""
    settled, warnings = resolve({}, {name: "https://a.example", "HT_PROXY": "x", "HTTPS": "on", "PATH": "/bin"})
    assert settled == Config()
    assert warnings == [f"{name} is not known; is HT_SERVER_URL meant?"]


def test_a_bad_variable_that_a_call_overrides_is_none() -> None:
    """Nobody is warned of a variable that is not asked for."""
    assert resolve({"leader": "off"}, {"HT_LEADER": "perhaps"}) == (Config(leader="off"), [])


def test_frozen() -> None:
    """A configuration in force cannot be changed under those who use it."""
    with pytest.raises(AttributeError, match="immutable"):
        Config().token = "other"  # type: ignore[misc]
