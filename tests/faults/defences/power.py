"""Power cuts: what was not synced is lost, in any order."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
