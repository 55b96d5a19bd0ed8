"""Exceptions of signal handlers, re-entry, forks in the middle of a call."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
