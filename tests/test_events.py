"""The event records as bytes: always valid JSON, whatever the application hands in."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import hashlib
import hmac
import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from hypotest import events
from hypotest.assignment import Decision, undefined
from hypotest.events import Encoder, is_older, sent
from hypotest.variant import Variant
from tests.server_process import ServerProcess

SDK = {"sdk_version": "2.0.0", "sdk_type": "python3"}


class Raises:
    """An object of the application that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class RaisingMapping(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class NoTruth(dict[str, Any]):
    """A mapping that is neither true nor false, as a data frame is."""

    def __bool__(self) -> bool:
        raise ValueError


class Text(str):
    __slots__ = ()


class Colour(enum.Enum):
    RED = "red"


class RaisingList(list[Any]):
    def __iter__(self) -> Any:
        raise ValueError("iter")


class RaisingInt(int):
    def __int__(self) -> int:
        raise ValueError("int")


class Lazy:
    """As a proxy whose object cannot be had now."""

    @property
    def __class__(self) -> Any:
        raise ValueError("class")

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


def cycle() -> dict[str, Any]:
    found: dict[str, Any] = {"list": []}
    found["list"].append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


WEIRD: dict[str, Any] = {
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"x"),
    "datetime": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
    "date": dt.date(2026, 1, 2),
    "nan": math.nan,
    "infinity": -math.inf,
    "nested nan": [math.nan, {"x": math.inf}],
    "surrogate": "a\ud800b",
    "nested surrogate": ["\udfff", {"\ud800": 1}],
    "big": 2**70,
    "nested big": [2**64, -(2**63) - 1, 2**64 - 1, -(2**63)],
    "gigantic": 10**5000,
    "cycle": cycle(),
    "deep": deep(),
    "wide": list(range(100_000)),
    "raises": Raises(),
    "nested raises": {"x": [Raises()]},
    "keys": {1: "int", None: "none", ("t",): "tuple", "str": "kept", b"b": 1},
    "set": {1},
    "frozen": frozenset(["x"]),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "complex": 1 + 2j,
    "enum": Colour.RED,
    "raising list": RaisingList([object()]),
    "raising int": RaisingInt(2**70),
    "lazy": Lazy(),
    "nested lazy": [Lazy(), {"x": Lazy()}],
    "text": Text("sub"),
    "type": int,
    "function": cycle,
    "generator": (n for n in range(3)),
    "proxy": MappingProxyType({"a": 1}),
    "mapping": RaisingMapping(),
    "quotes": 'a"b\\c\n\u2028\0',
    "true": True,
}


