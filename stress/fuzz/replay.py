"""Inputs of a directory once more, with the clock: python -m stress.fuzz.replay DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path

from stress.fuzz import guard, inputs


def main(directory: str) -> int:
    """Checks each file, and prints how many there were."""
    files = sorted(Path(directory).iterdir())
    contents = [file.read_bytes() for file in files]
    guard.install()
    for file, data in zip(files, contents, strict=True):
        target, argument = inputs.read(data)
        try:
            guard.check(target, argument, len(data))
            guard.check_memory(target, argument, len(data))
        except guard.Finding as finding:
            raise SystemExit(f"FOUND in {file.name}: {finding}\n{argument!r:.4000}") from finding
    print(len(files))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
