"""What is fuzzed, each as a function of one argument whose result can be compared."""

from __future__ import annotations

from typing import NamedTuple

from hypotest import assignment, conditions, settings, validation
from hypotest.condition_tokens import INVALID
from hypotest.errors import ConditionError, ConditionSyntaxError, SettingsError
from stress.fuzz.guard import Finding

OUTSIDE = "outside"
FAILS = "fails"
NO_BOOL = "no bool"
_LONGEST_ERROR = 400
_MOST_RECORDS = 16
_CALLS = (("u", None, None), (None, "v-17", None), ("1", "2", "b"), ("u", None, "\ud800"), ("\ud800", None, None))


class Condition(NamedTuple):
    """A condition and what it is evaluated with."""

    text: str
    names: tuple[str, ...]
    tags: dict[str, object]
    user_id: str | None = "u"
    visitor_id: str | None = None


def condition(given: Condition) -> bool | str:
    """The value of a condition, or how it has none."""
    try:
        parsed = conditions.parse(given.text, given.names)
    except ConditionSyntaxError as error:
        _fit_for_a_line(str(error))
        return OUTSIDE
    try:
        return parsed(given.tags, given.user_id, given.visitor_id)
    except ConditionError as error:
        text = str(error)
        _fit_for_a_line(text)
        if "recursion" in text:
            raise Finding(text) from error
        return NO_BOOL if text == INVALID else FAILS


def document(body: bytes) -> dict[str, tuple[str, ...]] | str:
    """What some calls come to under a settings document, by experiment; or that it is none."""
    try:
        read = validation.parse_document(body)
    except SettingsError:
        return OUTSIDE
    for problem in read.problems[:_MOST_RECORDS]:
        str(problem)
    names = list(read.records)
    answers = {}
    for name in (*names[:_MOST_RECORDS], *names[-1:]):
        try:
            answers[name] = _answers(settings.decode(read.records[name]))
        except SettingsError as error:
            raise Finding(f"the record of {name!r:.100} is refused: {error}") from error
    return answers


def record(data: bytes) -> tuple[str, ...] | str:
    """What some calls come to under a settings record; or that it is none."""
    try:
        experiment = settings.decode(data)
    except SettingsError:
        return OUTSIDE
    return _answers(experiment)


def _answers(experiment: assignment.Experiment) -> tuple[str, ...]:
    tags = {"country": "DE", "age": 18}
    answers = []
    for user_id, visitor_id, override in _CALLS:
        decision = assignment.decide(experiment, user_id, visitor_id, tags, override)
        if not isinstance(decision, assignment.Decision):
            raise Finding(f"no decision: {decision!r:.100}")
        answers.append(decision.variant.variant if decision.error is None else f"{decision.variant.variant}, an error")
    return tuple(answers)


def _fit_for_a_line(text: str) -> None:
    if len(text) > _LONGEST_ERROR or "\n" in text or "\r" in text:
        raise Finding(f"an error that no log can hold: {text!r:.200}")
