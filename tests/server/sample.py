"""Events as a client would send them."""

from __future__ import annotations

import itertools
from typing import Any

_numbers = itertools.count(1)


def at(second: float) -> str:
    """Return a time of the wire format, `second` seconds (below 60) into an hour."""
    return f"2024-12-31 23:00:{second:09.6f}"


def event(event_type: str, user: str | None, visitor: str | None, when: float, **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"id-{next(_numbers)}",
        "event_type": event_type,
        "time": at(when),
        "user_id": user,
        "visitor_id": visitor,
        "tags_name_value": {"sdk_version": "2.0.0", "sdk_type": "python3"},
        **more,
    }


def visit(
    variant: str = "b",
    *,
    user: str | None = None,
    visitor: str | None = "v",
    when: float = 0,
    test: str = "button",
    **more: Any,
) -> dict[str, Any]:
    return event("visit", user, visitor, when, test_name=test, variant=variant, **more)


def goal(
    name: str = "purchase",
    *,
    user: str | None = None,
    visitor: str | None = "v",
    when: float = 1,
    value: Any = 1.0,
    **more: Any,
) -> dict[str, Any]:
    return event("goal", user, visitor, when, goal_name=name, goal_value=value, **more)


def match(user: str | None, visitor: str | None, when: float = 0, **more: Any) -> dict[str, Any]:
    return event("match_user_visitor", user, visitor, when, **more)
