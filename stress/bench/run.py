"""Runs the parts one after the other, tells each figure as it comes, and keeps them as JSON and as plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import stress.bench
from hypotest.config import VERSION

if TYPE_CHECKING:
    from stress.bench.row import Row

PARTS = ("calls", "breakdown", "tail", "fleet", "drain", "kill", "takeover", "imports", "instructions")
_MARK = {True: "holds", False: "MISSED", None: ""}


def main(*words: str) -> int:
    """Returns 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m stress bench", description=stress.bench.__doc__)
    parser.add_argument("--json", type=Path, metavar="F", help="keep the figures in a file")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the scaling curves")
    parser.add_argument("parts", nargs="*", metavar="NAME", help=", ".join(PARTS))
    given = parser.parse_args(words)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    about = machine()
    print("\n".join(f"{name:10}{text}" for name, text in about.items()), end="\n\n")
    rows: list[Row] = []
    for part in given.parts or PARTS:
        began = time.monotonic()
        for row in import_module(f"stress.bench.{part}").measure():
            rows.append(row)
            print(line(row), flush=True)
        print(f"{part}: {time.monotonic() - began:.0f} s\n", flush=True)
    missed = [row for row in rows if row.met is False]
    print(f"{sum(row.met is True for row in rows)} bars hold, {len(missed)} are missed")
    if given.json:
        given.json.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if given.plot:
        import_module("stress.bench.plots").draw(rows, given.plot)
    return int(bool(missed))


def line(row: Row) -> str:
    """A figure as a line of the terminal."""
    ratio = f"{row.ratio:.2f} x {row.to}" if row.ratio is not None else ""
    held = f"{_MARK[row.met]}: {row.bar}" if row.bar else ""
    return f"{row.what:78} {figure(row.value):>10} {row.unit:6} {ratio:32} {held}".rstrip()


def figure(value: float) -> str:
    """A number with three digits that count."""
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
    }


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
