"""Assignment: thresholds, the order of the checks, and that explain() cannot disagree."""

from __future__ import annotations

import enum
import math
import subprocess
import sys
from typing import Any

import mmh3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hypotest import assignment, conditions, explanation
from hypotest.assignment import HASHES, Decision, Experiment, decide
from hypotest.errors import ConditionError
from hypotest.explanation import explain
from hypotest.variant import Variant

HALVES = (("control", 0.5), ("b", 0.5))


def scale(h: int) -> float:
    """The formula, as it stands in the module."""
    return math.floor(h / 2**32 * 10000) / 10000


def walk(shares: list[tuple[str, float]], h: int) -> str | None:
    """The choice, in floats."""
    total: float = 0
    for variant, share in shares:
        total += share
        if scale(h) <= total:
            return variant
    return None


def summary(decision: Decision) -> tuple[str, str, str | None, str | None, bool]:
    return (
        decision.variant.variant,
        decision.recorded,
        decision.error,
        decision.override_reason,
        decision.reported,
    )


def control(error: str | None = None, reason: str | None = None) -> tuple[Any, ...]:
    return ("control", "control", error, reason, True)


SHARES = st.one_of(
    st.floats(0, 1.5),
    st.integers(0, 1),
    st.integers(0, 10_000).map(lambda n: n / 10_000),
    st.integers(0, 10_000).map(lambda n: math.nextafter(n / 10_000, 0)),
    st.integers(0, 10_000).map(lambda n: math.nextafter(n / 10_000, 2)),
    st.sampled_from([0.1, 0.2, 0.3, 0.7, 1 / 3, 1 / 7, 5e-324, 1e300]),
)


@given(st.lists(SHARES, min_size=1, max_size=8), st.lists(st.integers(0, HASHES - 1), max_size=20))
@example([0.1] * 8, [])
@example([1 / 3] * 3, [HASHES - 1])
@example([0, 0, 1], [0])
@example([0.9999], [])
def test_thresholds(shares: list[float], hashes: list[int]) -> None:
    """At every edge and anywhere else, an integer threshold picks the variant that the float formula picks."""
    named = [(f"v{i}", share) for i, share in enumerate(shares)]
    experiment = Experiment("x", 1, named)
    edges = [edge + off for edge in experiment.thresholds for off in (-2, -1, 0, 1)]
    for h in {0, 1, HASHES - 1, *hashes, *(edge for edge in edges if 0 <= edge < HASHES)}:
        index = sum(end <= h for end in experiment.thresholds)
        chosen = experiment.one_id[index]
        assert (None if chosen.error else chosen.recorded) == walk(named, h)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.1] * 10, [0, 0.3, 0, 0.2], [1 / 3] * 3, [0.00005, 0.9]])
