"""Settings and conditions that are wrong, huge or hostile."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
