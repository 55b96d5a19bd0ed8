"""Full disks, caps, descriptors, memory, threads, deleted directories."""

from __future__ import annotations

from tests.faults.defences import Fault

FAULTS: list[Fault] = []
