"""Settings: what an entry may hold, what becomes of one that breaks it, and records that go around unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypotest import assignment, validation
from hypotest.assignment import Experiment, decide
from hypotest.errors import SettingsError
from hypotest.settings import decode
from hypotest.validation import Problem, parse_document, validate
from tests.entries import UNUSABLE
from tests.server_process import clean_env

ENTRY: dict[str, Any] = {
    "test_id": 7,
    "test_name": "x",
    "experiment_hypothesis": "blue sells",
    "tag_names": ["country", "age"],
    "condition_to_enter_test": "country == 'DE' and age >= 18",
    "variants_distribution": {"control": 0.4, "b": 0.4, "a": 0.2},
    "goal_names": ["paid"],
    "test_state": "running",
    "test_active": True,
    "override_control": ["1", "2"],
    "override_b": ["3"],
}
REQUIRED = ("test_id", "condition_to_enter_test", "variants_distribution", "test_state", "test_active")


def document(**tests: Any) -> validation.Document:
    return parse_document(json.dumps({"tests": tests}).encode())


def experiment(entry: Any, name: str = "x") -> Experiment:
    return decode(document(**{name: entry}).records[name])


def test_ordinary() -> None:
    """An ordinary entry becomes an experiment with all its fields, the variants in the order of the document."""
    found = experiment(ENTRY)
    assert (found.name, found.test_id, found.state, found.active) == ("x", 7, "running", True)
    assert found.shares == (("control", 0.4), ("b", 0.4), ("a", 0.2))
    assert (found.override_control, found.override_b) == (frozenset("12"), frozenset("3"))
    assert found.condition_text == ENTRY["condition_to_enter_test"]
    assert decide(found, "u", None, {"country": "DE", "age": 18}, None).reported
    assert not decide(found, "u", None, {"country": "DE", "age": 17}, None).reported
    assert validate("x", ENTRY) == []


def test_true_condition() -> None:
    """The condition `True` is no condition."""
    for text in ("True", " (True) "):
        assert experiment({**ENTRY, "condition_to_enter_test": text}).condition is None


def test_optional_fields() -> None:
    """Lists may be absent, and so may whatever assignment does not need."""
    entry = {field: ENTRY[field] for field in REQUIRED} | {"condition_to_enter_test": "user_id != '9'"}
    assert validate("x", entry) == []
    found = experiment(entry)
    assert (found.override_control, found.override_b) == (frozenset(), frozenset())


def test_unknown_fields() -> None:
    """Fields of a newer server are ignored: they change neither the answer nor the record."""
    newer = {**ENTRY, "salt": "new", "test_id2": None, "goal_names": 5, "experiment_hypothesis": None}
    assert document(x=newer) == document(x=ENTRY)


def test_key_is_the_name() -> None:
    """The key in the document is the experiment's name, whatever `test_name` says."""
    assert experiment(ENTRY, "other").name == "other"
    assert [problem.unusable for problem in validate("other", ENTRY)] == [False]


def test_an_empty_name_is_a_name() -> None:
    """An experiment whose key is the empty text is decided like any other."""
    assert experiment(ENTRY, "").name == ""


@pytest.mark.parametrize("field", REQUIRED)
def test_required(field: str) -> None:
    """A required field that is missing is named, and everyone gets control with that error."""
    entry = {name: value for name, value in ENTRY.items() if name != field}
    assert [problem[:3] for problem in validate("x", entry)] == [("x", field, "is missing")]
    decision = decide(experiment(entry), "u", None, None, "b")
    assert decision.variant.is_control
    assert decision.error is not None
    assert "is missing" in decision.error


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in UNUSABLE for value in values])
def test_unusable(field: str, value: Any) -> None:
    """A field that cannot be used makes the entry give control, with an error that names it; others are unharmed."""
    read = document(x={**ENTRY, field: value}, y=ENTRY)
    problems = [problem for problem in read.problems if problem.experiment == "x" and problem.unusable]
    assert len(problems) == 1
    assert set(read.records) == {"x", "y"}
    for override in (None, "b"):
        decision = decide(decode(read.records["x"]), "3", None, {"country": "DE", "age": 18}, override)
        assert (decision.variant.variant, decision.recorded, decision.reported) == ("control", "control", True)
        assert decision.error is not None
        assert decision.error.startswith(("settings are invalid: ", "condition_to_enter_experiment is invalid: "))
    assert decode(read.records["y"]).unusable is None
    assert problems[0].field == field
    assert field in str(problems[0])
    assert "'x'" in str(problems[0])


@pytest.mark.parametrize("entry", [None, 5, "x", [], True])
def test_no_object(entry: Any) -> None:
    """An entry that is no object is unusable as a whole."""
    (problem,) = validate("x", entry)
    assert problem.field == ""
    assert problem.unusable
    assert experiment(entry).unusable is not None


