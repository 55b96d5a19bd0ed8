"""Processes that end, stop or multiply: workers, leaders, hosts."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