def test_decide_at_the_edges(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose hash is an edge, or its neighbour, gets the variant of the float formula."""
    named = [(f"v{i}", share) for i, share in enumerate(shares)]
    experiment = Experiment("x", 1, named)
    for edge in {0, HASHES - 1, *experiment.thresholds}:
        for h in {max(edge - 1, 0), min(edge, HASHES - 1), min(edge + 1, HASHES - 1)}:
            monkeypatch.setattr(assignment, "murmur3", lambda _key, _seed, _signed, h=h: h)
            decision = decide(experiment, "u", None, None, None)
            assert (None if decision.error else decision.recorded) == walk(named, h)


def test_every_bucket() -> None:
    """All 10,000 values of x begin and end where the formula says, so that no h between them can differ."""
    for bucket in range(10_000):
        end = assignment.threshold(bucket / 10_000)
        assert scale(end - 1) == bucket / 10_000
        assert end == HASHES or scale(end) > bucket / 10_000


@pytest.mark.parametrize(
    ("total", "expected"), [(-0.1, 0), (math.nan, 0), (math.inf, HASHES), (1, HASHES), (0.9999, HASHES)]
)
def test_extreme_totals(total: float, expected: int) -> None:
    """Sums outside 0 to 1, and no number, have a threshold too."""
    assert assignment.threshold(total) == expected


@pytest.mark.parametrize("user_id", ["1", "ñ", "🙂", "x" * 100_000, "a\0b"])
def test_hash(user_id: str) -> None:
    """The id and the salted test id are hashed together, as UTF-8, unsigned."""
    h = mmh3.hash(f"{user_id}{9300000028840 + 42}".encode(), 1, signed=False)
    shares = [(f"v{i}", 0.01) for i in range(100)]
    assert decide(Experiment("x", 42, shares), user_id, None, None, None).recorded == walk(shares, h)


def test_neither_id() -> None:
    """Without an id it is control, whatever else is given."""
    broken = Experiment("x", 1, (), error="broken")
    for experiment in (Experiment("x", 1, HALVES), broken):
        for user_id, visitor_id in ((None, None), ("", None), (None, ""), ("", "")):
            assert summary(decide(experiment, user_id, visitor_id, {}, "b")) == control(assignment.NO_ID)


def test_both_ids() -> None:
    """Of two ids the visitor's is hashed, and the event says that there were two; an empty one does not count."""
    experiment = Experiment("x", 1, [("control", 0.5), ("b", 0.5)], active=False)
    for number in range(50):
        visitor = f"v{number}"
        alone = decide(experiment, None, visitor, None, None)
        assert alone is decide(experiment, "", visitor, None, None)
        both = decide(experiment, "u", visitor, None, None)
        assert (both.variant, both.error) == (alone.variant, assignment.BOTH_IDS)
        assert alone.error == assignment.INACTIVE


def test_left_over() -> None:
    """What no share covers is control, with an error that outweighs the others."""
    experiment = Experiment("x", 1, [("b", 0.0)], active=False)
    assert summary(decide(experiment, "u", None, None, None)) == control(assignment.NONE_LEFT)
    assert summary(decide(experiment, "u", "v", None, None)) == control(assignment.NONE_LEFT)


def test_calibration() -> None:
    """A calibration records control or a, half and half, and gives control, active or not."""
    for active in (True, False):
        experiment = Experiment("x", 1, [("b", 1.0)], state="calibration", active=active)
        decisions = [decide(experiment, str(number), None, None, None) for number in range(200)]
        assert {decision.recorded for decision in decisions} == {"control", "a"}
        assert {decision.variant.variant for decision in decisions} == {"control"}


def test_override() -> None:
    """An override is given and recorded as it is, if it names a variant; in a calibration as well."""
    experiment = Experiment("x", 1, [("b", 0.5)], active=False)
    for name in ("b", "control"):
        expected = (name, name, None, f"local_override_{name}", True)
        assert summary(decide(experiment, "u", "v", None, name)) == expected
    calibration = Experiment("x", 1, [("b", 0.5)], state="calibration")
    for name in ("a", "b", "control"):
        assert decide(calibration, "u", None, None, name).variant == Variant(name)


class Hostile(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise ValueError

    def __eq__(self, other: object) -> bool:
        raise ValueError


class NoTruth:
    def __bool__(self) -> bool:
        raise RuntimeError


class LooksLikeB:
    def __hash__(self) -> int:
        return hash("b")

    def __eq__(self, other: object) -> bool:
        return other == "b"


@pytest.mark.parametrize(
    "override", ["nobody", "B", 5, True, ["b"], {"b": 1}, b"b", Variant("b"), Hostile("b"), NoTruth(), LooksLikeB()]
)
def test_no_variant(override: object) -> None:
    """An override that names no variant is control, with an error, and never an exception."""
    assert summary(decide(Experiment("x", 1, HALVES), "u", None, None, override)) == control(assignment.BAD_OVERRIDE)


@pytest.mark.parametrize("override", [None, "", 0, False, [], {}])
def test_no_override(override: object) -> None:
    """A falsy override is none."""
    experiment = Experiment("x", 1, HALVES)
    assert decide(experiment, "u", None, None, override) in experiment.one_id


def test_listed_ids() -> None:
    """Either id is looked up, in the list for control first; nothing else of the experiment matters then."""
    experiment = Experiment("x", 1, HALVES, active=False, override_control=["1", ""], override_b=["1", "2"])
    remote_control = control(None, "remote_override_control")
    remote_b = ("b", "b", None, "remote_override_b", True)
    for user_id, visitor_id, expected in (
        ("1", None, remote_control),
        (None, "1", remote_control),
        ("2", "1", remote_control),
        ("3", "2", remote_b),
        ("2", "3", remote_b),
        ("", "3", remote_control),
    ):
        assert summary(decide(experiment, user_id, visitor_id, None, None)) == expected
    assert decide(experiment, "1", None, None, "b").override_reason == "local_override_b"


def test_listed_for_b_without_b() -> None:
    """The list for b counts only where b is in the distribution of the settings."""
    assert decide(Experiment("x", 1, [("c", 1)], override_b=["1"]), "1", None, None, None).recorded == "c"


def test_listed_in_calibration() -> None:
    """A listed id in a calibration is recorded as listed and gets control."""
    experiment = Experiment("x", 1, HALVES, state="calibration", override_b=["1"])
    assert summary(decide(experiment, "1", None, None, None)) == ("control", "b", None, "remote_override_b", True)


def test_condition_first() -> None:
    """A condition that is false or fails outweighs every override."""
    experiment = Experiment("x", 1, HALVES, override_b=["1"], condition=conditions.parse("n > 1", ["n"]))
    assert decide(experiment, "1", None, {"n": 2}, None).override_reason == "remote_override_b"
    assert summary(decide(experiment, "1", None, {"n": 1}, "b")) == ("control", "control", None, None, False)
    for tags in ({"n": "x"}, {}, None):
        failed = decide(experiment, "1", None, tags, "b")
        assert failed.error is not None
        assert summary(failed) == control(failed.error)
        assert failed.error.startswith(conditions.FAILED)


def test_condition_sees_the_ids() -> None:
    """A condition sees both ids, as they are."""
    experiment = Experiment("x", 1, HALVES, condition=conditions.parse("user_id == 'u' and visitor_id is None", []))
    assert decide(experiment, "u", None, None, None).reported
    assert not decide(experiment, "u", "v", None, None).reported


def test_unusable() -> None:
    """Unusable settings are control with their error, whatever the override."""
    experiment = Experiment("x", 1, (), error="settings are invalid: test_id")
    assert summary(decide(experiment, "u", None, None, "b")) == control("settings are invalid: test_id")


def test_lone_surrogate() -> None:
    """An id without UTF-8 is control with an error, and does not kill the process, as mmh3 does with a str."""
    experiment = Experiment("x", 1, HALVES, override_control=["\ud800"])
    assert summary(decide(experiment, "u\ud800", None, None, None)) == control(assignment.BAD_ID)
    assert decide(experiment, "\ud800", None, None, None) is experiment.remote_control
    code = "from hypotest.assignment import *; decide(Experiment('x', 1, [('b', 1)]), chr(0xd800), None, None, None)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_shared() -> None:
    """A call that goes well makes no decision of its own."""
    experiment = Experiment("x", 1, HALVES)
    assert len({id(decide(experiment, str(n), None, None, None)) for n in range(500)}) == 2


class Preview(str, enum.Enum):
    B = "b"


def test_without_an_experiment() -> None:
    """Without an experiment, or without ids, each call has a decision of its own: its memo belongs to one name."""
    for make in (assignment.undefined, assignment.no_id):
        assert make() is not make()
        assert make().variant.is_control
        assert make().reported
    assert assignment.undefined().error == assignment.NOT_DEFINED
    assert assignment.undefined(assignment.NO_SETTINGS).error == assignment.NO_SETTINGS
    assert assignment.no_id().error == assignment.NO_ID


@pytest.mark.parametrize(
    ("override", "name"),
    [(None, "control"), ("", "control"), (5, "control"), ("b", "b"), ("any", "any"), (Preview.B, "b")],
)
def test_offline(override: object, name: str) -> None:
    """Without a server, an override that is a text is the variant, and all else is control."""
    assert assignment.offline(override) == Variant(name)


def failing(*_: object) -> bool:
    raise ConditionError("never")


@given(
    st.sampled_from([None, conditions.parse("user_id != '3'", []), failing]),
    st.sampled_from(["running", "calibration"]),
    st.booleans(),
    st.sampled_from([None, "", "1", "2", "3", "\ud800"]),
    st.sampled_from([None, "", "1", "4", "5"]),
    st.sampled_from([None, "b", "nobody"]),
    st.sampled_from([None, "broken"]),
)
def test_explain(
    condition: Any, state: str, active: bool, user: str | None, visitor: str | None, override: object, error: str | None
) -> None:
    """What explain() tells is what decide() does, and its table leads to the decision whenever the hash settled it."""
    shares = [("control", 0.3), ("b", 0.3), ("c", 0.1)]
    experiment = Experiment(
        "x",
        9,
        shares,
        state=state,
        active=active,
        condition=condition,
        override_control=["1"],
        override_b=["2"],
        error=error,
    )
    told = explain(experiment, user, visitor, None, override)
    decision = decide(experiment, user, visitor, None, override)
    assert summary(told.decision) == summary(decision)
    assert told.by in explanation.BY
    if told.by == "hash":
        assert told.h is not None
        assert told.condition_value is True
        row = next((row for row in told.table if told.h < row.threshold), None)
        assert row == next((row for row in told.table if told.x is not None and told.x <= row.total), None)
        assert decision.recorded == (row.variant if row else "control")
    elif told.by == "override":
        assert override is not None
    elif told.by == "listed id":
        assert (decision.override_reason or "").startswith("remote_override_")
    elif told.by == "condition":
        assert told.condition_value is not True
        assert told.condition_error == decision.error


def test_explain_hash() -> None:
    """An explanation shows the hashed id, the key, its hash, its place on the scale and the table."""
    told = explain(Experiment("x", 7, HALVES), "u", "visitor", None, None)
    assert (told.hashed_id, told.key, told.by) == ("visitor", "visitor9300000028847", "hash")
    assert told.h == mmh3.hash(b"visitor9300000028847", 1, signed=False)
    assert told.x == scale(told.h)
    assert [row.variant for row in told.table] == ["control", "b"]
    assert told.table[0] == ("control", 0.5, 0.5, assignment.threshold(0.5))
