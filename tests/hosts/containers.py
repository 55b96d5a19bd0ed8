"""Two containers' worth of PID namespaces, in each of which a script is pid 1: `python -m tests.hosts.containers`.

Names come as lines and go to both in turn; who ends is started again. It ends at the end of its input, or by SIGTERM.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import IO

from tests.hosts.script import lines

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


class Container:
    """One script in a namespace of its own."""

    def __init__(self) -> None:
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*UNSHARE, sys.executable, "-m", "tests.hosts.script"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)

    @property
    def _lines(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def hand(self, name: str) -> None:
        """Has it work on that; or starts it again, and the name is lost."""
        if self._process.poll() is not None:
            self._lines.close()
            self._process = self._start()
        with contextlib.suppress(BrokenPipeError):
            self._lines.write(name.encode() + b"\n")

    def end(self) -> None:
        """Lets it finish."""
        self._lines.close()
        assert self._process.wait() == 0


def main() -> None:
    """Runs to the end."""
    containers = (Container(), Container())
    for number, name in enumerate(lines()):
        containers[number % len(containers)].hand(name)
    for container in containers:
        container.end()


if __name__ == "__main__":
    main()
