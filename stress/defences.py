"""Takes each defence of the table of faults out of a copy of the source, and sees its test fail.

The bar: every test fails without its defence. That it passes with it, the suite shows.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.defences import Fault, faults
from tests.server_process import ROOT

_PARTS = ("hypotest", "tests", "stress", "examples", "docs")
_AT_ONCE = 2
_DEADLINE = 600
_FAILED = 1  # pytest's exit status when tests ran and some failed


def main(*words: str) -> int:
    """Runs the faults whose area, name or test has one of the words; all without a word."""
    chosen = [
        fault
        for area, rows in faults().items()
        for fault in rows
        if not words or any(word in f"{area} {fault.fault} {fault.test}" for word in words)
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = []
        for fault, (fails, last) in zip(chosen, pool.map(_without, chosen), strict=True):
            print(f"{'fails' if fails else 'PASSES'}  {fault.test}\n       {fault.fault}: {last}", flush=True)
            results.append(fails)
    print(f"{len(results)} defences taken away, {sum(results)} tests failed, {len(results) - sum(results)} did not")
    return 0 if results and all(results) else 1


def _without(fault: Fault) -> tuple[bool, str]:
    """Whether the test fails without the defence, for its own reason, and what it said."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        copy.mkdir()
        for part in _PARTS:
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("setup.cfg", "pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, copy)
        for removal in fault.removals:
            source = (copy / removal.file).read_text()
            if source.count(removal.old) != 1:
                return False, f"{removal.old!r} does not stand in {removal.file} once"
            (copy / removal.file).write_text(source.replace(removal.old, removal.new))
        return _fails(copy, fault.test)


def _fails(copy: Path, test: str) -> tuple[bool, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", test]
    with subprocess.Popen(
        command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=_DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False, f"no end within {_DEADLINE} s"
        lines = output.strip().splitlines()
        said = next((line for line in lines if line.startswith("E   ")), lines[-1] if lines else "")
        return process.returncode == _FAILED and "NameError" not in said, said.removeprefix("E").strip()[:200]
