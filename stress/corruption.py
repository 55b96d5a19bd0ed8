"""Damages a file of each kind in every way, and has it read as every process would.

The bar: nothing wrong is read or counted, and no reader hangs or is killed.
"""

from __future__ import annotations

import logging
import time

from tests.faults.corruption import DAMAGES, TRIALS, sweep


def main(*kinds: str) -> int:
    """Sweeps these kinds of files, or all, and prints the table."""
    logging.getLogger("hypotest").addHandler(logging.NullHandler())
    print(f"{'kind':14}{'damage':16}{'cases':>7}{'wrong reads':>13}{'wedged':>8}{'recovered':>11}{'partly':>8}{'s':>6}")
    bad = 0
    for kind in kinds or TRIALS:
        for damage in DAMAGES:
            began = time.monotonic()
            found = sweep(kind, damage)
            print(
                f"{kind:14}{damage:16}{found.cases:>7}{len(found.wrong):>13}{len(found.stuck):>8}{found.whole:>11}"
                f"{found.partly:>8}{time.monotonic() - began:>6.0f}",
                flush=True,
            )
            for what in [*found.wrong[:5], *found.stuck]:
                print(f"    {what}")
            bad += len(found.wrong) + len(found.stuck)
    return int(bad > 0)
