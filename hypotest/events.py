"""The event records as bytes: JSON objects without their id, which the sender adds from the event's place in the spool.

Every value the application hands us is made to fit: what JSON has no form for becomes its str(), and nothing a tag
holds, cyclic, deep, or raising, loses the event.

In the spool an event begins with `{"time":1` and 19 digits, the nanoseconds since 1970; `sent` makes a text of them
when it leaves. To do that in the application's call took a tenth of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import isfinite
from time import gmtime, strftime, time_ns

import orjson

from hypotest import lazy, log
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
_USER, _VISITOR = b',"user_id":', b',"visitor_id":'
_NO_VISITOR = _VISITOR + b"null"
_MATCH = b',"event_type":"match_user_visitor"'
_GOAL_WITHOUT_ID = b',"ht_sdk_error":"goal was sent without user_id and visitor_id"'
_MOST_KEPT, _LONGEST_KEPT = 1_000, 200
_STAMP, _STAMP_OF_NOW = b'{"time":', b'{"time":1'
_TWENTY_DIGITS = 10**19  # added to the nanoseconds: their digits then stand at the same places, until 2237
_UP_TO_SECOND, _SECOND, _MICROSECOND, _END_OF_STAMP = slice(0, 19), slice(9, 19), slice(19, 25), 28
_texts: dict[bytes, bytes] = {}

dumps = orjson.dumps


class Encoder:
    """Makes events. One for each process and configuration."""

    def __init__(self, salt: str | None) -> None:
        """Takes the salt of `hash_ids`; None leaves ids as they are."""
        self._id: Callable[[str | None], bytes] = _hasher(salt.encode("utf-8", "surrogatepass")) if salt else dumps
        self._goal_heads: dict[str, bytes] = {}

    def visit(
        self,
        name: str,
        decision: Decision,
        user_id: str | None,
        visitor_id: str | None,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """An exposure of the wire format's type `visit`."""
        head, head_of_visitor, tail_of_user, tail = decision.encoded or _encode(name, decision)
        if tags is not None:
            tail = _tags(tags, decision.override_reason)
            tail_of_user = _NO_VISITOR + tail
        if visitor_id is None:
            begin, known, end = head, user_id, tail_of_user
        elif user_id is None:
            begin, known, end = head_of_visitor, visitor_id, tail
        else:
            return self._event(head, user_id, visitor_id, tail)
        try:
            # As `_event` does with two ids. Here by itself, and with kept parts: a twentieth of the application's call.
            return b"".join((_STAMP, dumps(time_ns() + _TWENTY_DIGITS), begin, self._id(known), end))
        except TypeError as error:
            let_through(error)
            return self._event(head, user_id, visitor_id, tail)

    def goal(
        self,
        name: str,
        user_id: str | None,
        visitor_id: str | None,
        value: object,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """A KPI event of the wire format's type `goal`."""
        head = (self._goal_heads.get(name) if type(name) is str else None) or self._goal_head(name)
        encoded = dumps(value) if type(value) is float else _json(value)
        ids = _USER if user_id or visitor_id else _GOAL_WITHOUT_ID + _USER
        return self._event(head + encoded + ids, user_id, visitor_id, _NO_TAGS if tags is None else _tags(tags))

    def match(
        self,
        user_id: str | None,
        visitor_id: str | None,
        context: object,
        tags: Mapping[str, object] | None,
    ) -> bytes:
        """An event of the wire format's type `match_user_visitor`."""
        given = context is not None and not (isinstance(context, str) and not context)
        head = _MATCH + b',"context":' + _json(context) + _USER if given else _MATCH + _USER
        return self._event(head, user_id, visitor_id, _NO_TAGS if tags is None else _tags(tags))

    def _event(self, head: bytes, user_id: str | None, visitor_id: str | None, tail: bytes) -> bytes:
        try:
            return b"".join(
                (
                    _STAMP,
                    dumps(time_ns() + _TWENTY_DIGITS),
                    head,
                    b"null" if user_id is None else self._id(user_id),
                    _VISITOR,
                    b"null" if visitor_id is None else self._id(visitor_id),
                    tail,
                )
            )
        except TypeError as error:  # orjson's: a lone surrogate
            let_through(error)
            return self._event(head, user_id and as_text(user_id), visitor_id and as_text(visitor_id), tail)

    def _goal_head(self, name: object) -> bytes:
        if not isinstance(name, str) or not name:
            log.limited(
                log.WARNING, "name", "the name of a KPI event is a text: %s is kept as its text", log.shown(name)
            )
        head = b',"event_type":"goal","goal_name":%b,"goal_value":' % _json(
            name if isinstance(name, str) else as_text(name)
        )
        if type(name) is str and len(name) <= _LONGEST_KEPT:
            if len(self._goal_heads) >= _MOST_KEPT:  # names made of ids: no reason to grow for ever
                self._goal_heads.clear()
            self._goal_heads[name] = head
        return head


def _hasher(salt: bytes) -> Callable[[str | None], bytes]:
    hmac = lazy.load("hmac")

    def hashed(value: str | None) -> bytes:
        if not value:  # an empty id is none, and must not become somebody's
            return dumps(value)
        digest = hmac.new(salt, value.encode("utf-8", "surrogatepass"), "sha256")
        return b'"%b"' % digest.hexdigest().encode()

    return hashed


def sent(payloads: Iterable[bytes]) -> list[bytes]:
    """Events as the server takes them, their times as text, and each without its opening brace."""
    found = []
    for payload in payloads:
        text = _texts.get(payload[_UP_TO_SECOND]) or _begin_of(payload)
        found.append(text + payload[_MICROSECOND] + b'"' + payload[_END_OF_STAMP:] if text else payload[1:])
    return found


def _begin_of(payload: bytes) -> bytes:
    """The time as text, up to its microseconds; nothing for an event that is not of this module."""
    if not _is_stamped(payload):
        return b""
    if len(_texts) >= _MOST_KEPT:
        _texts.clear()
    text = strftime("%Y-%m-%d %H:%M:%S", gmtime(int(payload[_SECOND])))
    return _texts.setdefault(payload[_UP_TO_SECOND], f'"time":"{text}.'.encode())


def is_older(payload: bytes, cutoff: float) -> bool:
    """Whether an event was accepted before the Unix time `cutoff`, by its own clock."""
    return _is_stamped(payload) and int(payload[_SECOND]) < int(cutoff)


def _is_stamped(payload: bytes) -> bool:
    return payload.startswith(_STAMP_OF_NOW) and payload[_SECOND].isdigit()


def _encode(name: str, decision: Decision) -> tuple[bytes, bytes, bytes, bytes]:
    """What events of a decision have in common; kept with it."""
    error = b"" if decision.error is None else b',"ht_sdk_error":%b' % _json(decision.error)
    name = name if isinstance(name, str) else as_text(name)
    head = b',"event_type":"visit","variant":%b,"test_name":%b%b,"user_id":' % (
        _json(decision.recorded),
        _json(name),
        error,
    )
    tail = _tags(None, decision.override_reason) if decision.override_reason else _NO_TAGS
    found = decision.encoded = (head, head + b"null" + _VISITOR, _NO_VISITOR + tail, tail)
    return found


def _tags(tags: object, override_reason: str | None = None) -> bytes:
    """The last field of an event: the caller's tags without nulls, ours, and the closing brace."""
    if type(tags) is dict and not override_reason:
        try:
            text = dumps({**tags, **_SDK_TAGS}, None, _OPTIONS)
        except Exception as error:  # noqa: BLE001 - a key that is no str, a value that JSON has no form for
            let_through(error)
        else:
            if b"null" not in text.lower():  # no None, no NaN, no "Null": nothing is to be left out
                return b',"tags_name_value":%b}' % text
    clean: dict[str, object] = {}
    if isinstance(tags, Mapping):
        for key, value in _items(tags):
            if value is None or not isinstance(key, str) or _is_null(value):
                continue
            clean[key] = str(value) if type(value) is float and not isfinite(value) else value
    elif tags is not None:
        log.limited(log.WARNING, "tags", "tags are a mapping: a %s is left out", type(tags).__name__)
    if override_reason:
        clean["override_reason"] = override_reason
    clean.update(_SDK_TAGS)
    return b',"tags_name_value":%b}' % _json(clean)


def _is_null(value: object) -> bool:
    try:
        return isinstance(value, str) and str.lower(value) == "null"
    except Exception as error:  # noqa: BLE001 - a proxy that cannot tell what it stands for
        let_through(error)
        return False


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


def as_text(value: object) -> str:
    """A str, of no class of its own, that has UTF-8. Of a str of its own class it is what JSON has, not its `str()`."""
    try:
        text = str.__str__(value) if isinstance(value, str) else str(value)
    except Exception as error:  # noqa: BLE001 - a __str__ of the application must not lose the event
        let_through(error)
        text = _unfit(value)
    return text.encode("utf-8", "replace").decode()


def _unfit(value: object) -> str:
    return f"<{type(value).__name__} without a str>"


def _fit(value: object, depth: int, nodes: list[int]) -> object:
    """`value` as JSON has it: no cycle, no surrogate, no number beyond 64 bits, no key that is not a str."""
    try:
        return _fitted(value, depth, nodes)
    except Exception as error:  # noqa: BLE001 - a class of the application must not lose the event
        let_through(error)
        return _unfit(value)


def _fitted(value: object, depth: int, nodes: list[int]) -> object:  # noqa: PLR0911 - one line for each kind of JSON
    nodes[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_INT64 <= value < 2 * _INT64 else as_text(int(value))
    if isinstance(value, float):
        return float(value) if isfinite(value) else as_text(float(value))
    if isinstance(value, str):
        return as_text(value)
    if nodes[0] < 0 or depth == 0:
        return "..."
    if isinstance(value, Enum):
        return _fit(value.value, depth - 1, nodes)  # as orjson has it, where nothing has to be made to fit
    if isinstance(value, Mapping):
        return {as_text(key): _fit(item, depth - 1, nodes) for key, item in _items(value) if isinstance(key, str)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_fit(item, depth - 1, nodes) for item in list(value)]
    return as_text(value)
