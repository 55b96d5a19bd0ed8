"""`python -m hypotest`: the same as the command `hypotest`."""

from __future__ import annotations

import sys

from hypotest.cli import main

if __name__ == "__main__":
    sys.exit(main())
