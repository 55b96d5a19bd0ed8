"""`python -m hypotest.server`: the same as `hypotest serve`."""

from __future__ import annotations

import argparse
import sys

from hypotest.server import run


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hypotest.server", description=run.DESCRIPTION)
    run.add_arguments(parser)
    return run.main(parser.parse_args())


if __name__ == "__main__":
    sys.exit(_main())
