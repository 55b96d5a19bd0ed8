"""Writes the table of docs/hosts.md from the rows that the proofs measured: python -m tests.hosts.table ROWS."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "hosts.md"
BEGIN, END = "<!-- the table: written by `make hosts` -->\n", "<!-- the end of the table -->\n"

_HEAD = """\
| host | mode | runs | answers | events | lost | doubled | stale | fresh | takeover | workers | threads | polls | stop |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
_HOSTS = ("gunicorn", "pyuwsgi", "celery", "gevent", "uvicorn", "hypercorn", "granian", "uvloop")

Row = Mapping[str, Any]


def write(rows: Iterable[Row]) -> int:
    """Replaces the table in the document; returns how many modes it has."""
    by_mode: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_mode[row["host"], row["mode"]].append(row)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = "".join(_line(mode, by_mode[mode]) for mode in sorted(by_mode))
    DOCUMENT.write_text(f"{before}{BEGIN}{_preface(by_mode)}\n{_HEAD}{lines}{END}{after}", encoding="utf-8")
    return len(by_mode)


def cells() -> dict[tuple[str, str], dict[str, str]]:
    """The rows in the document's table, by host and mode, and in each its cells by column."""
    text = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    columns, rows = lines[0], lines[1:]
    return {(row[0], row[1]): dict(zip(columns, row, strict=True)) for row in rows}


def _preface(by_mode: Mapping[tuple[str, str], list[Row]]) -> str:
    runs = [row for rows in by_mode.values() for row in rows]
    fewest, most = (function(len(rows) for rows in by_mode.values()) for function in (min, max))
    versions = [f"{name} {metadata.version(name)}" for name in _HOSTS if _installed(name)]
    pythons = ", ".join(sorted({row["python"] for row in runs}))
    day = time.strftime("%Y-%m-%d", time.gmtime(max(row["at"] for row in runs)))
    each = f"{most}" if fewest == most else f"{fewest} to {most}"
    return (
        f"{len(by_mode)} modes, {each} runs each, {sum(row.get('answered', 0) for row in runs):,} answers,"
        f" {sum(row.get('events', 0) for row in runs):,} events; {day}, {platform.system()}, Python {pythons},"
        f" {', '.join(versions)}.\n"
    )


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _line(mode: tuple[str, str], rows: list[Row]) -> str:
    def total(column: str) -> str:
        return f"{sum(row.get(column, 0) for row in rows):,}"

    def worst(column: str, form: str) -> str:
        found = [row[column] for row in rows if column in row]
        return format(max(found), form) if found else ""

    cells = [
        *mode,
        str(len(rows)),
        *(total(column) for column in ("answered", "events", "lost", "doubled", "stale")),
        worst("fresh", ".2f"),
        worst("takeover", ".2f"),
        *(worst(column, "d") for column in ("workers", "threads")),
        worst("polls", ".2f"),
        worst("stop", ".2f"),
    ]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Reads the rows of a directory."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in Path(sys.argv[1]).glob("*.json")]
    if not rows:
        sys.exit(f"no rows in {sys.argv[1]}")
    print(f"{DOCUMENT.name}: {write(rows)} modes")


if __name__ == "__main__":
    main()
