"""A kill or an error at any system call or bytecode of an operation."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
