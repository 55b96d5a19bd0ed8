"""What the kernel takes to copy pages for a fresh child, which no code of the child can make less.

`python -m stress.bench.pages COUNT` fills so many pages and makes one child after the other, which writes a byte to
each of them; prints the median of the microseconds that they take, the loop's own not counted.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from statistics import median

from tests.server_process import clean_env

_CHILDREN = 21
_PATIENCE = 60


def copying(pages: int) -> float:
    """Microseconds for so many pages, in a process of its own that has no threads."""
    command = [sys.executable, "-m", "stress.bench.pages", str(pages)]
    done = subprocess.run(command, env=clean_env(), check=True, capture_output=True, timeout=_PATIENCE)
    return float(done.stdout)


def _in_a_child(memory: mmap.mmap) -> float:
    ready, tell = os.pipe()
    if not (pid := os.fork()):
        try:
            first, again = _write(memory), _write(memory)
            os.write(tell, str((first - again) / 1e3).encode())
        finally:
            os._exit(0)
    os.close(tell)
    took = os.read(ready, 64)
    os.close(ready)
    os.waitpid(pid, 0)
    return float(took)


def _write(memory: mmap.mmap) -> int:
    """Nanoseconds that a byte in each page takes."""
    began = time.monotonic_ns()
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 2
    return time.monotonic_ns() - began


def main(count: str) -> None:
    """The process."""
    memory = mmap.mmap(-1, int(count) * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # a heap of small objects has none
    memory.write(b"\1" * len(memory))
    print(median(_in_a_child(memory) for _ in range(_CHILDREN)))


if __name__ == "__main__":
    main(*sys.argv[1:])