def strict(raw: bytes) -> Any:
    """Read JSON as the strictest reader does: no NaN, no key twice."""

    raw = b"{" + sent([raw])[0]

    def no_constant(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    return json.loads(raw, parse_constant=no_constant, object_pairs_hook=once)


def goal(tags: Any = None, **more: Any) -> Any:
    values = {"name": "buy", "user_id": "u", "visitor_id": None, "value": 1.0, **more}
    return strict(Encoder(None).goal(**values, tags=tags))


def tags_of(tags: Any) -> Any:
    return goal(tags)["tags_name_value"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_the_three_types() -> None:
    """Each type has the fields of the protocol, and no other."""
    encoder, decision = Encoder(None), Decision(Variant("b"), "b", None, "why")
    visit = strict(encoder.visit("button", decision, None, "v", {"a": 1}))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", visit.pop("time"))
    assert visit == {
        "event_type": "visit",
        "variant": "b",
        "test_name": "button",
        "user_id": None,
        "visitor_id": "v",
        "tags_name_value": {"a": 1, "override_reason": "why", **SDK},
    }
    found = goal()
    assert (found["event_type"], found["goal_name"], found["goal_value"]) == ("goal", "buy", 1.0)
    assert found["tags_name_value"] == SDK
    assert "ht_sdk_error" not in found
    match = strict(encoder.match("u", "v", "login", None))
    assert (match["event_type"], match["user_id"], match["visitor_id"]) == ("match_user_visitor", "u", "v")
    assert match["context"] == "login"
    assert "context" not in strict(encoder.match("u", "v", None, None))


def test_errors_are_in_the_event() -> None:
    """An exposure says what was wrong with it, and a goal without an id says so."""
    assert strict(Encoder(None).visit("x", undefined('no "such"'), "u", None, None))["ht_sdk_error"] == 'no "such"'
    assert "without user_id" in goal(user_id=None)["ht_sdk_error"]
    assert "without user_id" in goal(user_id="")["ht_sdk_error"]


@pytest.mark.parametrize("name", WEIRD)
def test_a_weird_tag_loses_nothing(name: str, server: ServerProcess) -> None:
    """An event with such a tag is strict JSON, keeps its other tags, and the server takes it."""
    event = goal({"before": 1, name: WEIRD[name], "after": "x"})
    kept = event["tags_name_value"]
    assert (kept["before"], kept["after"], kept["sdk_type"]) == (1, "x", "python3")
    assert name in kept
    assert server.post([event]).status_code == 200


@pytest.mark.parametrize("name", [name for name in WEIRD if name != "lazy"])
def test_a_weird_value_or_name_loses_nothing(name: str, server: ServerProcess) -> None:
    """The same holds for the value of a goal, its name, and the context of a match."""
    event = goal(value=WEIRD[name])
    named = goal(name=WEIRD[name])
    match = strict(Encoder(None).match("u", "v", WEIRD[name], {"k": 1}))
    assert server.post([event, named, match]).status_code == 200


@pytest.mark.parametrize("beside", [1, dt.date(2026, 1, 2)])
def test_an_enum_is_its_value_whatever_stands_beside_it(beside: object) -> None:
    """Else one segment of users would be two in the results."""
    tags = {"colour": Colour.RED, "nested": [{"x": Colour.RED}], "beside": beside}
    assert (tags_of(tags)["colour"], tags_of(tags)["nested"]) == ("red", [{"x": "red"}])


def test_what_json_has_no_form_for_becomes_its_str() -> None:
    """Values are kept as JSON where it has a form for them, and as their str() where not."""
    kept = tags_of({name: value for name, value in WEIRD.items() if name not in ("wide", "deep", "cycle")})
    assert kept["bytes"] == r"b'\xff\x00'"
    assert kept["datetime"] == "2026-01-02 03:04:05+00:00"
    assert (kept["nan"], kept["infinity"]) == ("nan", "-inf")
    assert kept["surrogate"] == "a?b"
    assert kept["big"] == str(2**70)
    assert kept["nested big"] == [str(2**64), str(-(2**63) - 1), 2**64 - 1, -(2**63)]
    assert kept["decimal"] == "1.10"
    assert kept["keys"] == {"str": "kept"}
    assert (kept["raises"], kept["text"], kept["true"]) == ("<Raises without a str>", "sub", True)
    assert kept["quotes"] == WEIRD["quotes"]


def test_one_huge_tag_does_not_cost_the_others_their_text() -> None:
    """What is cut short in a huge structure is that structure."""
    kept = tags_of({"wide": list(range(20_000)), "bad": "\ud800", "after": "text"})
    assert (len(kept["wide"]), kept["bad"], kept["after"]) == (20_000, "?", "text")


def test_nulls_and_odd_keys_are_left_out() -> None:
    """None, the string null in any case, and keys that are not str are no tags."""
    safe = type("Safe", (str,), {})
    given = {"a": None, "b": "null", "c": "NULL", "d": "nullable", "e": safe("Null"), 1: "x", None: 1}
    assert tags_of(given) == {"d": "nullable", **SDK}


@pytest.mark.parametrize(
    "value", [None, "null", "NULL", "nul", 1, 1.5, math.nan, -math.inf, [None], [math.nan], {1: 2}]
)
def test_a_dict_is_encoded_as_any_other_mapping(value: Any) -> None:
    """What the short way for most tags makes is what the long one makes."""
    for given in (
        {"a": value},
        {"before": 1, "a": value, "sdk_type": "mine", "ä": "Null and void"},
        {"a": 1, 2: value},
    ):
        assert list(tags_of(given).items()) == list(tags_of(MappingProxyType(given)).items())


@pytest.mark.parametrize("tags", [None, {}, [], "text", b"bytes", 7, [("a", 1)], Raises(), RaisingMapping(), object])
def test_tags_that_are_no_dict(tags: Any) -> None:
    """Tags that are none are as good as empty."""
    assert tags_of(tags) == SDK


def test_mappings_of_other_kinds() -> None:
    """Any mapping will do, also one that is neither true nor false."""
    assert tags_of(MappingProxyType({"a": 1})) == tags_of(NoTruth(a=1)) == {"a": 1, **SDK}


def test_the_callers_tags_are_never_changed() -> None:
    """Neither the dict nor what it holds is touched."""
    inner = {"x": [1, math.nan], 1: 2}
    tags = {"a": None, "b": inner, "sdk_type": "mine", "c": "\ud800"}
    before = repr(tags)
    assert tags_of(tags)["sdk_type"] == "python3"
    assert repr(tags) == before


def test_ten_megabytes() -> None:
    """A huge tag is encoded as it is: the spool refuses and counts what is too large."""
    assert len(tags_of({"a": "x" * 10_000_000})["a"]) == 10_000_000


def test_no_tag_can_break_out() -> None:
    """Text that looks like JSON stays text, in names, ids, keys and values."""
    evil = '"},"x":{"'
    found = goal({evil: evil}, name=evil, user_id=evil)
    assert set(found) == {"time", "event_type", "goal_name", "goal_value", "user_id", "visitor_id", "tags_name_value"}
    assert (found["goal_name"], found["user_id"], found["tags_name_value"][evil]) == (evil, evil, evil)


def test_hashed_ids() -> None:
    """With a salt, ids are HMAC-SHA256 under it and stand nowhere in the event; no id stays no id."""
    encoder = Encoder("sålt")
    raw = encoder.goal("buy", "alice", "\ud800", 1, None)
    assert b"alice" not in raw
    found = strict(raw)
    assert found["user_id"] == hmac.new("sålt".encode(), b"alice", hashlib.sha256).hexdigest()
    assert len(found["visitor_id"]) == 64
    none = strict(encoder.goal("buy", "", None, 1, None))
    assert (none["user_id"], none["visitor_id"]) == ("", None)


def test_an_id_that_is_not_unicode() -> None:
    """A lone surrogate in an id does not lose the event."""
    assert goal(user_id="a\ud800")["user_id"] == "a?"


def test_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is UTC with microseconds, also at the edges of a second and when the clock goes back."""
    encoder = Encoder(None)
    for now, text in (
        (1_700_000_000_000_000_000, "2023-11-14 22:13:20.000000"),
        (1_700_000_000_999_999_999, "2023-11-14 22:13:20.999999"),
        (1_700_000_059_500_000_000, "2023-11-14 22:14:19.500000"),
        (1_699_999_999_250_000_000, "2023-11-14 22:13:19.250000"),
        (0, "1970-01-01 00:00:00.000000"),  # a machine without a clock of its own
        (5_000_001_000, "1970-01-01 00:00:05.000001"),
        (8_446_744_073_709_551_615, "2237-09-01 05:47:53.709551"),
    ):
        monkeypatch.setattr(events, "time_ns", lambda now=now: now)
        assert strict(encoder.goal("x", "u", None, 1, None))["time"] == text


def test_an_event_that_is_no_event_of_ours_is_sent_as_it_is() -> None:
    """A record without a time of ours is sent without a change, and never counts as too old."""
    for payload in (b"{}", b'{"time":"2026-01-01 00:00:00.000000"}', b'{"time":null}', b'{"time":1.5}', b'{"time":1'):
        assert sent([payload]) == [payload[1:]]
        assert not is_older(payload, time.time() + 60)


def test_is_older() -> None:
    """An event is older than a time if its own, in whole seconds, is before it."""
    payload, now = Encoder(None).goal("x", "u", None, 1, None), time.time()
    assert not is_older(payload, now - 60)
    assert is_older(payload, now + 60)
    assert not is_older(payload, -5)


@pytest.mark.parametrize("salt", [None, "salt"])
@pytest.mark.parametrize("reason", [None, "local_override_b"])
@pytest.mark.parametrize("tags", [None, {}, {"a": 1}])
def test_exposures_of_all_combinations_of_ids(salt: str | None, reason: str | None, tags: Any) -> None:
    """Each id stands in its own field, as it is or hashed, also if an event of other ids was made of the decision."""
    encoder, decision = Encoder(salt), Decision(Variant("b"), "b", None, reason)

    def shown(id_: str | None) -> str | None:
        text = id_ and id_.encode("utf-8", "replace").decode()
        return text and ((salt and hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()) or text)

    for user in (None, "", "u", '"', "a\u2028"):
        for visitor in (None, "", "v", "\\"):
            found = strict(encoder.visit("button", decision, user, visitor, tags))
            assert (found["user_id"], found["visitor_id"]) == (shown(user), shown(visitor))
            assert found["tags_name_value"] == (tags or {}) | ({"override_reason": reason} if reason else {}) | SDK


@pytest.mark.parametrize("ids", [("a\ud800", None), (None, "a\ud800"), ("a\ud800", "v"), ("u", "a\ud800")])
def test_an_exposure_of_an_id_that_is_not_unicode(ids: tuple[str | None, str | None]) -> None:
    """A lone surrogate in either id is a question mark in the event."""
    found = strict(Encoder(None).visit("button", Decision(Variant("b"), "b"), *ids, None))
    assert (found["user_id"], found["visitor_id"]) == tuple(id_ and id_.replace("\ud800", "?") for id_ in ids)


def test_one_visit_constant_for_each_decision() -> None:
    """What is kept of a decision between calls does not carry ids or tags over."""
    encoder, decision = Encoder(None), Decision(Variant("b"), "b")
    encoder.visit("x", decision, "first", None, {"a": 1})
    second = strict(encoder.visit("x", decision, "second", None, None))
    assert (second["user_id"], second["tags_name_value"], second["test_name"]) == ("second", SDK, "x")
