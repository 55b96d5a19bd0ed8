"""Neighbours and networks that mean harm."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
