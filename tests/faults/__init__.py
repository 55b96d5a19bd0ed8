"""Faults: kills, full disks, damaged files, interrupts, a server that misbehaves, hostile neighbours."""
