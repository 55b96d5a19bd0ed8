"""Results: who was exposed to what, and who converted afterwards.

- A **person** is a connected component of user and visitor ids, joined by match_user_visitor events and by
  events that carry both ids; whenever the joining event arrived, it holds for the whole history.
- A person belongs to the variant of the **first exposure** to an experiment (by event time, then by arrival):
  each person is counted under one variant, and so are all the person's ids. Who later saw another variant of
  the same experiment is also counted in `mixed`.
- A goal counts for every experiment the person was exposed to **at or before** the goal's time. A person has
  converted if there is one such event; `count` and `sum` cover all of them, `no_value` says how many of them
  had no number to sum. Goals of people who were never
  exposed, or not yet, do not count.
- An exposure whose `ht_sdk_error` says that the SDK could not decide (settings or a condition that it could not
  use, no settings yet, no id) makes nobody a member of a variant, and nobody `mixed`: such a person was not dealt
  `control`, but got it instead, and would bias that one arm. It counts in `exposures` and `errors`, no more. The
  errors in `ASSIGNED` are none of these: the variant was assigned, and counts, in `errors` too.
- Exposures that an override decided count too: the person did get that variant. `overridden` says how many events
  those were, for they are no random draw.

One pass over the account's events in a read transaction; memory grows with people, not with events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypotest.assignment import BOTH_IDS, INACTIVE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

ASSIGNED = (BOTH_IDS, INACTIVE)
"""The texts of `ht_sdk_error` of a true assignment: what the SDK decided, it decided by the rules."""

_MATCHES = "SELECT DISTINCT user_id, visitor_id FROM events WHERE account = ? AND user_id <> '' AND visitor_id <> ''"
_EXPOSURES = (
    "SELECT name, variant, user_id, visitor_id, min(time) AS first, min(seq), count(*), count(error), "  # noqa: S608
    f"""ifnull(error, '') NOT IN ('', {", ".join(repr(error) for error in ASSIGNED)}) AS undecided, """
    """sum(ifnull(instr(tags, '"override_reason":'), 0) > 0) """
    "FROM events WHERE account = ? AND type = 'visit' GROUP BY name, variant, user_id, visitor_id, undecided "
    "ORDER BY first, min(seq)"
)
_GOALS = "SELECT name, user_id, visitor_id, time, value FROM events WHERE account = ? AND type = 'goal'"


class People:
    """Union-find over ids; users and visitors are different name spaces."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, user_id: str, visitor_id: str) -> None:
        """States that both ids are one person's."""
        user, visitor = self._root("u" + user_id), self._root("v" + visitor_id)
        self._parent[user] = visitor

    def of(self, user_id: str | None, visitor_id: str | None) -> str | None:
        """Names the person behind an event's ids; None if it has none."""
        if visitor_id:
            return self._root("v" + visitor_id)
        return self._root("u" + user_id) if user_id else None

    def _root(self, node: str) -> str:
        parent = self._parent
        while (above := parent.get(node, node)) != node:
            parent[node] = parent.get(above, above)  # path halving
            node = above
        return node


@dataclass
class _Goal:
    converted: set[str] = field(default_factory=set)
    count: int = 0
    total: float = 0.0
    no_value: int = 0


@dataclass
class _Variant:
    people: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    visitors: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    exposures: int = 0
    errors: int = 0
    overridden: int = 0
    goals: dict[str, _Goal] = field(default_factory=dict)

    def as_json(self, goals: Iterable[str]) -> dict[str, Any]:
        people = len(self.people)
        return {
            "people": people,
            "visitors": len(self.visitors),
            "users": len(self.users),
            "mixed": len(self.mixed),
            "exposures": self.exposures,
            "errors": self.errors,
            "overridden": self.overridden,
            "goals": {name: _goal_json(self.goals.get(name, _Goal()), people) for name in goals},
        }


def _goal_json(goal: _Goal, people: int) -> dict[str, Any]:
    converted = len(goal.converted)
    rate = converted / people if people else 0.0
    return {
        "converted": converted,
        "rate": rate,
        "count": goal.count,
        "sum": goal.total,
        "no_value": goal.no_value,
    }


@dataclass
class _Experiment:
    variants: dict[str, _Variant] = field(default_factory=dict)
    first: dict[str, tuple[str, str]] = field(default_factory=dict)  # person -> time, variant

    def as_json(self, goals: Iterable[str]) -> dict[str, Any]:
        seen = {name for variant in self.variants.values() for name in variant.goals}
        names = list(dict.fromkeys([*goals, *sorted(seen)]))
        return {"variants": {name: variant.as_json(names) for name, variant in self.variants.items()}}


def results(connection: sqlite3.Connection, account: int, tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Counts everything one account has stored.

    Args:
        connection: to the database of `store`, in a transaction.
        account: whose events.
        tests: the defined experiments, in wire form; they are listed with zeros before the first event.

    Returns:
        `{"experiments": {NAME: {"variants": {VARIANT: {"people", "visitors", "users", "mixed", "exposures",
        "errors", "overridden", "goals": {GOAL: {"converted", "rate", "count", "sum", "no_value"}}}}}}}`; `rate` is
        converted / people. Experiments that are not defined (any more) follow the defined ones.
    """
    experiments = {
        name: _Experiment({variant: _Variant() for variant in test["variants_distribution"]})
        for name, test in tests.items()
    }
    people = People()
    for user_id, visitor_id in connection.execute(_MATCHES, (account,)):
        people.join(user_id, visitor_id)
    _count_exposures(connection.execute(_EXPOSURES, (account,)), people, experiments)
    _count_goals(connection.execute(_GOALS, (account,)), people, experiments)
    return {
        "experiments": {
            name: experiment.as_json(tests.get(name, {}).get("goal_names", []))
            for name, experiment in experiments.items()
        }
    }


def _count_exposures(rows: Iterable[Any], people: People, experiments: dict[str, _Experiment]) -> None:
    """Rows come in the order of time: the first of a person is the person's first."""
    for name, variant_name, user_id, visitor_id, time, _, count, errors, undecided, overridden in rows:
        experiment = experiments.setdefault(name, _Experiment())
        seen = experiment.variants.setdefault(variant_name, _Variant())
        seen.exposures += count
        seen.errors += errors
        seen.overridden += overridden
        person = None if undecided else people.of(user_id, visitor_id)
        if person is None:
            continue
        _, own = experiment.first.setdefault(person, (time, variant_name))
        variant = experiment.variants[own]
        variant.people.add(person)
        if user_id:
            variant.users.add(user_id)
        if visitor_id:
            variant.visitors.add(visitor_id)
        if own != variant_name:
            variant.mixed.add(person)


def _count_goals(rows: Iterable[Any], people: People, experiments: dict[str, _Experiment]) -> None:
    exposed: dict[str, list[tuple[str, _Variant]]] = {}
    for experiment in experiments.values():
        for person, (time, variant_name) in experiment.first.items():
            exposed.setdefault(person, []).append((time, experiment.variants[variant_name]))
    for name, user_id, visitor_id, time, value in rows:
        who = people.of(user_id, visitor_id)
        if who is None:
            continue
        for first, variant in exposed.get(who, ()):
            if time >= first:
                goal = variant.goals.setdefault(name, _Goal())
                goal.converted.add(who)
                goal.count += 1
                if value is None:
                    goal.no_value += 1
                else:
                    goal.total += value
