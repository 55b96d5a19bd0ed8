"""Runs the published client 1.0.9 in this process: no thread, no network, its events caught.

It lives in a folder of its own, see `packages`.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tests.packages import installed

PACKAGE = "hypotest_python3_sdk"
REQUIREMENTS = ("hypotest-python3-sdk==1.0.9", "urllib3>=2,<3")


class Outcome(NamedTuple):
    """What a call came to: the caller's variant, and the event or its absence."""

    variant: str
    event: tuple[str, str | None, str | None] | None  # variant, ht_sdk_error, override_reason


class Oracle:
    """Client 1.0.9, with settings put in by hand."""

    def __init__(self, folder: Path) -> None:
        os.environ["HT_ASYNC_MODE"] = "false"  # or the import starts threads
        os.environ["HT_LOG_LEVEL"] = "CRITICAL"
        sys.path.insert(0, str(folder))
        try:
            self._routing = importlib.import_module(f"{PACKAGE}.routing")
            self._retrieve = importlib.import_module(f"{PACKAGE}.retrieve_experiments")
            importlib.import_module(PACKAGE)
        finally:
            sys.path.remove(str(folder))
            del os.environ["HT_ASYNC_MODE"], os.environ["HT_LOG_LEVEL"]
        self._routing.ht_config.async_mode = True  # or each call fetches settings
        self._events: list[dict[str, Any]] = []
        sys.modules[f"{PACKAGE}.utils"].put_event_in_queue = self._events.append  # type: ignore[attr-defined]
        self._tests: dict[str, Any] = {}
        self._retrieve.ht_connector.get_all_experiments = lambda: self._tests

    def publish(self, tests: dict[str, Any]) -> None:
        """Replace its settings, by its own code."""
        self._tests = tests
        self._retrieve.experiments.clear()
        self._retrieve.retrieve_experiments()

    def ask(self, name: str, user_id: Any, visitor_id: Any, tags: Any, override: Any) -> Outcome:
        """Call its `experiment()`; it may change `tags`."""
        self._events.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its utcnow() and its eval warn; as errors they would change the answer
            variant = self._routing.experiment(name, user_id, visitor_id, tags, override)
        if not self._events:
            return Outcome(str(variant), None)
        (event,) = self._events
        reason = event["tags_name_value"].get("override_reason")
        return Outcome(str(variant), (event["variant"], event.get("ht_sdk_error"), reason))


def load() -> Oracle:
    """Give the oracle; skip the test if there is none, fail it under CI."""
    return Oracle(installed("client-1.0.9", *REQUIREMENTS))
