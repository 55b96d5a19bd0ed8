"""Entries of the settings document."""

from __future__ import annotations

import math
from typing import Any

UNUSABLE: list[tuple[str, list[Any]]] = [
    ("test_id", [None, "7", 7.0, True, [7], 2**63, -(2**63) - 1]),
    ("test_active", [None, 1, 0, "true", []]),
    ("test_state", [None, 1, True, ["calibration"]]),
    ("tag_names", [None, "country", {"country": 1}, ["country", 5], [None], 3]),
    (
        "condition_to_enter_test",
        [None, True, 1, ["True"], "", "nobody == 1", "country =", "eval('1')", "(" * 999, "'\ud800'"],
    ),
    ("variants_distribution", [None, {}, [], "b", [["b", 1]], {"b": "0.5"}, {"b": None}, {"b": True}, {"b": [1]}]),
    (
        "variants_distribution",
        [{"control": 0.5, "b": -0.1}, {"b": math.nan}, {"b": math.inf}, {"b": -math.inf}],
    ),
    ("override_control", [None, "1", {"1": 1}, 5]),
    ("override_b", [None, "1", {"1": 1}, True]),
]
"""Values that make an entry give control, by field; a field may come twice."""


def entry(**different: Any) -> dict[str, Any]:
    """Return one that can be used, but for what is given."""
    shares = {"control": 0.5, "b": 0.5}
    return {
        "test_id": 1,
        "condition_to_enter_test": "True",
        "variants_distribution": shares,
        "test_state": "",
        "test_active": True,
    } | different
