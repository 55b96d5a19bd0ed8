from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import orjson
import pytest

from hypotest.server.batch import parse_batch
from hypotest.server.refusal import Refusal
from hypotest.server.store import COLUMNS
from tests.server.sample import goal, match, visit


def parse(*events: Any) -> list[dict[str, Any]]:
    rows = parse_batch(orjson.dumps({"events": events}), 7)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def refuse(*events: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(*events)
    return caught.value


def test_visit() -> None:
    """A visit becomes a row of the columns of the store."""
    sent = visit("control", user="u", visitor="v", when=3, test="button", ht_sdk_error="late", shoe_size=44)
    assert parse(sent) == [
        {
            "account": 7,
            "event_id": sent["event_id"],
            "type": "visit",
            "time": "2024-12-31 23:00:03.000000",
            "user_id": "u",
            "visitor_id": "v",
            "name": "button",
            "variant": "control",
            "value": None,
            "error": "late",
            "tags": '{"sdk_version":"2.0.0","sdk_type":"python3"}',
            "context": None,
        }
    ]


def test_match() -> None:
    """The context of a match is kept as JSON, whatever it is."""
    (row,) = parse(match("u", "v", context={"page": [1, None]}))
    assert (row["type"], row["context"]) == ("match_user_visitor", '{"page":[1,null]}')


def test_event_of_109() -> None:
    """Events without an event_id are accepted, and so are absent ids and tags."""
    sent = visit()
    for field in ("event_id", "user_id", "visitor_id", "tags_name_value"):
        del sent[field]
    (row,) = parse(sent)
    assert [row[name] for name in ("event_id", "user_id", "visitor_id", "tags")] == [None] * 4


@pytest.mark.parametrize(
    ("value", "kept"), [(2, 2.0), (2.5, 2.5), (None, None), ("9.99", 9.99), (True, 1.0), (2**63, 2.0**63)]
)
def test_goal_value(value: Any, kept: float | None) -> None:
    """A goal's value is a number, null, or a number in a string."""
    (row,) = parse(goal(value=value))
    assert (row["value"], row["error"]) == (kept, None)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("event_type", "purchase", "'purchase' is none of visit, goal, match_user_visitor"),
        ("event_type", None, "null is none of"),
        ("time", "2024-12-31T23:59:59.123456", "is not a time of the form 2024-12-31 23:59:59.123456"),
        ("time", 1735689599, "1735689599 is not a time"),
        ("time", None, "null is not a time"),
        ("user_id", 5, "5 is neither a string nor null"),
        ("visitor_id", ["v"], "['v'] is neither a string nor null"),
        ("event_id", "", "'' is not a string of 1 to 200 characters"),
        ("event_id", "x" * 201, "is not a string of 1 to 200 characters"),
        ("event_id", 12, "12 is not a string"),
        ("test_name", None, "null is not a string"),
        ("variant", True, "True is not a string"),
        ("tags_name_value", [], "[] is neither an object nor null"),
    ],
)
def test_invalid_visit(field: str, value: Any, why: str) -> None:
    """A refusal names the index, the field and what is wrong with it."""
    bad = visit() | {field: value}
    refusal = refuse(visit(), bad, visit())
    assert refusal.status == 422
    assert refusal.content["error"].startswith(f"events[1].{field}: ")
    assert why in refusal.content["error"]
    assert {**refusal.content, "error": 0} == {
        "error": 0,
        "index": 1,
        "field": field,
        "event_id": bad["event_id"],
    }


@pytest.mark.parametrize("value", ["many", "nan", "inf", [], {"a": 1}, "1_000"])
def test_goal_value_that_is_no_number(value: Any) -> None:
    """What can't be summed is kept as a goal without a value, and the row says so."""
    (row,) = parse(goal(value=value), goal())[:1]
    assert (row["value"], row["error"]) == (None, f"goal_value is no number: {value!r}")


def test_error_of_the_client_comes_first() -> None:
    """A client's own error is not replaced by ours."""
    assert parse(goal(value="many", ht_sdk_error="theirs"))[0]["error"] == "theirs"


@pytest.mark.parametrize("name", [5, 5.5])
def test_name_that_is_a_number(name: float) -> None:
    """A number as a name is its text."""
    assert parse(goal() | {"goal_name": name})[0]["name"] == str(name)


def test_invalid_goal_name() -> None:
    """A goal has a name."""
    assert refuse(goal() | {"goal_name": None}).content["field"] == "goal_name"


@pytest.mark.parametrize("event", [None, 5, "visit", [visit()]])
def test_event_is_no_object(event: Any) -> None:
    """An event that is no object has an index, and no more."""
    assert refuse(visit(), event).content["index"] == 1


def test_deep_tags() -> None:
    """Tags that are nested deeper than can be written again are refused, not a crash."""
    body = orjson.dumps({"events": [visit() | {"tags_name_value": {"a": 0}}]})
    deep = body.replace(b'"a":0', b'"a":' + b"[" * 500 + b"]" * 500)
    with pytest.raises(Refusal, match="tags_name_value: is nested too deeply"):
        parse_batch(deep, 1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"events": [NaN]}', b"[" * 100_000, b'"\\ud800"'])
def test_not_json(body: bytes) -> None:
    """A body that is not JSON is a 400."""
    with pytest.raises(Refusal, match="the body is not JSON: ") as caught:
        parse_batch(body, 1)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"events": {}}', b'{"events": null}', b"3"])
def test_not_a_batch(body: bytes) -> None:
    """JSON that is no batch is a 400 that shows the form."""
    with pytest.raises(Refusal) as caught:
        parse_batch(body, 1)
    assert (caught.value.status, str(caught.value)) == (400, 'the body is not {"events": [...]}')


def test_empty_batch() -> None:
    """A batch may be empty."""
    assert parse() == []


def test_times() -> None:
    """Of a great many near misses, a time is accepted exactly if strftime could have written it."""
    dice = random.Random(1)
    accepted = 0
    for _ in range(20_000):
        text = list("2024-02-29 23:59:59.123456")
        for _ in range(dice.randint(0, 2)):
            text[dice.randrange(len(text))] = dice.choice("0123459-: .TZ+W٣")
        time = "".join(text)[: dice.choice([26, 26, 26, 25, 23, 19])]
        if _is_wire_time(time):
            accepted += 1
            assert parse(visit() | {"time": time})[0]["time"] == time
        else:
            assert refuse(visit() | {"time": time}).content["field"] == "time"
    assert accepted > 4_000


def _is_wire_time(text: str) -> bool:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").isoformat(" ", "microseconds") == text  # noqa: DTZ007
    except ValueError:
        return False
