"""The settings document -> one record per experiment, and what is wrong with it; `settings` decodes the records.

What an entry may hold (other fields are ignored, so that a newer server can add some):

    test_id                     an integer                                       required
    condition_to_enter_test     a text of the grammar in `conditions`            required
    variants_distribution       an object, not empty: variant -> number >= 0     required
    test_state                  a text; only `calibration` is special            required
    test_active                 true or false                                    required
    tag_names                   a list of texts                                  absent: none
    override_control            a list; what is no text never matches            absent: none
    override_b                  likewise                                         absent: none

An entry that breaks this is *unusable*: it is published all the same, so that its calls get control and say
why in `ht_sdk_error`, and do not look like calls of an unknown experiment. Doubts that change no answer
(shares that add up to more than 1, ids that are no text, a `test_name` other than the key) are problems too,
but the entry is used. If one name occurs twice in an object, the last one counts, as for every JSON reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import orjson

from hypotest import conditions, document, pace
from hypotest.assignment import has_utf8
from hypotest.condition_tokens import INVALID
from hypotest.errors import ConditionSyntaxError

Verdicts = dict[tuple[str, tuple[str, ...]], str]

_TRUE = "True"
_CONDITION = "condition_to_enter_test"
_LARGEST = 1e9  # beyond sense; and an integer of 400 digits has no float
_SLACK = 1e-9  # shares are sums of decimal fractions: 0.1 + 0.2 + 0.7 is above 1
_ROUNDED = 0.005


class Problem(NamedTuple):
    """Something in an entry that is not as it should be.

    Attributes:
        experiment: the key of the entry.
        field: its field, or "" for the entry itself.
        message: what is wrong and what is expected.
        unusable: whether everyone gets control because of it; False if the entry is used as it is.
    """

    experiment: str
    field: str
    message: str
    unusable: bool = True

    def __str__(self) -> str:
        place = f"experiment {self.experiment!r}"
        return f"{place}, {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class Document(NamedTuple):
    """A settings document, read.

    Attributes:
        records: experiment name -> record, for `settings.decode`.
        problems: what was found on the way, in the order of the document; of an unusable entry, the first one, or
            all if they were asked for.
        verdicts: the conditions that were read, and what is wrong with each ("" if nothing).
    """

    records: dict[str, bytes]
    problems: list[Problem]
    verdicts: Verdicts


def parse_document(body: bytes, known: Verdicts | None = None, *, thorough: bool = False) -> Document:
    """Reads a settings document.

    Args:
        body: the server's answer, `{"tests": {name: entry}}`.
        known: the verdicts of the document before it, if any. Conditions it has need not be read again, which is
            most of the time: a quarter of the work.
        thorough: lists all problems of an entry, not just the one that makes it unusable. Not for a poller: thousands
            of empty entries would keep it from its work five times as long.

    Raises:
        SettingsError: it is no JSON, or has no object under `tests`.
    """
    try:
        return _parse(document.in_parts(body), known or {}, thorough=thorough)
    except document.NotInParts:
        return _parse([document.whole(body)], known or {}, thorough=thorough)


def _parse(parts: Iterable[document.Tests], known: Verdicts, *, thorough: bool) -> Document:
    verdicts: Verdicts = {}
    records: dict[str, bytes] = {}
    problems: dict[str, list[Problem]] = {}
    for tests in parts:
        for name, entry in pace.in_pieces(tests.items()):
            found = _problems(name, entry, known, verdicts, thorough=thorough)
            try:
                records[name] = _record(name, entry, found)
            except TypeError:  # orjson's: a lone surrogate
                if not any(problem.unusable for problem in found):
                    found.insert(0, Problem(name, "", "its texts are not valid Unicode"))
                if has_utf8(name):
                    records[name] = _record(name, None, found)
            if found or name in problems:  # of a part before, where the name occurs twice
                problems[name] = found
    return Document(records, list(chain.from_iterable(problems.values())), verdicts)


def validate(name: str, entry: object) -> list[Problem]:
    """Finds what is wrong with one entry.

    Args:
        name: its key.
        entry: what stands under the key, as JSON or YAML readers give it.

    Returns:
        The problems, empty if there is none.
    """
    return _problems(name, entry, {}, {}, thorough=True)


def _problems(name: str, entry: object, known: Verdicts, verdicts: Verdicts, *, thorough: bool) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(name, "", f"expected an object with the fields of an experiment, got {_kind(entry)}")]
    found = _unusable(name, entry, thorough=thorough)
    if found and not thorough:
        return found
    if not any(problem.field in ("tag_names", _CONDITION) for problem in found):
        key = (entry[_CONDITION], tuple(entry.get("tag_names", ())))
        verdict = verdicts.get(key, known.get(key))
        verdicts[key] = verdict = _verdict(*key) if verdict is None else verdict
        if verdict:
            found.append(Problem(name, _CONDITION, verdict))
    return [*found, *_doubts(name, entry)]


def _verdict(text: str, names: tuple[str, ...]) -> str:
    try:
        conditions.parse(text, names)
    except ConditionSyntaxError as error:
        return str(error).removeprefix(f"{INVALID}: ")
    return ""


@lru_cache(maxsize=64)
def _error(field: str, message: str) -> bytes:
    """Gives the `ht_sdk_error` of an unusable entry, as JSON."""
    if field == _CONDITION:
        return orjson.dumps(f"{INVALID}: {message}")
    place = f"{field}: " if field else ""
    return orjson.dumps(f"settings are invalid: {place}{message}")


def _record(name: str, entry: Any, problems: list[Problem]) -> bytes:
    text = entry.get(_CONDITION) if isinstance(entry, dict) else None
    if problems and problems[0].unusable:  # these come first
        error = _error(problems[0].field, problems[0].message)
        shown = isinstance(text, str) and text not in ("", _TRUE)
        condition = b',"condition":' + orjson.dumps(text) if shown else b""
        return b'{"name":%b,"error":%b%b}' % (orjson.dumps(name), error, condition)
    fields: dict[str, Any] = {"name": name, "test_id": entry["test_id"]}
    if state := entry["test_state"]:
        fields["state"] = state
    fields["active"] = entry["test_active"]
    fields["shares"] = entry["variants_distribution"]
    if text != _TRUE:
        fields["condition"] = text
        if names := entry.get("tag_names"):
            fields["tag_names"] = names
    for field in ("override_control", "override_b"):
        # A set, in whatever order it comes: servers that keep it as one would have us publish at each poll.
        if ids := sorted(item for item in entry.get(field, ()) if isinstance(item, str)):
            fields[field] = ids
    return _dumps(fields)


def _dumps(fields: dict[str, Any]) -> bytes:
    # A copy: orjson's own bytes are cut from a buffer of 1 KiB, what is left of which is too small for the next one.
    # 100,000 records held 400 MiB instead of 30, and a sixth of the work was to get them.
    return bytes(memoryview(orjson.dumps(fields)))


# --- what an entry may hold: each check gives a message, or "" if all is well


_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value)) or type(value).__name__


def _test_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "" if -(2**63) <= value < 2**63 else "expected an integer of 64 bits"
    return f"expected an integer, got {_kind(value)}"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else f"expected true or false, got {_kind(value)}"


def _text(value: object) -> str:
    return "" if isinstance(value, str) else f"expected a text, got {_kind(value)}"


def _list(value: object) -> str:
    return "" if isinstance(value, list) else f"expected a list of texts, got {_kind(value)}"


def _texts(value: object) -> str:
    if not isinstance(value, list):
        return _list(value)
    return next((f"expected texts only, got {_kind(item)}" for item in value if not isinstance(item, str)), "")


def _distribution(value: object) -> str:
    if not isinstance(value, dict):
        return f"expected an object of variants and their shares, got {_kind(value)}"
    if not value:
        return "expected at least one variant"
    return next((message for name, share in value.items() if (message := _share(name, share))), "")


def _share(name: object, share: object) -> str:
    if not isinstance(name, str):
        return f"expected variant names that are texts, got {name!r}"
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        return f"expected a number as the share of {name!r}, got {_kind(share)}"
    return "" if 0 <= share < _LARGEST else f"expected a share of 0 to 1 for {name!r}, got {share!r:.20}"


_REQUIRED: dict[str, Callable[[object], str]] = {
    "test_id": _test_id,
    "test_state": _text,
    "test_active": _flag,
    "variants_distribution": _distribution,
    _CONDITION: _text,
}
_OPTIONAL: dict[str, Callable[[object], str]] = {
    "tag_names": _texts,
    "override_control": _list,
    "override_b": _list,
}


_CHECKS = [(field, check, field in _REQUIRED) for field, check in (_REQUIRED | _OPTIONAL).items()]


def _unusable(name: str, entry: dict[str, Any], *, thorough: bool) -> list[Problem]:
    found = []
    for field, check, required in _CHECKS:
        message = check(entry[field]) if field in entry else "is missing" if required else ""
        if message:
            found.append(Problem(name, field, message))
            if not thorough:
                break
    return found


def sum_fault(shares: Collection[float]) -> str:
    """What is wrong with shares that do not add up to 1, "" if they do; each may be rounded to hundredths."""
    total = math.fsum(shares)
    if total > 1 + _SLACK:
        return f"the shares add up to {total:g}: what is beyond 1 is never reached"
    if total < 1 - _ROUNDED * len(shares) - _SLACK:
        return f"the shares add up to {total:g}: who is beyond gets control, and is in no group"
    return ""


def _doubts(name: str, entry: dict[str, Any]) -> Iterator[Problem]:
    shares = entry.get("variants_distribution", {})
    if not _distribution(shares) and (fault := sum_fault(shares.values())):
        yield Problem(name, "variants_distribution", fault, unusable=False)
    for field in ("override_control", "override_b"):
        ids = entry.get(field)
        if not _list(ids) and _texts(ids):
            yield Problem(name, field, f"{_texts(ids)}: it never matches an id", unusable=False)
    if entry.get("test_name", name) != name:
        yield Problem(name, "test_name", "differs from the key of the entry; the key counts", unusable=False)
