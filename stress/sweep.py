"""Each operation killed at every system call and bytecode, with every error at every call; recovery checked each time.

The bar: every system call of append, rotate, claim, acknowledge, publish and take over, recovered exactly.
"""

from __future__ import annotations

import sys
import time

from tests.faults.operations import OPERATIONS
from tests.faults.sweep import sweep

_KINDS = ("kill_at_calls", "fail_at_calls", "shorten", "limit_file_size", "limit_descriptors", "kill_at_opcodes")
_HEADS = ("calls", "kills", "errors", "halves", "limits", "opcodes", "kills", "recovered", "failures")


def main(*words: str) -> int:
    """Sweeps the operations whose name has one of the words, all without a word; prints the table."""
    began = time.monotonic()
    chosen = [name for name in OPERATIONS if not words or any(word in name for word in words)]
    print(f"{'operation':20}" + "".join(f"{head:>10}" for head in _HEADS))
    failures: list[str] = []
    total = [0] * len(_HEADS)
    for name in chosen:
        reports = [sweep(name, kind) for kind in _KINDS]
        found = [failure for report in reports for failure in report.failures]
        kills, errors, halves, sizes, descriptors, steps = (report.cuts for report in reports)
        cuts = (kills, errors, halves, sizes + descriptors)
        recovered = sum(cuts) + steps - len(found)
        row = [reports[0].calls, *cuts, reports[-1].opcodes, steps, recovered, len(found)]
        total = [a + b for a, b in zip(total, row, strict=True)]
        print(f"{name:20}" + "".join(f"{n:10,}" for n in row), flush=True)
        failures += found
    print(f"{'all':20}" + "".join(f"{n:10,}" for n in total))
    print(f"{time.monotonic() - began:.0f} s")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0
