"""Fuzzing by a grammar, in a process of its own: python -m stress.fuzz.grammar SEED INPUTS SECONDS."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from random import Random

from stress.fuzz import guard, inputs, shapes, targets
from stress.fuzz.documents import GOOD, GOOD_ANSWERS, Documents
from stress.fuzz.expressions import Supply
from stress.fuzz.guard import Finding, Target

BATCH = 5_000
_SHAPES = 1
_MEASURED = 4
_ORACLE = 16

Input = tuple[str, Target, object, int, object]
"""What it is, target, argument, size in bytes, and the result it must have (None: any)."""


def main(seed: str, number: str, seconds: str) -> int:
    """Fuzzes until so many inputs or seconds have passed, and prints the counts as JSON."""
    guard.install()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    end = time.monotonic() + float(seconds)
    _largest(counts)
    position = 0
    while (done := counts.total()) < int(number) and time.monotonic() < end:
        batch(seed, position, counts, min(BATCH, int(number) - done))
        position += 1
    print(json.dumps(counts))
    return 0


def _largest(counts: Counter[str]) -> None:
    """The shapes that could cost the most, at their largest."""
    for shape in shapes.fixed():
        size = len(shape.text.encode("utf-8", "surrogatepass"))
        try:
            guard.check(targets.condition, shape, size)
            guard.check_memory(targets.condition, shape, size)
        except Finding as finding:
            raise SystemExit(f"FOUND among the shapes: {finding}\n{shape!r:.300}") from finding
        counts["large"] += 1


def batch(seed: str, number: int, counts: Counter[str], size: int) -> None:
    """Runs one batch, and adds what it did to the counts."""
    for position, (kind, target, argument, length, expected) in zip(
        range(size), _inputs(Random(f"{seed}/{number}")), strict=False
    ):
        try:
            result = guard.check(target, argument, length, expected=expected)
            if position < _MEASURED:
                guard.check_memory(target, argument, length)
            if kind == "broken" and position % _ORACLE == 0:
                _as_python(argument, result)
        except Finding as finding:
            raise SystemExit(
                f"FOUND with --seed {seed}, batch {number}, input {position} ({kind}): {finding}\n{argument!r:.4000}"
            ) from finding
        counts[kind] += 1


def _inputs(random: Random) -> Iterator[Input]:
    """Endlessly; the costly ones first."""
    supply, documents = Supply(random), Documents(random)
    for _ in range(_SHAPES):
        shape = shapes.drawn(random)
        yield "large", targets.condition, shape, len(shape.text.encode("utf-8", "surrogatepass")), None
    records = inputs.records(documents)
    while True:
        kind = random.random()
        if kind < 0.40:
            valid, outcome = supply.valid()
            yield "valid", targets.condition, valid, len(valid.text), outcome
        elif kind < 0.50:
            outside, refused = supply.outside()
            yield "outside", targets.condition, outside, len(outside.text), refused
        elif kind < 0.85:
            broken = supply.broken()
            yield "broken", targets.condition, broken, len(broken.text), None
        elif kind < 0.90:
            body, readable = documents.document()
            target = _good_is_unharmed if readable else targets.document
            yield "document", target, body, len(body), targets.OUTSIDE if readable is False else None
        else:
            data = documents.record(records)
            yield "record", targets.record, data, len(data), None


def _good_is_unharmed(body: bytes) -> object:
    answers = targets.document(body)
    if isinstance(answers, str) or answers.get(GOOD) != GOOD_ANSWERS:
        raise Finding(f"the good experiment is harmed: {answers!r:.300}")
    return answers


def _as_python(given: object, result: object) -> None:
    """What the SDK accepts has the value that Python gives it; names that are no identifiers are left out."""
    assert isinstance(given, targets.Condition)
    if (
        result == targets.OUTSIDE
        or not given.text.isascii()
        or "device-type" in given.text
        or "geo.country" in given.text
    ):
        return
    scope = {**given.tags, "user_id": given.user_id, "visitor_id": given.visitor_id}
    try:
        value = eval(given.text.strip(" \t\f\r\n"), {"__builtins__": {}, "len": len}, scope)
    except SyntaxError as error:
        raise Finding(f"accepted, and no Python: {error}") from error
    except Exception:  # noqa: BLE001 - the oracle's failures are of every kind
        outcome: object = targets.FAILS
    else:
        outcome = value if isinstance(value, bool) else targets.NO_BOOL
    if outcome != result:
        raise Finding(f"gives {result!r}, Python {outcome!r}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
