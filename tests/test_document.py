"""The settings document read in parts is the one read whole."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest

from hypotest import document, pace, validation
from tests.entries import entry

NAMES = ("a", "},", '{"a":1},', "é", "\\", '"')


def in_parts(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in document.in_parts(body):
        found |= part
    return found


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 3 or kind < 0.4:
        return rng.choice([1, 2.5, None, True, "a", "},", '{"a":1},', 'é"},{', "\\", [], {}, "\n}}"])
    if kind < 0.7:
        return {f"{rng.choice(NAMES)}{rng.randrange(9)}": value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [value(rng, depth + 1) for _ in range(rng.randrange(4))]


def damaged(rng: random.Random, body: bytes) -> bytes:
    at, more = rng.randrange(len(body)), rng.choice([b"}", b"{", b",", b'"', b"]", b"[", b":", b"", b" ", b"},"])
    return body[:at] + more + body[at + rng.randrange(2) :]


@pytest.mark.parametrize("size", [20, 60])
def test_what_comes_apart_is_what_the_whole_says(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A document that comes apart gives the members that a JSON reader finds in it, in order; damaged ones, too."""
    monkeypatch.setattr(document, "_PART", size)
    monkeypatch.setattr(pace, "_alone", [True])
    rng = random.Random(size)
    came_apart = 0
    for _ in range(4_000):
        tests = {f"n{rng.randrange(30)}": value(rng) for _ in range(rng.randrange(20))}
        text = json.dumps({"tests": tests}, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        body = (text.replace('"n1"', '"n2"') if rng.random() < 0.3 else text).encode()
        for _ in range(rng.randrange(3)):
            body = damaged(rng, body)
        try:
            found = in_parts(body)
        except document.NotInParts:
            continue
        came_apart += 1
        assert list(found.items()) == list(orjson.loads(body)["tests"].items()), body
    assert came_apart > 1_000


def test_a_large_document_comes_apart() -> None:
    """One as a server writes it is read in parts, small and with an entry that is larger than many parts."""
    tests = {f"experiment-{n}": entry(override_b=["visitor"] * (50_000 if n == 70 else 2)) for n in range(1_000)}
    body = json.dumps({"tests": tests}).encode()
    assert len(list(document.in_parts(body))) > 3
    assert in_parts(body) == tests


def test_the_last_of_two_entries_counts_across_parts() -> None:
    """Of a name that occurs twice, far apart, neither the first entry nor its problems are left."""
    many = ",".join(f'"experiment-{n}":{json.dumps(entry())}' for n in range(1_000))
    body = f'{{"tests":{{"twice":{{}},"mended":{{}},{many},"twice":{{}},"mended":{json.dumps(entry())}}}}}'.encode()
    assert len(list(document.in_parts(body))) > 3
    found = validation.parse_document(body)
    assert [problem.experiment for problem in found.problems] == ["twice"]
    assert b"error" not in found.records["mended"]


@pytest.mark.parametrize("behind", ['"more":1', '"more":{"a":{}}', '"tests":{"a":{}}'])
def test_another_field_keeps_a_document_whole(behind: str) -> None:
    """A document with fields beside `tests` is read as any JSON reader would."""
    tests = {f"experiment-{n}": entry() for n in range(1_000)}
    body = f'{{"tests":{json.dumps(tests)},{behind}}}'.encode()
    with pytest.raises(document.NotInParts):
        in_parts(body)
    assert len(validation.parse_document(body).records) == (1 if "tests" in behind else 1_000)
