"""What a mule of uWSGI does: a hundred pieces of work, and nothing from then on."""

from __future__ import annotations

import signal

from tests.hosts.work import work

PIECES = tuple(f"mule-{number}" for number in range(100))

if __name__ == "__main__":
    for piece in PIECES:
        work(piece)
    while True:
        signal.pause()