DOUBTS: list[tuple[str, Any]] = [
    ("variants_distribution", {"control": 50, "b": 50}),
    ("variants_distribution", {"control": 0.6, "b": 0.5}),
    ("variants_distribution", {"control": 0.6, "b": 0.3}),
    ("override_control", ["1", 2, None]),
    ("override_b", [["3"], "3"]),
    ("test_name", "y"),
    ("test_name", None),
]


@pytest.mark.parametrize(("field", "value"), DOUBTS)
def test_doubts(field: str, value: Any) -> None:
    """What is odd and changes no answer is told, and the entry is used."""
    (problem,) = validate("x", {**ENTRY, field: value})
    assert (problem.experiment, problem.field, problem.unusable) == ("x", field, False)
    assert experiment({**ENTRY, field: value}).unusable is None


@pytest.mark.parametrize(
    "shares",
    [{"control": 0, "b": 1}, {"a": 0.1, "b": 0.2, "c": 0.7}, {"b": 1}, {"": 1.0}, dict.fromkeys("abc", 0.33)],
)
def test_sums(shares: dict[str, float]) -> None:
    """Shares may be zero, integers, and add up, by rounding, to a little more or less than 1."""
    assert validate("x", {**ENTRY, "variants_distribution": shares}) == []
    assert experiment({**ENTRY, "variants_distribution": shares}).shares == tuple(shares.items())


@pytest.mark.parametrize("state", ["running", "", "new state of a newer server", "Calibration"])
def test_states(state: str) -> None:
    """Every state but `calibration` is an ordinary one."""
    entry = {**ENTRY, "condition_to_enter_test": "True", "test_state": state}
    assert validate("x", entry) == []
    assert experiment(entry).shares == (("control", 0.4), ("b", 0.4), ("a", 0.2))


def test_duplicates() -> None:
    """Of a name that occurs twice the last one counts, at the place of the first: as for 1.0.9."""
    text = json.dumps({**ENTRY, "variants_distribution": "@"}).replace('"@"', '{"b": 0.1, "control": 0.2, "b": 0.3}')
    read = parse_document(f'{{"tests": {{"x": [], "y": {text}, "x": {text}}}}}'.encode())
    assert list(read.records) == ["x", "y"]
    assert decode(read.records["x"]).shares == tuple(json.loads(text)["variants_distribution"].items())
    assert decode(read.records["x"]).shares == (("b", 0.3), ("control", 0.2))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"null", b"[]", b"{}", b'{"tests": null}', b'{"tests": []}', b'{"tests": "x"}',
        b'{"Tests": {}}', b'{"tests": {}', b"\xff\xfe", b'{"tests": {"x": \xff}}', b"[" * 200_000,
        b'{"tests": ' * 100_000, b'{"tests": {"x": ' + b"9" * 5_000 + b"}}", b"<html>",
    ],
)  # fmt: skip
def test_no_document(body: bytes) -> None:
    """A document that is no JSON or has no experiments is a SettingsError, whatever it is."""
    with pytest.raises(SettingsError):
        parse_document(body)


def test_no_experiments() -> None:
    """No experiments at all is a document like any other."""
    assert document() == ({}, [], {})


@pytest.mark.parametrize("field", ["variants_distribution", "override_b", "test_state"])
def test_text_that_is_no_unicode(field: str) -> None:
    """An entry with a text that no file can hold gives control; others are unharmed."""
    value = {"variants_distribution": {"\ud800": 1}, "override_b": ["\ud800"], "test_state": "\ud800"}[field]
    read = document(x={**ENTRY, field: value}, y=ENTRY)
    assert [str(problem) for problem in read.problems if problem.unusable] == [
        "experiment 'x': its texts are not valid Unicode"
    ]
    assert decode(read.records["x"]).unusable is not None
    assert decode(read.records["y"]).unusable is None


def test_encodings() -> None:
    """A settings document is UTF-8, with a byte order mark or without; another encoding is no document."""
    body = json.dumps({"tests": {"x": ENTRY, "odd": {**ENTRY, "test_state": "\ud800"}}}).encode()
    assert parse_document(b"\xef\xbb\xbf" + body) == parse_document(body)
    assert "x" in parse_document(body.replace(rb"\ud800", b"\xed\xa0\x80")).records
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(SettingsError):
            parse_document(body.decode().encode(encoding))


def test_a_number_in_a_condition_that_python_does_not_write() -> None:
    """A condition whose error would show such a number is unusable, and the others are unharmed."""
    read = document(x={**ENTRY, "condition_to_enter_test": "age 0x" + "f" * 4_000}, y=ENTRY)
    assert decode(read.records["x"]).unusable is not None
    assert decode(read.records["y"]).unusable is None


def test_name_that_is_no_unicode() -> None:
    """An entry whose name is not Unicode is left out, and told; no call could name it."""
    read = parse_document(json.dumps({"tests": {"\ud800": ENTRY, "x": ENTRY}}).encode())
    assert list(read.records) == ["x"]
    assert any(problem.unusable for problem in read.problems)


