"""The differences from client 1.0.9 that are documented, and the comparison that permits no other."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, NamedTuple

from hypotest import assignment, condition_tokens, conditions, settings, validation
from tests.oracle import Outcome
from tests.record_vectors import NAME, OUTSIDE, SUBSTRINGS, Case

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = 4_400
CALLS = 5
"""How many entries of random settings are compared, and how many calls of each."""

SAME_TEXTS = (assignment.NO_ID, assignment.NO_SETTINGS, assignment.BOTH_IDS, assignment.INACTIVE, assignment.NONE_LEFT)


class Difference(NamedTuple):
    """One documented difference: when it applies, what version 2 then does, and why."""

    name: str
    why: str
    applies: Callable[[Case, Outcome, Outcome], bool]


def _control(error: str) -> Outcome:
    return Outcome("control", ("control", error, None))


def _error(outcome: Outcome) -> str:
    return (outcome.event and outcome.event[1]) or ""


def _raised(theirs: Outcome) -> bool:
    """Whether 1.0.9 ran into an exception or a condition that is no bool, and not into an error of its own."""
    return bool(_error(theirs)) and theirs == _control(_error(theirs)) and _error(theirs) not in SAME_TEXTS


def _whole(case: Case, ours: Outcome) -> bool:
    """Whether ours is what the condition comes to if each of its names is one tag."""
    try:
        value = eval(case.entry["condition_to_enter_test"], {"__builtins__": {}}, case.tags or {})
    except (NameError, TypeError):
        return _refused(case, ours)
    return not _refused(case, ours) if value else ours == Outcome("control", None)


def _refused(case: Case, ours: Outcome) -> bool:
    """Whether ours is control with an error of the condition, which the case has."""
    prefixes = (conditions.FAILED, condition_tokens.INVALID)
    return case.entry["condition_to_enter_test"] != "True" and any(
        ours == _control(_error(ours)) and _error(ours).startswith(prefix) for prefix in prefixes
    )


DIFFERENCES = (
    Difference(
        "a calibration that ended gives control",
        "1.0.9 gives `a`, a variant that is there to be compared with control and not to be shown",
        lambda case, theirs, ours: (
            case.entry["test_state"] == "calibration"
            and not case.entry["test_active"]
            and (theirs.variant, ours.variant) == ("a", "control")
            and theirs.event == ours.event
        ),
    ),
    Difference(
        "an override must be a variant",
        "1.0.9 hands out and records whatever the caller passes",
        lambda case, theirs, ours: (
            isinstance(case.override, str)
            and case.override not in ("control", *case.entry["variants_distribution"])
            and theirs.variant == case.override
            and ours == _control(assignment.BAD_OVERRIDE)
        ),
    ),
    Difference(
        "the error of an override that is no text",
        "1.0.9 sends the text of a TypeError",
        lambda case, theirs, ours: (
            not isinstance(case.override, str) and _raised(theirs) and ours == _control(assignment.BAD_OVERRIDE)
        ),
    ),
    Difference(
        "names are matched whole",
        "1.0.9 replaces a tag name wherever its letters stand, in texts and in longer names too",
        lambda case, theirs, ours: (
            (case.entry["tag_names"], case.entry["condition_to_enter_test"]) in SUBSTRINGS
            and _raised(theirs)
            and _whole(case, ours)
        ),
    ),
    Difference(
        "the error of a condition",
        "1.0.9 sends the text of whatever eval raised; ours says that it is the condition, and where",
        lambda case, theirs, ours: _refused(case, ours) and _raised(theirs),
    ),
    Difference(
        "a closed grammar",
        "1.0.9 runs the condition as code",
        lambda case, _theirs, ours: case.entry["condition_to_enter_test"] in OUTSIDE and _refused(case, ours),
    ),
    Difference(
        "null in a list of ids matches nobody",
        "in 1.0.9 it matches whoever has only one of the two ids",
        lambda case, theirs, ours: (
            (None in case.entry["override_control"] or None in case.entry["override_b"])
            and bool(theirs.event and (theirs.event[2] or "").startswith("remote_override_"))
            and theirs != ours
        ),
    ),
    Difference(
        "unusable settings give control",
        "in 1.0.9 it depends on the id, the override and the condition whether they are even noticed",
        lambda case, _theirs, ours: (
            any(problem.unusable for problem in validation.validate(NAME, case.entry))
            and ours == _control(_error(ours))
            and _error(ours).startswith("settings are invalid: ")
        ),
    ),
    Difference(
        "the error of an id without UTF-8",
        "1.0.9 sends the text of the UnicodeEncodeError",
        lambda _case, theirs, ours: (
            ours == _control(assignment.BAD_ID) and _raised(theirs) and "surrogates" in _error(theirs)
        ),
    ),
    Difference(
        "the error of an unknown experiment",
        "1.0.9 says that settings did not arrive, also when they did",
        lambda case, theirs, ours: (
            case.name != NAME
            and theirs == _control(assignment.NO_SETTINGS)
            and ours == _control(assignment.NOT_DEFINED)
        ),
    ),
)


def answer(case: Case) -> Outcome:
    """Version 2's answer, through the document, the record and the decision."""
    document = validation.parse_document(json.dumps({"tests": {NAME: case.entry}}).encode())
    experiment = settings.decode(document.records[NAME])
    user, visitor = (None if one is None else str(one) for one in (case.user_id, case.visitor_id))
    if case.name == NAME:
        decision = assignment.decide(experiment, user, visitor, case.tags, case.override)
    else:
        decision = assignment.undefined() if user or visitor else assignment.no_id()
    event = (decision.recorded, decision.error, decision.override_reason)
    return Outcome(decision.variant.variant, event if decision.reported else None)


def compare(case: Case, theirs: Outcome) -> str | None:
    """Name the difference between the two answers, None if there is none; fail if it has no name."""
    before = copy.deepcopy(case.tags)
    ours = answer(case)
    assert case.tags == before
    if ours == theirs:
        return None
    for difference in DIFFERENCES:
        if difference.applies(case, theirs, ours):
            return difference.name
    raise AssertionError(f"{case}\n1.0.9: {theirs}\nours:  {ours}")
