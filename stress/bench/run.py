"""Runs the parts one after the other, tells each figure as it comes, and keeps them as JSON and as plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import stress.bench
from hypotest.config import VERSION
from stress.bench import children
from stress.bench.row import HOLDS, MISSED, UNMEASURED, Row
from tests.server_process import ROOT

LONG = "HT_BENCH_LONG"
"""The variable that adds to the drain a backlog of ten million events, of 3 GB on disk."""
PARTS = ("calls", "breakdown", "tail", "fleet", "drain", "kill", "takeover", "imports", "instructions")
MISSED_BY_MACHINE = f"{MISSED}, where the machine's own is above the bar too"
_INSTALL = "pip install --editable '.[bench]' has all that the benchmark needs"
_SERVER = {"starlette": "starlette", "uvicorn": "uvicorn", "yaml": "PyYAML"}
_NEEDS = {
    "calls": _SERVER,
    "breakdown": _SERVER,
    "tail": _SERVER,
    "kill": _SERVER,
    "takeover": _SERVER,
    "instructions": _SERVER,
}
_EXAMPLES = f"""examples:
  python -m stress bench                             all of it: about a quarter of an hour
  python -m stress bench calls tail                  two parts
  python -m stress bench --json F --plot DIR drain   keeps the figures, and draws the curves
  {LONG}=1 python -m stress bench drain       a backlog of 10 million events too: 3 GB of disk, minutes more
exit status: 0 all bars hold that could be measured, 1 one is missed or a part failed, 2 it cannot be done
"""


def main(*words: str) -> int:
    """Returns 1 if a bar was missed or a part failed."""
    given = _given(words)
    parts = list(dict.fromkeys(given.parts or PARTS))
    about = machine() | {"rounds": _rounds(parts)}
    print("\n".join(f"{name:14}{text}" for name, text in about.items()), end="\n\n", flush=True)
    rows: list[Row] = []
    failed = []
    with children.ending_with_us():
        for part in parts:
            began = time.monotonic()
            why = _missing(part) or _run(part, rows)
            if why:
                failed.append(part)
                print(f"{part}: FAILED: {why}", flush=True)
                rows.append(Row(part, f"failed: {why}", None, ""))
            if given.json:
                _keep(given.json, about, rows)
            print(f"{part}: {time.monotonic() - began:.0f} s\n", flush=True)
    print(_summary(rows, failed))
    if given.plot:
        import_module("stress.bench.plots").draw(rows, given.plot)
    return int(bool(failed) or any(row.met is False for row in rows))


def _given(words: Sequence[str]) -> argparse.Namespace:
    """What is asked for; says what cannot be done before anything is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m stress bench",
        description=stress.bench.__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="F", help="keep the figures in a file, after each part")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the scaling curves, by matplotlib")
    parser.add_argument("parts", nargs="*", metavar="NAME", help=", ".join(PARTS))
    given = parser.parse_args(words)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not (hasattr(os, "sched_getaffinity") and Path("/proc/self/stat").exists()):
        parser.error("Linux only: it pins processes to cores, and reads /proc")
    if given.json and not (given.json.parent.is_dir() and os.access(given.json.parent, os.W_OK)):
        parser.error(f"--json: {given.json.parent} is not a directory that can be written to")
    if given.plot and find_spec("matplotlib") is None:
        parser.error(f"--plot: matplotlib is not installed; {_INSTALL}")
    return given


def _missing(part: str) -> str:
    """What a part needs and has not got; "" if it has all."""
    names = [distribution for module, distribution in _NEEDS.get(part, {}).items() if find_spec(module) is None]
    return f"{', '.join(names)} not installed; {_INSTALL}" if names else ""


def _run(part: str, rows: list[Row]) -> str:
    """Adds the figures of a part as they come; why it failed, or ""."""
    try:
        for row in import_module(f"stress.bench.{part}").measure():
            rows.append(row)
            print(line(row), flush=True)
    except Exception as error:  # the other parts are wanted all the same
        if children.Stopped.by:
            raise SystemExit(128 + children.Stopped.by) from error
        traceback.print_exc()
        children.kill_all()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _keep(file: Path, about: dict[str, str], rows: list[Row]) -> None:
    """Replaces the file: whoever stops the benchmark has all parts that were done."""
    fresh = file.with_name(f".{file.name}.new")
    counts = _counts(rows)
    fresh.write_text(
        json.dumps({"machine": about, "bars": counts, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
    )
    fresh.replace(file)


def _counts(rows: list[Row]) -> dict[str, int]:
    """How many bars came to what."""
    found = Counter(MISSED_BY_MACHINE if row.machine else row.outcome for row in rows if row.bar)
    return {outcome: found[outcome] for outcome in (HOLDS, MISSED, MISSED_BY_MACHINE, UNMEASURED)}


def _summary(rows: list[Row], failed: list[str]) -> str:
    counts = ", ".join(f"{number} {outcome}" for outcome, number in _counts(rows).items())
    return f"bars: {counts}" + (f"; parts that failed: {', '.join(failed)}" if failed else "")


def line(row: Row) -> str:
    """A figure as a line of the terminal."""
    ratio = f"{row.ratio:.2f} x {row.to}" if row.ratio is not None else ""
    held = f"{row.outcome.replace(MISSED, MISSED.upper())}: {row.bar}" if row.bar else ""
    return f"{row.what:78} {figure(row.value):>10} {row.unit:6} {ratio:32} {held}".rstrip()


def figure(value: float | None) -> str:
    """A number with three digits that count; a dash for none."""
    if value is None:
        return "-"
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "when": time.strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join([f"hypotest {VERSION}", *_installed()]),
        "commit": _commit() or "unknown",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _commit() -> str:
    """Which one is checked out; with a mark if something differs from it, "" where there is none."""
    try:
        found = [
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found[0] + " and changes" * bool(found[1])


def _rounds(parts: list[str]) -> str:
    """How often the parts measure what they take medians of."""
    rounds = ((part, vars(import_module(f"stress.bench.{part}")).get("_ROUNDS")) for part in parts)
    return ", ".join(f"{part} {number}" for part, number in rounds if number)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((text.partition(": ")[2] for text in lines if text.startswith("model name")), platform.machine())


def _installed() -> list[str]:
    peers = import_module("stress.bench.peers").PEERS
    names = ["orjson", "mmh3", "requests", *(peer.distribution for peer in peers if "==" not in peer.distribution)]
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return found
