from __future__ import annotations

import random
from collections import defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from hypotest.assignment import BOTH_IDS, INACTIVE
from hypotest.server.batch import parse_batch
from hypotest.server.results import results
from hypotest.server.store import Store
from tests.server.sample import goal, match, visit

if TYPE_CHECKING:
    from pathlib import Path

TESTS = {"button": {"variants_distribution": {"control": 0.5, "b": 0.5}, "goal_names": ["purchase"]}}


class Counter:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *events: dict[str, Any], tests: dict[str, Any] = TESTS) -> dict[str, Any]:
        """Return the results per experiment and variant, after storing `events` in a new database."""
        with closing(Store(self.path)) as store:
            account, other = store.account("t"), store.account("other")
            store.add(account, parse_batch(orjson.dumps({"events": events}), account))
            others = [visit("b"), visit("control"), goal(when=59), match("7", "7")]
            store.add(other, parse_batch(orjson.dumps({"events": others}), other))
            with store.reading() as connection:
                answer = results(connection, account, tests)["experiments"]
        return {name: experiment["variants"] for name, experiment in answer.items()}


@pytest.fixture
def count(tmp_path: Path) -> Counter:
    return Counter(tmp_path / "events.db")


def of(variant: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(variant[name] for name in names)


def test_nothing_yet(count: Counter) -> None:
    """A defined experiment is listed with zeros, and other tokens' events are not seen."""
    empty: dict[str, Any] = {
        "people": 0,
        "visitors": 0,
        "users": 0,
        "mixed": 0,
        "exposures": 0,
        "errors": 0,
        "overridden": 0,
    }
    empty |= {"goals": {"purchase": {"converted": 0, "rate": 0.0, "count": 0, "sum": 0.0, "no_value": 0}}}
    assert count() == {"button": {"control": empty, "b": empty}}


def test_distinct(count: Counter) -> None:
    """Visitors and users are counted once however often they were exposed."""
    events = [visit("b", visitor="v1", when=n) for n in range(3)] + [visit("b", visitor=None, user="u1")]
    answer = count(*events, visit("control", visitor="v2"))
    assert of(answer["button"]["b"], "people", "visitors", "users", "exposures") == (2, 1, 1, 4)
    assert of(answer["button"]["control"], "people", "visitors", "users", "exposures") == (1, 1, 0, 1)


def test_user_and_visitor_of_the_same_spelling(count: Counter) -> None:
    """User 7 and visitor 7 are two people."""
    answer = count(visit("b", visitor="7"), goal(visitor=None, user="7"))
    assert answer["button"]["b"]["goals"]["purchase"]["converted"] == 0


def test_goals(count: Counter) -> None:
    """A person converts once; every goal event adds to count and sum."""
    bought = [goal(visitor="v1", when=n, value=2.5) for n in (1, 2)] + [goal(visitor="v1", value=None)]
    answer = count(visit("b", visitor="v1"), visit("b", visitor="v2"), *bought)
    assert answer["button"]["b"]["goals"]["purchase"] == {
        "converted": 1,
        "rate": 0.5,
        "count": 3,
        "sum": 5.0,
        "no_value": 1,
    }


def test_goals_that_are_not_declared(count: Counter) -> None:
    """Goals the experiment does not name are counted as well, for all its variants."""
    answer = count(visit("b"), goal("newsletter"), goal("call"))
    assert list(answer["button"]["b"]["goals"]) == ["purchase", "call", "newsletter"]
    assert answer["button"]["control"]["goals"]["newsletter"]["count"] == 0


@pytest.mark.parametrize(("when", "counts"), [(4.999999, 0), (5, 1), (5.000001, 1)])
def test_goal_before_exposure(count: Counter, when: float, counts: int) -> None:
    """A goal counts from the time of the first exposure on, whatever the order of arrival."""
    answer = count(goal(when=when), visit("b", when=5), visit("b", when=9))
    assert answer["button"]["b"]["goals"]["purchase"]["count"] == counts


def test_goal_without_exposure(count: Counter) -> None:
    """A goal of somebody who was never exposed, or of nobody, counts nowhere."""
    answer = count(visit("b", visitor="v1"), goal(visitor="v2"), goal(visitor=None, user=None))
    assert answer["button"]["b"]["goals"]["purchase"]["count"] == 0


def test_match(count: Counter) -> None:
    """A visitor's exposure and a user's goal meet through a match, even one that arrives last."""
    answer = count(visit("b", visitor="v1"), goal(visitor=None, user="u1"), match("u1", "v1", when=9))
    assert answer["button"]["b"]["goals"]["purchase"]["converted"] == 1
    assert of(answer["button"]["b"], "people", "visitors", "users") == (1, 1, 0)


def test_chain_of_matches(count: Counter) -> None:
    """Two devices of one user and two users of one device are all one person."""
    chain = [match("u1", "v1"), match("u1", "v2"), match("u2", "v2"), match("u2", "v3")]
    answer = count(visit("b", visitor="v1"), visit("b", visitor="v3", when=2), goal(visitor="v2"), *chain)
    assert of(answer["button"]["b"], "people", "visitors") == (1, 2)
    assert of(answer["button"]["b"]["goals"]["purchase"], "converted", "count") == (1, 1)


def test_match_without_an_id(count: Counter) -> None:
    """A match that lacks an id, or has an empty one, joins nobody."""
    events = [
        visit("b", visitor="v1"),
        visit("b", visitor="v2"),
        match(None, "v1"),
        match(None, "v2"),
        match("", "v1"),
        match("", "v2"),
        match("u", None),
    ]
    assert count(*events)["button"]["b"]["people"] == 2


def test_event_with_both_ids(count: Counter) -> None:
    """An event with both ids says that they are one person's."""
    answer = count(visit("b", visitor="v1", user="u1"), goal(visitor=None, user="u1"))
    assert of(answer["button"]["b"], "people", "visitors", "users") == (1, 1, 1)
    assert answer["button"]["b"]["goals"]["purchase"]["converted"] == 1


def test_mixed(count: Counter) -> None:
    """Who saw two variants belongs, with all ids and goals, to the first in time."""
    events = [visit("b", visitor=None, user="u1", when=5), visit("control", visitor="v1", when=2), match("u1", "v1")]
    answer = count(*events, goal(visitor=None, user="u1", when=6))
    assert of(answer["button"]["control"], "people", "visitors", "users", "mixed", "exposures") == (1, 1, 1, 1, 1)
    assert of(answer["button"]["b"], "people", "visitors", "users", "mixed", "exposures") == (0, 0, 0, 0, 1)
    assert answer["button"]["control"]["goals"]["purchase"]["count"] == 1
    assert answer["button"]["b"]["goals"]["purchase"]["count"] == 0


def test_same_time(count: Counter) -> None:
    """Of two first exposures at the same time the one that arrived first decides."""
    answer = count(visit("control"), visit("b"))
    assert (answer["button"]["b"]["people"], answer["button"]["control"]["people"]) == (0, 1)


def test_two_experiments(count: Counter) -> None:
    """A goal counts for every experiment the person is in; unknown experiments and variants are listed too."""
    answer = count(visit("c"), visit("b", test="retired", when=3), goal(when=2), goal(when=4))
    assert answer["button"]["c"]["goals"]["purchase"]["count"] == 2
    assert answer["retired"]["b"]["goals"]["purchase"]["count"] == 1
    assert list(answer["button"]) == ["control", "b", "c"]


def test_no_random_draw(count: Counter) -> None:
    """Exposures of an assignment with an error and by override are counted among the others, and apart."""
    forced = {"sdk_type": "python3", "override_reason": "local_override_b"}
    named = {"note": '"override_reason":'}
    answer = count(
        visit("b", ht_sdk_error=BOTH_IDS),
        visit("b", tags_name_value=forced),
        visit("b", tags_name_value=named),
        visit("b"),
    )
    assert of(answer["button"]["b"], "exposures", "errors", "overridden") == (4, 1, 1)


@pytest.mark.parametrize("error", [BOTH_IDS, INACTIVE])
def test_an_assignment_with_an_error(count: Counter, error: str) -> None:
    """Who was assigned a variant is a member of it, whatever else the SDK had to say."""
    answer = count(visit("control", ht_sdk_error=error), goal(when=2))["button"]["control"]
    assert of(answer, "people", "visitors", "exposures", "errors") == (1, 1, 1, 1)
    assert answer["goals"]["purchase"]["converted"] == 1


@pytest.mark.parametrize("error", ["condition_to_enter_experiment failed: x", "settings are invalid", "no settings"])
def test_the_sdk_could_not_decide(count: Counter, error: str) -> None:
    """Who got control because the SDK could not decide is no member of control, and converts for nobody."""
    answer = count(
        visit("control", visitor="v1", when=1, ht_sdk_error=error),
        goal(visitor="v1", when=2),
        visit("control", visitor="v2", when=1, ht_sdk_error=error),
        visit("b", visitor="v2", when=3),
        goal(visitor="v2", when=2),
        goal(visitor="v2", when=4),
        visit("control", visitor="v3", when=1),
        visit("control", visitor="v3", when=1, ht_sdk_error=error),
    )["button"]
    names = "people", "visitors", "users", "mixed", "exposures", "errors"
    assert of(answer["control"], *names) == (1, 1, 0, 0, 4, 3)
    assert of(answer["b"], *names) == (1, 1, 0, 0, 1, 0)
    assert of(answer["control"]["goals"]["purchase"], "converted", "rate", "count") == (0, 0.0, 0)
    assert of(answer["b"]["goals"]["purchase"], "converted", "rate", "count") == (1, 1.0, 1)


def test_nobody(count: Counter) -> None:
    """An exposure without ids, and one with empty ids, is an exposure of nobody."""
    answer = count(visit("control", visitor=None), visit("control", visitor="", user=""))
    assert of(answer["button"]["control"], "people", "visitors", "users", "exposures") == (0, 0, 0, 2)


def test_against_a_slow_oracle(count: Counter) -> None:
    """Random events give the numbers of a direct reading of the definitions."""
    dice = random.Random(4)
    users, visitors = [None, "1", "2", "3", "4", "5"], [None, *map(str, range(12))]
    events = []
    for _ in range(400):
        who: dict[str, Any] = {"user": dice.choice(users), "visitor": dice.choice(visitors)}
        who[dice.choice(list(who))] = None
        events.append(
            dice.choice(
                [
                    visit(dice.choice(["control", "b"]), **who, when=dice.randrange(60)),
                    goal(**who, when=dice.randrange(60), value=dice.randrange(9)),
                ]
            )
        )
    events += [match(dice.choice(users[1:]), dice.choice(visitors[1:])) for _ in range(6)]
    answer = count(*events)["button"]
    for variant, expected in _oracle(events).items():
        bought = answer[variant]["goals"]["purchase"]
        assert (*of(answer[variant], "people", "mixed"), *of(bought, "converted", "count", "sum")) == expected


def _oracle(events: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    def ids(event: dict[str, Any]) -> set[str]:
        return {key + event[key] for key in ("user_id", "visitor_id") if event[key]}

    people: list[set[str]] = []
    for event in events:
        mine = ids(event)
        joined = [person for person in people if person & mine]
        people = [person for person in people if not person & mine] + ([mine.union(*joined)] if mine else [])
    found: dict[str, Any] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
    for person in people:
        mine_ = [event for event in events if ids(event) & person]
        seen = sorted((e for e in mine_ if e["event_type"] == "visit"), key=lambda e: e["time"])
        if seen:
            own = found[seen[0]["variant"]]
            goals = [e for e in mine_ if e["event_type"] == "goal" and e["time"] >= seen[0]["time"]]
            more = [1, len({e["variant"] for e in seen}) > 1, bool(goals), len(goals)]
            more.append(sum(e["goal_value"] for e in goals))
            own[:] = [have + plus for have, plus in zip(own, more, strict=True)]
    return {variant: tuple(numbers) for variant, numbers in found.items()}