def test_same_bytes() -> None:
    """The same entry gives the same record whatever stands beside it; another one gives another."""
    alone, among = document(x=ENTRY), document(a=5, x=ENTRY, z={})
    assert alone.records["x"] == among.records["x"]
    changes: dict[str, Any] = {
        "test_id": 8,
        "test_state": "",
        "test_active": False,
        "condition_to_enter_test": "age == 1",
        "tag_names": ["age", "country"],
        "override_control": [],
        "override_b": ["4"],
        "variants_distribution": {"b": 0.4, "control": 0.4, "a": 0.2},
    }
    records = {document(x={**ENTRY, field: value}).records["x"] for field, value in changes.items()}
    assert len(records | alone.records.keys()) == len(changes) + 1
    assert alone.records["x"] not in records


def test_previous() -> None:
    """With the document before it at hand, a document is read to the same result."""
    tests = {"x": ENTRY, "bad": {**ENTRY, "condition_to_enter_test": "nobody"}, "z": 5}
    first = document(**tests)
    tests["new"] = {**ENTRY, "condition_to_enter_test": "age > 5"}
    tests["new and bad"] = {**ENTRY, "condition_to_enter_test": "age >"}
    body = json.dumps({"tests": tests}).encode()
    assert parse_document(body, first.verdicts) == parse_document(body)
    assert len(parse_document(b'{"tests": {}}', first.verdicts).verdicts) == 0


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=5),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["calibration", "", "running"]),
    st.booleans(),
    st.lists(st.text(max_size=3)),
)
def test_round_trip(shares: dict[str, float], test_id: int, state: str, active: bool, ids: list[str]) -> None:
    """What stands in an entry stands in the decoded experiment, to the last digit and in order."""
    entry = {
        "test_id": test_id,
        "condition_to_enter_test": "True",
        "variants_distribution": shares,
        "test_state": state,
        "test_active": active,
        "override_control": ids,
        "override_b": ids,
    }
    found = experiment(entry)
    assert found.unusable is None
    assert (found.test_id, found.state, found.active) == (test_id, state, active)
    assert found.override_control == frozenset(ids)
    assert found.suffix == str(9300000028840 + test_id)
    assert found.override_b == frozenset(ids if "b" in shares else ())
    if state != "calibration":
        assert found.shares == tuple(shares.items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(ENTRY)), JSON))
def test_any_entry(changes: dict[str, Any]) -> None:
    """Whatever an entry holds, it gives a record that decodes and decides."""
    read = document(x={**ENTRY, **changes})
    decision = decide(decode(read.records["x"]), "u", None, {}, None)
    assert any(problem.unusable for problem in read.problems) == (decode(read.records["x"]).unusable is not None)
    assert isinstance(decision, assignment.Decision)


@given(JSON)
def test_any_document(value: Any) -> None:
    """Whatever a document holds, it is read or is a SettingsError."""
    try:
        parse_document(json.dumps({"tests": value}).encode())
    except SettingsError:
        assert not isinstance(value, dict)


def test_yaml_values() -> None:
    """Values that only a YAML file can hold, as keys that are no texts, are told like all others."""
    (problem,) = validate("x", {**ENTRY, "variants_distribution": {False: 0.5, "b": 0.5}})
    assert problem == Problem("x", "variants_distribution", "expected variant names that are texts, got False")
    assert validate("x", {5: 5, "test_id": object()})


@pytest.mark.parametrize(
    "record", [
        b"", b"{", b"[]", b"null", b"5", b"{}", b'{"name":"x"}',
        b'{"name":"x","test_id":"7","active":true,"shares":{}}', b"\xff",
    ]
)  # fmt: skip
def test_no_record(record: bytes) -> None:
    """What is no record of this version is a SettingsError."""
    with pytest.raises(SettingsError):
        decode(record)


def test_newer_condition() -> None:
    """A condition that a newer leader accepted and this version does not know gives control with an error."""
    record = orjson.loads(document(x=ENTRY).records["x"]) | {"condition": "country matches 'D.*'"}
    decision = decide(decode(orjson.dumps(record)), "u", None, None, None)
    assert decision.variant.is_control
    assert (decision.error or "").startswith("condition_to_enter_experiment is invalid: ")


def test_views() -> None:
    """A record may be a view of a mapped file."""
    assert decode(memoryview(document(x=ENTRY).records["x"])).name == "x"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the size of a process")
def test_records_take_little_more_memory_than_they_are_long() -> None:
    """What orjson leaves free around each record, several times its length, is not held with it."""
    code = """
import os, sys
from hypotest.validation import parse_document
def size(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
body = sys.stdin.buffer.read()
parse_document(body)
before = size()
held = [parse_document(body).records for _ in range(10)]
print((size() - before) / 10)
"""
    records, entry = 2_000, {**ENTRY, "condition_to_enter_test": "True"}
    body = json.dumps({"tests": {f"experiment-{n}": entry for n in range(records)}}).encode()
    child = subprocess.run([sys.executable, "-c", code], input=body, capture_output=True, check=True, env=clean_env())
    assert float(child.stdout) < 800 * records
