"""How the suite runs."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each core: most tests wait for processes that start."""
    return 2 * (os.cpu_count() or 1)
