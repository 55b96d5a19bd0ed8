"""Fuzzes what reads conditions and settings: python -m stress fuzz [grammar|coverage] [--inputs N] [--seconds S] ...

grammar   makes conditions together with their value, documents of right and wrong fields, and breaks both
coverage  changes bytes so that further lines of the source are reached; needs the extra `fuzz` (atheris)

For each input: nothing but the documented exceptions is let out; no file, process, import or code (an audit hook
tells); at most 10 ms (or FUZZ_MS) of processor time for each 64 KiB; bounded memory and depth; the same result twice,
or the one that is expected. Without a name both run, and share the inputs.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.server_process import ROOT

_KINDS = ("grammar", "coverage")


def main(*strings: str) -> int:
    """Runs the jobs and prints what they did; the status is 1 if something was found."""
    parser = argparse.ArgumentParser("python -m stress fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("kind", nargs="?", choices=_KINDS)
    parser.add_argument("--inputs", type=int, default=200_000, help="in all (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3_600.0, help="at most, for each kind (default %(default)s)")
    parser.add_argument("--seed", default=str(secrets.randbelow(2**31)), help="of a run before (default: a new one)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default %(default)s)")
    given = parser.parse_args(strings)
    kinds = (given.kind,) if given.kind else _KINDS
    print(f"seed {given.seed}", flush=True)
    runs = [_run(kind, given.inputs // len(kinds), given) for kind in kinds]
    return 0 if all(runs) else 1


def _run(kind: str, inputs: int, given: argparse.Namespace) -> bool:
    job: Callable[[str, int, float], tuple[Counter[str], str]] = _grammar if kind == "grammar" else _coverage
    jobs = max(1, given.jobs)
    began = time.monotonic()
    shares = [inputs // jobs + (number < inputs % jobs) for number in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        seeds = [given.seed if jobs == 1 else f"{given.seed}.{number}" for number in range(jobs)]
        results = list(pool.map(job, seeds, shares, [given.seconds] * jobs))
    took = time.monotonic() - began
    counts: Counter[str] = Counter()
    for done, found in results:
        counts.update(done)
        if found:
            print(found)
    ok = not any(found for _, found in results)
    total = counts.total()
    print(f"{kind}: {total:,} inputs in {took:.0f} s, {total / took:,.0f} a second, {'0 found' if ok else 'FOUND'}")
    print("  " + ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())), flush=True)
    return ok and total > 0


def _grammar(seed: str, inputs: int, seconds: float) -> tuple[Counter[str], str]:
    """What a job did, and what it found."""
    done = _python("stress.fuzz.grammar", seed, inputs, seconds)
    return (Counter(json.loads(done.stdout)), "") if done.returncode == 0 else (Counter(), done.stderr)


def _coverage(seed: str, inputs: int, seconds: float) -> tuple[Counter[str], str]:
    with tempfile.TemporaryDirectory() as directory:
        fuzzed = _python("stress.fuzz.coverage", seed, inputs, seconds, directory)
        runs = re.search(r"^Done (\d+) runs", fuzzed.stderr, re.MULTILINE)
        if fuzzed.returncode or runs is None:
            return Counter(), f"--seed {seed}: {fuzzed.stdout}\n{fuzzed.stderr[-8_000:]}"
        again = _python("stress.fuzz.replay", directory)
        if again.returncode:
            return Counter(), f"--seed {seed}: {again.stderr}"
        return Counter(json.loads(fuzzed.stdout) if fuzzed.stdout else {"inputs": int(runs[1])}), ""


def _python(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
