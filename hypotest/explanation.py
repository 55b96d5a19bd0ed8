"""Why a call comes to its decision: what `hypotest explain` prints. `assignment.decide` makes the decision here too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import mmh3

from hypotest.assignment import BUCKETS, HASHES, SEED, Decision, Experiment, decide, has_utf8, totals
from hypotest.errors import ConditionError

if TYPE_CHECKING:
    from hypotest.assignment import Tags


class Row(NamedTuple):
    """One line of the threshold table.

    Attributes:
        variant: its name.
        share: as in the settings.
        total: the sum of the shares up to here.
        threshold: the first h that does not belong to it; 2**32 if none.
    """

    variant: str
    share: float
    total: float
    threshold: int


class Explanation(NamedTuple):
    """Why a call came to its decision; most of it is what `hypotest explain` prints.

    Attributes:
        experiment: the name.
        active: as in the settings.
        state: as in the settings.
        condition: its text.
        condition_value: its value for this call; None if it has none.
        condition_error: why it has none, or None.
        override: what the caller gave.
        decision: what `decide` said: variant, recorded, error, override_reason, reported.
        by: what settled it: one of BY.
        hashed_id: the id that is, or would be, hashed; None without one.
        key: the text whose UTF-8 is hashed; None if there is none or it has no UTF-8.
        h: its hash, or None.
        x: the hash on the scale of the shares, or None.
        table: the variants in order, with their thresholds.
    """

    experiment: str
    active: bool
    state: str
    condition: str
    condition_value: bool | None
    condition_error: str | None
    override: object
    decision: Decision
    by: str
    hashed_id: str | None
    key: str | None
    h: int | None
    x: float | None
    table: tuple[Row, ...]


BY = ("no id", "settings", "condition", "override", "listed id", "id", "hash")


def explain(
    experiment: Experiment, user_id: str | None, visitor_id: str | None, tags: Tags, override: object
) -> Explanation:
    """Decides one call, and tells how: same arguments as `decide`, which makes the decision."""
    decision = decide(experiment, user_id, visitor_id, tags, override)
    value, error = _condition_value(experiment, user_id, visitor_id, tags)
    hashed_id = visitor_id or user_id or None
    key = h = x = None
    if hashed_id and has_utf8(hashed_id):
        key = hashed_id + experiment.suffix
        h = mmh3.hash(key.encode(), SEED, False)
        x = math.floor(h / HASHES * BUCKETS) / BUCKETS
    sums = totals(experiment.shares)
    return Explanation(
        experiment=experiment.name,
        active=experiment.active,
        state=experiment.state,
        condition=experiment.condition_text,
        condition_value=value,
        condition_error=error,
        override=override,
        decision=decision,
        by=_by(experiment, decision),
        hashed_id=hashed_id,
        key=key,
        h=h,
        x=x,
        table=tuple(
            Row(variant, share, total, end)
            for (variant, share), total, end in zip(experiment.shares, sums, experiment.thresholds, strict=True)
        ),
    )


def _condition_value(
    experiment: Experiment, user_id: str | None, visitor_id: str | None, tags: Tags
) -> tuple[bool | None, str | None]:
    if experiment.unusable is not None:
        return None, experiment.unusable.error
    if experiment.condition is None:
        return True, None
    try:
        return experiment.condition(tags, user_id, visitor_id), None
    except ConditionError as error:
        return None, str(error)


def _by(experiment: Experiment, decision: Decision) -> str:
    """Tells what settled a call: a decision is an object of its own for each way to it."""
    if decision in experiment.one_id or decision in experiment.both_ids:
        return "hash"
    if decision is experiment.bad_override or decision in experiment.overridden.values():
        return "override"
    return {
        id(experiment.no_id): "no id",
        id(experiment.unusable): "settings",
        id(experiment.remote_control): "listed id",
        id(experiment.remote_b): "listed id",
        id(experiment.bad_id): "id",
    }.get(id(decision), "condition")
