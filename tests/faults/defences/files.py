"""Files that are cut, damaged, empty, foreign or of another version."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
