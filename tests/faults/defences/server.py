"""The server is away, hangs, lies, or asks for patience."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
