"""Writes a run's figures into docs/performance.md: `python -m stress.bench.document F`, of what `--json F` kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stress.bench.row import HOLDS, Row
from stress.bench.run import figure

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- the figures: written by `python -m stress.bench.document` -->\n", "<!-- the end of the figures -->\n"
_TITLES = {
    "calls": "A call",
    "breakdown": "Where the time of a call goes",
    "tail": "The tail",
    "fleet": "The fleet",
    "drain": "The drain",
    "kill": "Four forked workers, 4,000 events, all SIGKILLed",
    "takeover": "Takeover",
    "imports": "Import",
    "instructions": "Machine instructions",
}
_HEAD = "| | figure | ratio | bar |\n|---|---|---|---|\n"


def tables(run: Path) -> str:
    """The machine, and a table for each part."""
    kept = json.loads(run.read_text())
    rows = [Row.from_json(row) for row in kept["rows"]]
    parts = ["".join(f"- {name}: {text}\n" for name, text in kept["machine"].items())]
    for section in dict.fromkeys(row.section for row in rows):
        lines = [_line(row) for row in rows if row.section == section]
        parts.append(f"\n### {_TITLES.get(section, section)}\n\n{_HEAD}{''.join(lines)}")
    return "".join(parts)


def _line(row: Row) -> str:
    ratio = f"{row.ratio:.2f} x {row.to}" if row.ratio is not None else ""
    bar = f"**{row.bar}**" + ("" if row.outcome == HOLDS else f": {row.outcome}") if row.bar else ""
    return f"| {row.what} | {figure(row.value)} {row.unit} | {ratio} | {bar} |\n".replace("  ", " ")


def write(run: Path) -> None:
    """Replaces what stands in the document."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}{tables(run)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
