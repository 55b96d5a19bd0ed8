"""Fuzzing by coverage, in a process of its own: python -m stress.fuzz.coverage SEED INPUTS SECONDS CORPUS."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from random import Random

import atheris

from stress.fuzz import guard

_WATCHED = ("conditions", "condition_tokens", "condition_nodes", "validation", "settings", "assignment")
with atheris.instrument_imports(include=[f"hypotest.{name}" for name in _WATCHED]):
    from stress.fuzz import inputs

_LONGEST = 4_096
_MOST_SLOW = 100
_HANGS = 60
_MEGABYTES = 2_048


def main(seed: str, number: str, seconds: str, corpus: str) -> None:
    """Fuzzes from the seeds of the grammar on; does not return. Prints the counts as JSON.

    What reaches further is left in the corpus, and so is what seems slow: `replay` looks at both again, without the
    instruments that slow the code down.
    """
    random = Random(seed)
    for data in inputs.seeds(random):
        _keep(corpus, data)
    words = Path(corpus, "..").resolve() / f"{Path(corpus).name}.words"
    words.write_text(inputs.dictionary(random), encoding="ascii")
    options = [
        f"-seed={zlib.crc32(seed.encode()) or 1}", f"-runs={number}",
        f"-max_total_time={max(1, round(float(seconds)))}",
        f"-max_len={_LONGEST}", f"-timeout={_HANGS}", f"-rss_limit_mb={_MEGABYTES}", f"-dict={words}",
        f"-artifact_prefix={corpus}/", "-print_final_stats=0", "-verbosity=1",
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    slow = 0

    def one(data: bytes) -> None:
        nonlocal slow
        target, argument = inputs.read(data)
        began = time.perf_counter_ns()
        try:
            guard.check(target, argument, len(data), timed=False)
        except guard.Finding as finding:
            os.write(1, f"FOUND: {finding}\n{argument!r:.4000}\n".encode("utf-8", "backslashreplace"))
            raise
        if time.perf_counter_ns() - began > 2 * guard.PER_64_KIB and slow < _MOST_SLOW:
            slow += 1
            _keep(corpus, data)
        counts[target.__name__] += 1
        if counts.total() == int(number):
            os.write(1, json.dumps(counts).encode())

    atheris.Setup([sys.argv[0], *options, corpus], one)
    guard.install()
    atheris.Fuzz()


def _keep(corpus: str, data: bytes) -> None:
    Path(corpus, hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
