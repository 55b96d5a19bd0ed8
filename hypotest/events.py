"""The event records as bytes: JSON objects without their id, which the sender adds from the event's place in the spool.

Every value the application hands us is made to fit: what JSON has no form for becomes its str(), and nothing a tag
holds, cyclic, deep, or raising, loses the event.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import orjson

from hypotest import lazy
from hypotest.assignment import Decision
from hypotest.config import SDK_TYPE, VERSION
from hypotest.interrupts import let_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_SDK_TAGS = {"sdk_version": VERSION, "sdk_type": SDK_TYPE}
_NO_TAGS = b',"tags_name_value":' + orjson.dumps(_SDK_TAGS) + b"}"
_MAX_DEPTH, _MAX_NODES = 32, 10_000
_INT64 = 1 << 63
_TIME_START, _TIME_END = len(b'{"time":"'), len(b'{"time":"2026-01-01 00:00:00')

dumps = orjson.dumps


class Encoder:
    """Makes events. One for each process and configuration."""

    def __init__(self, salt: str | None) -> None:
        """Takes the salt of `hash_ids`; None leaves ids as they are."""
        self._salt = salt.encode("utf-8", "surrogatepass") if salt else None
        self._hmac = lazy.load("hmac") if salt else None
        self._second: tuple[int, bytes] = (0, b"")

    def visit(
        self,
        name: str,
        decision: Decision,
        user_id: str | None,
        visitor_id: str | None,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """An exposure of wire.md's type `visit`."""
        constant = decision.encoded
        if constant is None:
            constant = decision.encoded = _visit_constant(name, decision)
        if tags is not None or decision.override_reason:
            extra = {"override_reason": decision.override_reason} if decision.override_reason else {}
            tail = _tags(tags, extra)
        else:
            tail = _NO_TAGS
        return b'{"time":"%b%b%b,"visitor_id":%b%b' % (
            self._now(),
            constant,
            b"null" if user_id is None else self._id(user_id),
            b"null" if visitor_id is None else self._id(visitor_id),
            tail,
        )

    def goal(
        self,
        name: str,
        user_id: str | None,
        visitor_id: str | None,
        value: object,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """A KPI event of wire.md's type `goal`."""
        error = b"" if user_id or visitor_id else b',"ht_sdk_error":"goal was sent without user_id and visitor_id"'
        return b'{"time":"%b","event_type":"goal","goal_name":%b,"goal_value":%b%b,"user_id":%b,"visitor_id":%b%b' % (
            self._now(),
            _name(name),
            _json(value),
            error,
            b"null" if user_id is None else self._id(user_id),
            b"null" if visitor_id is None else self._id(visitor_id),
            _NO_TAGS if tags is None else _tags(tags, {}),
        )

    def match(
        self,
        user_id: str | None,
        visitor_id: str | None,
        context: object,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """An event of wire.md's type `match_user_visitor`."""
        given = context is not None and not (isinstance(context, str) and not context)
        said = b',"context":%b' % _json(context) if given else b""
        return b'{"time":"%b","event_type":"match_user_visitor"%b,"user_id":%b,"visitor_id":%b%b' % (
            self._now(),
            said,
            b"null" if user_id is None else self._id(user_id),
            b"null" if visitor_id is None else self._id(visitor_id),
            _NO_TAGS if tags is None else _tags(tags, {}),
        )

    def _id(self, value: str) -> bytes:
        if self._hmac is not None and value:  # an empty id is none, and must not become somebody's
            digest = self._hmac.new(self._salt, value.encode("utf-8", "surrogatepass"), "sha256")
            return b'"%b"' % digest.hexdigest().encode()
        try:
            return dumps(value)
        except TypeError as error:
            let_through(error)
            return _json(value)

    def _now(self) -> bytes:
        now = time.time()
        second = int(now)
        cached, text = self._second
        if cached != second:
            text = _utc(second)
            self._second = (second, text)
        return b"%b%06d" % (text, (now - second) * 1e6)


def _utc(second: int) -> bytes:
    return time.strftime("%Y-%m-%d %H:%M:%S.", time.gmtime(second)).encode()


def is_older(payload: bytes, cutoff: float) -> bool:
    """Whether an event was accepted before the Unix time `cutoff`, by its own clock."""
    return payload[_TIME_START:_TIME_END] < _utc(max(0, int(cutoff)))[:-1]


def _visit_constant(name: str, decision: Decision) -> bytes:
    error = b"" if decision.error is None else b',"ht_sdk_error":%b' % _json(decision.error)
    return b'","event_type":"visit","variant":%b,"test_name":%b%b,"user_id":' % (
        _json(decision.recorded),
        _json(name),
        error,
    )


def _name(value: object) -> bytes:
    return _json(value if isinstance(value, str) else _text(value))


def _tags(tags: Mapping[str, object] | None, extra: Mapping[str, object]) -> bytes:
    """The last field of an event: the caller's tags without nulls, ours, and the closing brace."""
    clean: dict[str, object] = {}
    if isinstance(tags, Mapping):
        for key, value in _items(tags):
            kind = type(value)
            if value is None or not isinstance(key, str) or (kind is str and value.lower() == "null"):
                continue
            clean[key] = str(value) if kind is float and not math.isfinite(value) else value
    clean.update(extra)
    clean.update(_SDK_TAGS)
    return b',"tags_name_value":%b}' % _json(clean)


def _items(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    try:
        return list(mapping.items())  # a copy: another thread of the application may change it meanwhile
    except Exception as error:  # noqa: BLE001 - a Mapping of the application
        let_through(error)
        return []


def _json(value: object) -> bytes:
    try:
        # No `default` function: orjson strips the traceback of what an interrupt raises in it.
        return dumps(value, None, _OPTIONS)
    except Exception as error:  # noqa: BLE001 - a cycle, a surrogate, 2**70, an object: made to fit below
        let_through(error)
        return dumps(_fit(value, _MAX_DEPTH, [_MAX_NODES]))


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a __str__ of the application must not lose the event
        let_through(error)
        text = f"<{type(value).__name__} without a str>"
    return text.encode("utf-8", "replace").decode()


def _fit(value: object, depth: int, nodes: list[int]) -> object:  # noqa: PLR0911 - one line for each kind of JSON
    """`value` as JSON has it: no cycle, no surrogate, no number beyond 64 bits, no key that is not a str."""
    nodes[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_INT64 <= value < 2 * _INT64 else _text(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _text(float(value))
    if isinstance(value, str):
        return _text(value)
    if nodes[0] < 0 or depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {_text(key): _fit(item, depth - 1, nodes) for key, item in _items(value) if isinstance(key, str)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_fit(item, depth - 1, nodes) for item in list(value)]
    return _text(value)
