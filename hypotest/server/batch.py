"""A batch of events: from the bytes of a request to rows of the database, in one pass.

Unknown fields are ignored. Nothing of a batch is stored unless all of it is valid: the client bisects and
finds the event at fault, which a partly stored batch would hide.
"""

from __future__ import annotations

from datetime import datetime
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from hypotest.server.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EVENT_ID = 200
TYPES = ("visit", "goal", "match_user_visitor")

# In the order of `store.COLUMNS`.
Row: TypeAlias = "tuple[int, str | None, str, str, str | None, str | None, str | None, str | None, float | None, str | None, str | None, str | None]"  # noqa: E501

_Special: TypeAlias = "tuple[str | None, str | None, float | None, str | None, str | None]"  # name ... context


class _Invalid(Exception):
    def __init__(self, field: str, why: str) -> None:
        super().__init__(field, why)
        self.field, self.why = field, why


def parse_batch(body: bytes, account: int) -> list[Row]:
    """Turns `{"events": [EVENT, ...]}` into rows of an account.

    Raises:
        Refusal: 400 if it is not that, 422 with `index`, `field` and `event_id` of the first invalid event.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    events = document.get("events") if isinstance(document, dict) else None
    if not isinstance(events, list):
        raise Refusal(400, 'the body is not {"events": [...]}')
    rows: list[Row] = []
    try:
        for event in events:
            rows.append(_row(event, account))  # noqa: PERF401 - its length is the index of the event at fault
    except _Invalid as error:
        index = len(rows)
        raise Refusal(
            422,
            f"events[{index}].{error.field}: {error.why}",
            index=index,
            field=error.field,
            event_id=events[index].get("event_id") if isinstance(events[index], dict) else None,
        ) from None
    return rows


def _row(event: Any, account: int) -> Row:
    if type(event) is not dict:
        raise _Invalid("", f"an event is an object, not {_show(event)}")
    get = event.get
    event_type: Any = get("event_type")
    name, variant, value, own_error, context = _by_type(event_type, get)
    event_id, user_id, visitor_id, error = get("event_id"), get("user_id"), get("visitor_id"), get("ht_sdk_error")
    if event_id is not None and (type(event_id) is not str or not 0 < len(event_id) <= MAX_EVENT_ID):
        raise _Invalid("event_id", f"{_show(event_id)} is not a string of 1 to {MAX_EVENT_ID} characters")
    if user_id is not None and type(user_id) is not str:
        raise _Invalid("user_id", f"{_show(user_id)} is neither a string nor null")
    if visitor_id is not None and type(visitor_id) is not str:
        raise _Invalid("visitor_id", f"{_show(visitor_id)} is neither a string nor null")
    if error is not None and type(error) is not str:
        error = _json("ht_sdk_error", error)
    error = error or own_error
    tags = get("tags_name_value")
    if tags is not None:
        if type(tags) is not dict:
            raise _Invalid("tags_name_value", f"{_show(tags)} is neither an object nor null")
        tags = _json("tags_name_value", tags)
    time = _time(get("time"))
    return account, event_id, event_type, time, user_id, visitor_id, name, variant, value, error, tags, context


def _by_type(event_type: Any, get: Callable[[str], Any]) -> _Special:
    """Gives what each type has of its own."""
    if event_type == "visit":
        return _text("test_name", get("test_name")), _text("variant", get("variant")), None, None, None
    if event_type == "goal":
        value, error = _number(get("goal_value"))
        return _text("goal_name", get("goal_name")), None, value, error, None
    if event_type == "match_user_visitor":
        context = get("context")
        return None, None, None, None, None if context is None else _json("context", context)
    raise _Invalid("event_type", f"{_show(event_type)} is none of {', '.join(TYPES)}")


def _time(value: Any) -> str:
    try:
        datetime.fromisoformat(value)
        # It takes other spellings too; this leaves one, in which the order of texts is the order of times.
        if len(value) == 26 and value[4:20:3] == "-- ::." and value[20:].isdigit():  # noqa: PLR2004
            return value  # type: ignore[no-any-return]  # it took it: a str
    except (TypeError, ValueError):
        pass
    raise _Invalid("time", f"{_show(value)} is not a time of the form 2024-12-31 23:59:59.123456")


def _text(field: str, value: Any) -> str:
    if type(value) is str:
        return value
    if type(value) in (int, float):
        return str(value)
    raise _Invalid(field, f"{_show(value)} is not a string")


def _number(value: Any) -> tuple[float | None, str | None]:
    """Gives the value and an error. A goal that cannot be summed still happened: it is no reason to refuse it."""
    if value is None:
        return None, None
    try:
        number = float(value) if _is_numeric(value) else inf
    except ValueError:
        number = inf
    return (number, None) if isfinite(number) else (None, f"goal_value is no number: {_show(value)}")


def _is_numeric(value: Any) -> bool:
    """Tells numbers and what a client made of a Decimal; Python's `1_000` is no one else's."""
    return isinstance(value, (float, int)) or (isinstance(value, str) and "_" not in value)


def _json(field: str, value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it was decoded a moment ago: only its depth can be wrong
        raise _Invalid(field, "is nested too deeply") from None


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004
