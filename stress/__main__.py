"""python -m stress NAME [WHAT IT TAKES]."""

from __future__ import annotations

import sys
from importlib import import_module

import stress

NAMES = ("bench", "chaos", "corruption", "defences", "fuzz", "idle", "interrupts", "model", "stop", "sweep")


def main() -> int:
    """Runs the one that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(stress.__doc__)
        return 2
    return int(import_module(f"stress.{sys.argv[1]}").main(*sys.argv[2:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
