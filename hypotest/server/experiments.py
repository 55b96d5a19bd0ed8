"""The experiments file: from what a human writes to what `GET /v1/all_series_tests` answers.

YAML (or JSON, if the name ends in `.json`), each experiment under its name:

    checkout_button:
      variants: {control: 0.5, b: 0.5}     # or [control, b]: equal shares. The only required field
      condition: country == "DE"           # who takes part; everyone if left out
      tags: [country]                      # names the condition uses, besides user_id and visitor_id
      goals: [purchase]                    # shown in the results even before the first one
      active: true
      override: {control: [ann], b: [bob]} # ids that always get that variant; a number is taken as its text
      state: running                       # or calibration, which shows everyone control; nothing else
      hypothesis: A green button sells more.
      test_id: 7                           # an integer; derived from the name if left out

| field | of the wire format's test | default |
|---|---|---|
| variants | variants_distribution | required |
| condition | condition_to_enter_test | `True` |
| tags | tag_names | [] |
| goals | goal_names | [] |
| active | test_active | true |
| state | test_state | running |
| hypothesis | experiment_hypothesis | empty |
| override | override_control, override_b | {} |
| test_id | test_id | CRC-32 of the name |
| (the name) | test_name | the name |

The fields' wire names are understood as well, and a document `{"tests": {NAME: TEST}}` is taken as it stands (so
a file's only experiment cannot be called `tests`): what is said of shares above 1, states, ids that are numbers or
listed twice, and of variants without `control` holds for what humans write only.

`test_id` is part of the hash. Derived, it survives reordering and editing of the file; an experiment that is
renamed while it runs needs its old `test_id` written down, or its visitors are dealt anew.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from hypotest.server.document import DocumentError, Lines, parse
from hypotest.validation import sum_fault, validate

MAX_PROBLEMS = 5
STATES = ("running", "calibration")
_SLACK = 1e-9  # shares are sums of decimal fractions
_OVERRIDES = ("override_control", "override_b")

_WIRE = {
    "variants": "variants_distribution",
    "condition": "condition_to_enter_test",
    "tags": "tag_names",
    "goals": "goal_names",
    "active": "test_active",
    "state": "test_state",
    "hypothesis": "experiment_hypothesis",
}
_PLAIN = {wire: plain for plain, wire in _WIRE.items()}
_OWN = ("test_id", "test_name", "override", "override_control", "override_b")
_FIELDS = {*_WIRE, *_PLAIN, *_OWN}
_PLAIN_FIELDS = (*_WIRE, "override", "test_id")


class ExperimentsError(ValueError):
    """The file cannot be used; the message names line, entry and field of the first problems."""


@dataclass(frozen=True)
class Settings:
    """One version of the settings document.

    Attributes:
        tests: entries by name, in wire form.
        body: the answer to a poll.
        etag: strong, of the body.
        warnings: what is allowed and probably a mistake.
    """

    tests: dict[str, dict[str, Any]]
    body: bytes
    etag: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """One entry of the file: as it was written, and as it is served."""

    name: Any
    given: Any
    plain: bool

    def wire(self) -> Any:
        return _to_wire(self.name, self.given) if self.plain and isinstance(self.given, dict) else self.given

    def problems(self) -> Iterator[tuple[str, str, bool]]:
        """Yields field, message, and whether it forbids the use of the file."""
        if not isinstance(self.name, str) or not self.name:
            yield "", "the name of an experiment is a text: quote it", True
            return
        if self.plain and isinstance(self.given, dict):
            yield from _misspelt(self.given)
        entry = self.wire()
        found = list(_written(entry)) if self.plain and isinstance(entry, dict) else []
        yield from ((self._spelling(field), message, fatal) for field, message, fatal in found)
        told = {field for field, _, _ in found}
        for problem in validate(self.name, entry):
            if problem.field not in told:
                yield self._spelling(problem.field), problem.message, problem.unusable
        if isinstance(entry, dict):
            if not _is_texts(entry.get("goal_names", [])):
                yield self._spelling("goal_names"), "expected a list of texts", True
            if not isinstance(entry.get("experiment_hypothesis", ""), str):
                yield self._spelling("experiment_hypothesis"), "expected a text", True

    def place(self, field: str, lines: Lines) -> str:
        """Says where a field is."""
        path = ("tests",) * (not self.plain) + (str(self.name),)
        line = lines.get((*path, field)) or lines.get(path)
        where = f"experiment {self.name!r}" + (f", {field}" if field else "")
        return f"line {line}: {where}" if line else where

    def _spelling(self, field: str) -> str:
        """Gives the name under which the author wrote a field, or would have."""
        if not field or not self.plain or field in self.given:
            return field
        return "override" if field.startswith("override_") else _PLAIN.get(field, field)


def make_settings(tests: dict[str, dict[str, Any]], warnings: tuple[str, ...] = ()) -> Settings:
    """Serialises a set of entries."""
    body = orjson.dumps({"tests": tests})
    return Settings(tests, body, f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"', warnings)


def load(text: str, *, is_json: bool = False) -> Settings:
    """Reads an experiments file.

    Raises:
        ExperimentsError: it cannot be used; nothing of it is.
    """
    try:
        document = parse(text, is_json=is_json, as_written=("override", *_OVERRIDES))
    except DocumentError as error:
        raise ExperimentsError(str(error)) from None
    errors: list[str] = []
    warnings: list[str] = []
    entries = _entries(document.data)
    for entry in entries:
        for field, message, fatal in entry.problems():
            (errors if fatal else warnings).append(f"{entry.place(field, document.lines)}: {message}")
    if errors:
        more = f"; and {len(errors) - MAX_PROBLEMS} more" if len(errors) > MAX_PROBLEMS else ""
        raise ExperimentsError("; ".join(errors[:MAX_PROBLEMS]) + more)
    tests = {entry.name: entry.wire() for entry in entries}
    try:
        return make_settings(tests, (*warnings, *_shared_ids(tests)))
    except orjson.JSONEncodeError as error:
        raise ExperimentsError(f"it has no JSON form: {error}") from None


def _entries(data: Any) -> list[_Entry]:
    if not isinstance(data, dict):
        raise ExperimentsError("expected a mapping of names to experiments")
    is_wire = set(data) == {"tests"} and isinstance(data["tests"], dict)
    return [_Entry(name, given, not is_wire) for name, given in (data["tests"] if is_wire else data).items()]


def _misspelt(given: dict[Any, Any]) -> Iterator[tuple[str, str, bool]]:
    for field in given:
        if field not in _FIELDS:
            yield str(field), f"is unknown; known are {', '.join(_PLAIN_FIELDS)}", True
    for plain, wire in _WIRE.items():
        if plain in given and wire in given:
            yield plain, f"is there twice, as {plain} and as {wire}", True
    if not _is_override(given.get("override", {})):
        yield "override", "expected a mapping of control and b (no other variant) to lists of ids", True


def _written(entry: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Finds what a human hardly means, in an entry that was made from the plain form."""
    shares, state = entry.get("variants_distribution"), entry["test_state"]
    if isinstance(shares, list):
        yield "variants_distribution", _list_fault(shares), True
    elif isinstance(shares, dict) and shares and all(map(_is_share, shares.values())):
        total = math.fsum(shares.values())
        if total > 1 + _SLACK:
            yield "variants_distribution", f"shares are fractions of 1, and these add up to {total:g}", True
        elif all(isinstance(name, str) for name in shares) and (fault := sum_fault(shares.values())):
            yield "variants_distribution", fault, False
        elif len(shares) > 1 and "control" not in shares:
            yield "variants_distribution", "there is no control among them: nobody is dealt it to compare with", False
    if isinstance(state, str) and state not in STATES:
        yield "test_state", f"expected {' or '.join(STATES)}, got {state!r:.60}; `active: false` ends one", True
    control, b = (entry[field] for field in _OVERRIDES)
    if _is_texts(control) and _is_texts(b) and (both := [item for item in dict.fromkeys(control) if item in set(b)]):
        more = f" and {len(both) - MAX_PROBLEMS} more" if len(both) > MAX_PROBLEMS else ""
        listed = ", ".join(map(repr, both[:MAX_PROBLEMS]))
        yield "override_b", f"{listed}{more}: in both lists, of control and of b; control's is looked at first", False


