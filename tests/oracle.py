"""Runs the published client 1.0.9 in this process: no thread, no network, its events caught.

It lives in the ignored folder `.oracle` at the root, and is installed there at first use. Without it the tests
that need it are skipped, and say why; under CI they fail.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parent.parent / ".oracle"
PACKAGE = "hypotest_python3_sdk"
REQUIREMENTS = ("hypotest-python3-sdk==1.0.9", "urllib3>=2,<3")


class Outcome(NamedTuple):
    """What a call came to: the caller's variant, and the event or its absence."""

    variant: str
    event: tuple[str, str | None, str | None] | None  # variant, ht_sdk_error, override_reason


class Oracle:
    """Client 1.0.9, with settings put in by hand."""

    def __init__(self) -> None:
        os.environ["HT_ASYNC_MODE"] = "false"  # or the import starts threads
        os.environ["HT_LOG_LEVEL"] = "CRITICAL"
        sys.path.insert(0, str(FOLDER))
        try:
            self._routing = importlib.import_module(f"{PACKAGE}.routing")
            self._retrieve = importlib.import_module(f"{PACKAGE}.retrieve_experiments")
            importlib.import_module(PACKAGE)
        finally:
            sys.path.remove(str(FOLDER))
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
    if not (FOLDER / PACKAGE).is_dir():
        reason = _install()
        if reason and os.environ.get("CI"):
            pytest.fail(reason)
        if reason:
            pytest.skip(reason)
    return Oracle()


def _install() -> str:
    """Install it once. Several test processes may do so at once: the package is moved in last."""
    FOLDER.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=FOLDER))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(fresh), *REQUIREMENTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            return f"client 1.0.9 is not in .oracle, and pip could not install it: {last}"
        for name in ("urllib3", PACKAGE):
            if not (FOLDER / name).exists():
                (fresh / name).rename(FOLDER / name)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"client 1.0.9 could not be installed into .oracle: {error!r}"
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return ""
