"""The experiments file: from what a human writes to what `GET /v1/all_series_tests` answers.

YAML (or JSON, if the name ends in `.json`), each experiment under its name:

    checkout_button:
      variants: {control: 0.5, b: 0.5}     # or [control, b]: equal shares. The only required field
      condition: country == "DE"           # who takes part; everyone if left out
      tags: [country]                      # names the condition uses, besides user_id and visitor_id
      goals: [purchase]                    # shown in the results even before the first one
      active: true
      override: {control: [ann], b: [bob]} # ids that always get that variant
      state: running                       # or calibration
      hypothesis: A green button sells more.
      test_id: 7                           # an integer; derived from the name if left out

| field | of wire.md's TEST | default |
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
a file's only experiment can't be called `tests`).

`test_id` is part of the hash. Derived, it survives reordering and editing of the file; an experiment that is
renamed while it runs needs its old `test_id` written down, or its visitors are dealt anew.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from hypotest.server.document import Document, DocumentError, Lines, parse

MAX_PROBLEMS = 5

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


class ExperimentsError(ValueError):
    """The file can't be used; the message names line, entry and field of the first problems."""


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
class _Problem:
    path: tuple[str, ...]
    message: str

    def at(self, lines: Lines) -> str:
        where = next((lines[self.path[:n]] for n in range(len(self.path), 0, -1) if self.path[:n] in lines), None)
        return f"{f'line {where}: ' if where else ''}{'.'.join(self.path)}: {self.message}"


def make_settings(tests: dict[str, dict[str, Any]], warnings: tuple[str, ...] = ()) -> Settings:
    """Serialise a set of entries."""
    body = orjson.dumps({"tests": tests})
    return Settings(tests, body, f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"', warnings)


def load(text: str, *, is_json: bool = False) -> Settings:
    """Read an experiments file.

    Raises:
        ExperimentsError: it can't be used; nothing of it is.
    """
    try:
        document = parse(text, is_json=is_json)
    except DocumentError as error:
        raise ExperimentsError(str(error)) from None
    tests, problems = _wire_form(document)
    problems += [problem for name, entry in tests.items() for problem in _check(name, entry)]
    if problems:
        shown = [problem.at(document.lines) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"and {len(problems) - MAX_PROBLEMS} more")
        raise ExperimentsError("; ".join(shown))
    try:
        return make_settings(tests, tuple(_shared_ids(tests)))
    except orjson.JSONEncodeError as error:
        raise ExperimentsError(f"it has no JSON form: {error}") from None


def _wire_form(document: Document) -> tuple[dict[str, Any], list[_Problem]]:
    data, problems = document.data, list[_Problem]()
    if not isinstance(data, dict):
        return {}, [_Problem((), "the file maps names to experiments")]
    if set(data) == {"tests"} and isinstance(data["tests"], dict):
        return data["tests"], problems
    tests = {}
    for name, entry in data.items():
        if not isinstance(name, str) or not name:
            problems.append(_Problem((str(name),), "the name of an experiment is a string: quote it"))
        elif not isinstance(entry, dict):
            problems.append(_Problem((name,), "an experiment is a mapping of fields"))
        else:
            tests[name], found = _entry(name, entry)
            problems += found
    return tests, problems


def _entry(name: str, given: dict[Any, Any]) -> tuple[dict[str, Any], list[_Problem]]:
    """Map one plain entry to its wire form; the values are checked later."""
    problems = [
        _Problem((name, str(field)), f"unknown field; known are {', '.join(sorted((*_WIRE, 'override', 'test_id')))}")
        for field in given
        if field not in _FIELDS
    ]
    problems += [
        _Problem((name, plain), f"is given twice, as {plain} and {wire}")
        for plain, wire in _WIRE.items()
        if plain in given and wire in given
    ]
    fields = {_WIRE.get(field, field): value for field, value in given.items()}
    if "variants_distribution" not in fields:
        problems.append(_Problem((name, "variants"), "is missing"))
    override, found = _override(name, given.get("override"))
    problems += found
    entry = {
        "test_id": fields.get("test_id", zlib.crc32(name.encode())),
        "test_name": fields.get("test_name", name),
        "experiment_hypothesis": fields.get("experiment_hypothesis", ""),
        "tag_names": fields.get("tag_names", []),
        "condition_to_enter_test": _condition(fields.get("condition_to_enter_test", "True")),
        "variants_distribution": _shares(fields.get("variants_distribution", {"control": 1.0})),
        "goal_names": fields.get("goal_names", []),
        "test_state": fields.get("test_state", "running"),
        "test_active": fields.get("test_active", True),
        "override_control": fields.get("override_control", override.get("control", [])),
        "override_b": fields.get("override_b", override.get("b", [])),
    }
    return entry, problems


def _shares(variants: Any) -> Any:
    if isinstance(variants, list) and variants and all(isinstance(variant, str) for variant in variants):
        return {variant: 1 / len(variants) for variant in variants}
    return variants


def _condition(condition: Any) -> Any:
    """Take YAML's `condition: true` for the text it was meant to be."""
    return str(condition) if isinstance(condition, bool) else condition


def _override(name: str, override: Any) -> tuple[dict[str, Any], list[_Problem]]:
    if override is None:
        return {}, []
    if not isinstance(override, dict) or not set(override) <= {"control", "b"}:
        return {}, [_Problem((name, "override"), "maps control and b, no other variant, to lists of ids")]
    return override, []


def _check(name: str, entry: dict[str, Any]) -> Iterable[_Problem]:
    try:
        from hypotest.settings import validate
    except ImportError:
        return
    for problem in validate(name, entry):
        field = problem.field
        yield _Problem((name, *([field] if field else [])), problem.message)


def _shared_ids(tests: dict[str, dict[str, Any]]) -> Iterable[str]:
    names = defaultdict(list)
    for name, entry in tests.items():
        names[entry.get("test_id")].append(name)
    for test_id, sharing in names.items():
        if len(sharing) > 1:
            yield f"{', '.join(sharing)} share test_id {test_id}: they deal the same visitors the same way"
