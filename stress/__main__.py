"""python -m stress NAME [ROUNDS]."""

from __future__ import annotations

import sys
from importlib import import_module

import stress

NAMES = ("idle", "stop")


def main() -> int:
    """Runs the one that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(stress.__doc__)
        return 2
    import_module(f"stress.{sys.argv[1]}").main(*map(int, sys.argv[2:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