def _list_fault(variants: list[Any]) -> str:
    """Says what keeps a list of variants from being dealt equal shares."""
    if not variants:
        return "the list is empty: expected at least one variant, as in [control, b]"
    if not _is_texts(variants):
        odd = next(item for item in variants if not isinstance(item, str))
        return f"expected a list of variant names that are texts, as in [control, b]; quote {odd!r:.60}"
    twice = next(item for item in variants if variants.count(item) > 1)
    return f"{twice!r} is twice in the list: for unequal shares write {{control: 0.7, {twice}: 0.3}}"


def _is_share(share: object) -> bool:
    return isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < math.inf


def _to_wire(name: str, given: dict[Any, Any]) -> dict[str, Any]:
    """Maps a plain entry to its wire form; what is wrong in it is left for the validation to find."""
    fields = {_WIRE.get(field, field): value for field, value in given.items()}
    override = fields.get("override", {})
    if not _is_override(override):
        override = {}
    entry = {
        "test_id": zlib.crc32(str(name).encode("utf-8", "replace")),
        "test_name": name,
        "experiment_hypothesis": "",
        "tag_names": [],
        "condition_to_enter_test": "True",
        "variants_distribution": None,
        "goal_names": [],
        "test_state": "running",
        "test_active": True,
        "override_control": override.get("control", []),
        "override_b": override.get("b", []),
    }
    entry |= {field: value for field, value in fields.items() if field in entry}
    entry["variants_distribution"] = _shares(entry["variants_distribution"])
    entry["condition_to_enter_test"] = _condition(entry["condition_to_enter_test"])
    for field in _OVERRIDES:
        entry[field] = _ids(entry[field])
    if "variants_distribution" not in fields:
        del entry["variants_distribution"]
    return entry


def _shares(variants: Any) -> Any:
    if variants and _is_texts(variants) and len(set(variants)) == len(variants):
        return {variant: 1 / len(variants) for variant in variants}
    return variants


def _condition(condition: Any) -> Any:
    """Takes YAML's `condition: true` for the text it was meant to be."""
    return str(condition) if isinstance(condition, bool) else condition


def _ids(listed: Any) -> Any:
    """Takes numbers for the text that the SDK makes of an id that is one."""
    if not isinstance(listed, list):
        return listed
    numbers = (int, float)
    return [str(item) if isinstance(item, numbers) and not isinstance(item, bool) else item for item in listed]


def _is_override(override: Any) -> bool:
    return isinstance(override, dict) and set(override) <= {"control", "b"}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _shared_ids(tests: dict[str, dict[str, Any]]) -> Iterator[str]:
    names = defaultdict(list)
    for name, entry in tests.items():
        names[entry.get("test_id")].append(name)
    for test_id, sharing in names.items():
        if len(sharing) > 1:
            yield f"{', '.join(sharing)} share test_id {test_id}: they deal the same visitors the same way"
