"""Configuration: one frozen `Config`, validated once. A call beats the environment, which beats the default.

A value that cannot be used is a `ConfigError`, which the caller turns into one warning; the previous value stands.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping

from hypotest import lazy
from hypotest.errors import ConfigError
from hypotest.interrupts import let_through
from hypotest.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "2.0.0"
SDK_TYPE = "python3"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
NOWHERE = ""
"""The `server_url` where the one that was named cannot be used: the default is another's, and gets no token of it."""
_LIKENESS = 0.85
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_AUTHORITY = r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(:[0-9]+)?"  # compiled where it is needed, not by the import


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigError("expected true or false")


def _number(low: float, high: float, unit: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError) as error:
            let_through(error)
            number = math.nan
        if not low <= number <= high:
            raise ConfigError(f"expected a number of {unit} from {low:,.15g} to {high:,.16g}")
        return number

    return parse


def _size(value: object) -> int:
    return int(_number(1 << 20, 1 << 50, "bytes")(value))


def _token(value: object) -> str:
    # Never the value itself in the message: it would be in the log.
    if not isinstance(value, str) or not value or len(value) > 4096 or not (value.isascii() and value.isprintable()):  # noqa: PLR2004
        raise ConfigError("expected a string of printable ASCII characters")
    if " " in value:
        raise ConfigError("expected no space in it")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError("expected a string that is not empty")
    return value


def _salt(value: object) -> str:
    # A number is taken as its text, and so are bytes: to go on without a salt would send the ids themselves.
    if isinstance(value, (bytes, bytearray)):
        return _text(value.decode("utf-8", "surrogateescape"))
    return _text(str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value)


def _path(value: object) -> str:
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ConfigError("expected an absolute path")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError("expected a path that the file system's encoding has") from None
    return without_slash(path)


def without_slash(path: str) -> str:
    """An absolute path without slashes at its end, behind which a symbolic link would be followed."""
    return path.rstrip("/") or "/"


def _url(value: object) -> str:
    scheme, _, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    authority = rest.partition("/")[0]
    bad = "@" in authority or not re.fullmatch(_AUTHORITY, authority) or not (rest.isascii() and rest.isprintable())
    if scheme not in ("http", "https") or bad or any(mark in rest for mark in " ?#"):
        raise ConfigError("expected https://host[:port][/path], without user, query or fragment")
    return f"{scheme}://{rest.rstrip('/')}"


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.strip().lower() == choice.lower():
                return choice
        raise ConfigError(f"expected one of {', '.join(choices)}")

    return parse


def _level(value: object) -> str:
    # logging takes the short names too, and 1.0.9 did.
    short = {"warn": "WARNING", "fatal": "CRITICAL"}.get(value.strip().lower()) if isinstance(value, str) else None
    return short or _choice(*_LEVELS)(value)


def _leader(value: object) -> str:
    # What YAML and templates make of an unquoted `off`.
    text = str(value).strip().lower() if isinstance(value, (str, bool)) else ""
    return "off" if text in _FALSE else _choice("auto", "off")(value)


class Option:
    """A parameter: its variable of the environment, its default, what checks it, and whether it is never shown."""

    __slots__ = ("default", "env", "parse", "secret")

    def __init__(self, env: str, default: object, parse: Callable[[object], Any], *, secret: bool = False) -> None:
        self.env = env
        self.default = default
        self.parse = parse
        self.secret = secret


def _option(env: str, default: object, parse: Callable[[object], Any], *, secret: bool = False) -> Any:
    return Option(env, default, parse, secret=secret)


class Config(Record):
    """Every parameter of the SDK, valid. Units: seconds and bytes."""

    token: str | None = _option("HT_TOKEN", None, _token, secret=True)
    pull_interval: float = _option("HT_PULL_INTERVAL", 30.0, _number(0.1, 86_400, "seconds"))
    pull_jitter: float = _option("HT_PULL_JITTER", 5.0, _number(0, 86_400, "seconds"))
    log_level: str = _option("HT_LOG_LEVEL", "INFO", _level)
    flush_events: bool = _option("HT_FLUSH_EVENTS", default=False, parse=_flag)
    connect_to_server: bool = _option("HT_CONNECT_TO_SERVER", default=True, parse=_flag)
    server_url: str = _option("HT_SERVER_URL", "https://sdk.hypotest.io", _url)
    allow_http: bool = _option("HT_ALLOW_HTTP", default=False, parse=_flag)
    state_dir: str | None = _option("HT_STATE_DIR", None, _path)
    send_interval: float = _option("HT_SEND_INTERVAL", 1.0, _number(0.05, 3600, "seconds"))
    flush_timeout: float = _option("HT_FLUSH_TIMEOUT", 5.0, _number(0, 3600, "seconds"))
    max_spool_bytes: int = _option("HT_MAX_SPOOL_BYTES", 512 << 20, _size)
    max_event_age: float = _option("HT_MAX_EVENT_AGE", 7 * 86_400.0, _number(60, 3650 * 86_400, "seconds"))
    hash_ids: str | None = _option("HT_HASH_IDS", None, _salt, secret=True)
    connection_timeout: float = _option("HT_CONNECTION_TIMEOUT", 2.0, _number(0.05, 300, "seconds"))
    leader: str = _option("HT_LEADER", "auto", _leader)

    def __init__(self, **values: object) -> None:
        """Takes parameters by name, valid ones; the others have their defaults."""
        super().__init__(**({name: option.default for name, option in OPTIONS.items()} | values))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, option in OPTIONS.items() if not option.secret)
        return f"Config({', '.join(shown)})"

    def replace(self, **changes: object) -> Config:
        """A copy in which these parameters are different."""
        return Config(**(self.__dict__ | changes))


OPTIONS: dict[str, Option] = {name: vars(Config)[name] for name in Config.__annotations__}


def parse(name: str, value: object) -> Any:
    """The usable form of `value` for the parameter `name`.

    Raises:
        ConfigError: no such parameter, or a value it cannot take. The message never holds a secret.
    """
    if name not in OPTIONS:
        raise ConfigError(f"no parameter is called {name!r:.60}; there are {', '.join(OPTIONS)}")
    option = OPTIONS[name]
    try:
        return option.parse(value)
    except ConfigError as error:
        got = "" if option.secret or _holds_password(value) else f", got {value!r:.60}"
        raise ConfigError(f"{name}: {error}{got}") from None


def _holds_password(value: object) -> bool:
    return isinstance(value, str) and "@" in value  # https://user:password@host


def _mistyped(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that are no parameter's, each with the one that it looks like."""
    known = {option.env for option in OPTIONS.values()}
    for name in environ:
        if name.startswith("HT_") and name not in known:
            near = lazy.load("difflib").get_close_matches(name, known, n=1, cutoff=_LIKENESS)
            yield from ((name, found) for found in near)


def resolve(overrides: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The configuration in force.

    Args:
        overrides: parsed values by parameter name, from `config()`.
        environ: the environment; an empty variable counts as unset.

    Returns:
        The configuration, and one warning for each variable of the environment that was not usable, or seems mistyped.
    """
    values: dict[str, Any] = {}
    warnings = [f"{name} is not known; is {known} meant?" for name, known in _mistyped(environ)]
    for name, option in OPTIONS.items():
        env = option.env
        if name in overrides:
            values[name] = overrides[name]
        elif environ.get(env):
            try:
                values[name] = parse(name, environ[env])
            except ConfigError as error:
                warnings.append(f"{env} is not used: {error}")
                if name == "server_url":
                    values[name] = NOWHERE
    return Config(**values), warnings
