"""Random settings and calls, and the script that records what client 1.0.9 makes of some of them.

`python -m tests.record_vectors` writes tests/vectors/assignment.json again; only needed when the cases change.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

VECTORS = Path(__file__).parent / "vectors" / "assignment.json"
NAME = "checkout"
TAGS = ("country", "age", "vip", "plan", "device-type", "país")
IDS = ("1", "u-17", "visitor/9", "ñandú", "用户", "🙂", "null", "a b", "0")
OUTSIDE = (
    "1 + 1 == 2",
    "tags.get('nothing') is None",
    "override is None",
    "isinstance(user_id, str)",
    "len([n for n in 'ab']) == 2",
    "True if user_id else False",
    "user_id[:0] == ''",
    "True or nobody",
    "bool(1)",
    "'''a''' == 'a'",
    "True # a comment",
    "(lambda: True)()",
    "f'{1}' == '1'",
    "user_id is not visitor_id",
)
SUBSTRINGS = (
    (["count", "country"], "country == 'DE' or country != 'DE'"),
    (["age"], "'page' == 'page' or age > 3"),
    (["a", "tag"], "a == tag or a != tag"),
)
FAILING = ("country < 3", "age < 'x'", "vip.lower() == 'x'", "len(age) > 1", "plan in 5", "nothing == 1")
INVALID = ("", "country ==", "(", "'open", "import os", "country = 'DE'", "1 2", "[1", "age >< 1", "a b", "not")
NOT_BOOLEAN = ("1", "country", "''", "None", "country and 5", "[]", "user_id or visitor_id", "-1", "age or 'x'")


class Case(NamedTuple):
    """One call under one settings entry; `name` is `NAME` if the experiment is defined."""

    entry: dict[str, Any]
    name: str
    user_id: Any
    visitor_id: Any
    tags: dict[str, Any] | None
    override: Any


def random_entry(rng: Random) -> dict[str, Any]:
    """Draw a settings entry; most can be used."""
    names, condition = _condition(rng)
    return {
        "test_id": rng.choice((0, 1, 7, 1_000_000, -3, rng.randrange(2**40))),
        "test_name": NAME,
        "experiment_hypothesis": "",
        "tag_names": names,
        "condition_to_enter_test": condition,
        "variants_distribution": _distribution(rng),
        "goal_names": ["paid"],
        "test_state": rng.choice(("running", "running", "", "calibration")),
        "test_active": rng.random() < 0.75,
        "override_control": _listed(rng),
        "override_b": _listed(rng),
    }


def random_case(rng: Random, entry: dict[str, Any]) -> Case:
    """Draw a call."""
    shape = rng.random()
    user = _id(rng) if shape < 0.6 else None
    visitor = _id(rng) if 0.45 < shape < 0.97 else None
    override = rng.choice((*entry["variants_distribution"], "b", "a", "control", "nobody", "", 5, 0, ["b"]))
    name = NAME if rng.random() < 0.97 else "another"
    return Case(entry, name, user, visitor, _tags(rng), override if rng.random() < 0.25 else None)


def _id(rng: Random) -> Any:
    draw = rng.random()
    if draw < 0.4:
        return rng.choice(IDS)
    if draw < 0.7:
        return f"user-{rng.randrange(10**9)}"
    if draw < 0.72:
        return "x" * rng.randrange(3000) + rng.choice(IDS)
    odd = ("", 0, 1, 2.5, True, "\ud83d", "é\0", "".join(rng.sample("añж語🙂", 4)))
    return rng.choice((rng.randrange(-5, 10**12), *odd))


def _tags(rng: Random) -> dict[str, Any] | None:
    if rng.random() < 0.06:
        return rng.choice((None, {}))
    full = {
        "country": rng.choice(("DE", "US", "de ", "", None)),
        "age": rng.choice((3, 18, 40.5, True, None, "18", 2**70)),
        "vip": rng.choice((True, False, None, 1)),
        "plan": rng.choice(("free", "pro", "null", [1], 0)),
        "device-type": rng.choice(("tv", "phone")),
        "país": rng.choice(("ES", "FR")),
        "count": 3,
        "a": rng.choice((1, "x")),
        "tag": 1,
    }
    return {name: value for name, value in full.items() if rng.random() < 0.98}


def _listed(rng: Random) -> Any:
    if rng.random() < 0.6:
        return []
    listed: list[Any] = rng.sample((*IDS, "", "zz", "True"), 3)
    return [*listed, rng.choice((1, None, 2.5))] if rng.random() < 0.1 else listed


def _distribution(rng: Random) -> dict[str, Any]:
    names = rng.sample(("control", "b", "c", "d", "ünï", "is_e"), rng.randint(1, 5))
    if rng.random() < 0.7:
        names = ["control", "b", *names[2:]]
    shape = rng.random()
    if shape < 0.03:
        return rng.choice(({}, {"control": "0.5", "b": 0.5}, {"control": -0.1, "b": 1.1}, {"control": None}))
    if shape < 0.4:
        return dict.fromkeys(names, 1 / len(names))
    if shape < 0.7:
        return {name: rng.randint(0, 4) / 10 for name in names}
    cuts = sorted(round(rng.random(), rng.randint(1, 6)) for _ in names)
    return {name: cut - (cuts[i - 1] if i else 0) for i, (name, cut) in enumerate(zip(names, cuts, strict=True))}


def _condition(rng: Random) -> tuple[list[str], str]:
    draw = rng.random()
    if draw < 0.3:
        return list(TAGS), "True"
    if draw < 0.33:
        names, text = rng.choice(SUBSTRINGS)
        return list(names), text
    for limit, texts in ((0.37, OUTSIDE), (0.42, FAILING), (0.46, INVALID), (0.5, NOT_BOOLEAN)):
        if draw < limit:
            return list(TAGS), rng.choice(texts)
    return list(TAGS), _expression(rng, 2)


def _expression(rng: Random, depth: int) -> str:
    if depth and rng.random() < 0.5:
        left, right = _expression(rng, depth - 1), _expression(rng, depth - 1)
        return rng.choice((f"{left} and {right}", f"{left} or {right}", f"not ({left})", f"({left}) == ({right})"))
    number = rng.choice(("3", "18", "-1", "40.5", "1_0", "0x12"))
    text = rng.choice(("'DE'", '"US"', "'de\\x20'", "''", "u'DE'", "'D' 'E'"))
    return rng.choice(
        (
            f"country == {text}",
            f"country in ['US', {text}, None]",
            f"country not in ({text}, 'FR')",
            f"age >= {number}",
            f"{number} < age <= 40",
            f"age in {{{number}, 18, '18'}}",
            "vip is None",
            "vip is not None",
            "vip == True",
            "country.strip().lower() == 'de'",
            "country.startswith(('D', 'U'))",
            f"len(country) > {number}",
            "plan != 'free'",
            "device-type == 'tv'",
            "país == 'ES'",
            "user_id is None",
            "visitor_id != '1'",
            "user_id == visitor_id",
            "True",
            "False",
        )
    )


def main() -> None:
    """Record 500 cases that JSON can hold."""
    from tests import oracle
    from tests.differences import compare

    rng = Random(109)
    client = oracle.load()
    groups = []
    for _ in range(125):
        entry = random_entry(rng)
        client.publish({NAME: entry})
        group: dict[str, Any] = {"entry": entry, "calls": []}
        for _ in range(4):
            case = random_case(rng, entry)
            theirs = client.ask(case.name, case.user_id, case.visitor_id, _copy(case.tags), case.override)
            group["calls"].append({"call": case[1:], "answer": theirs, "difference": compare(case, theirs)})
        groups.append(group)
    lines = ",\n".join(json.dumps(group) for group in groups)
    VECTORS.write_text(f"[\n{lines}\n]\n", encoding="ascii")


def _copy(tags: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if tags is None else dict(tags)


if __name__ == "__main__":
    main()
