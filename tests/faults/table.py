"""Writes the table of docs/reliability.md from the lists of defences: python -m tests.faults.table."""

from __future__ import annotations

from tests.faults import defences
from tests.server_process import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- the table: written by `python -m tests.faults.table` -->\n", "<!-- the end of the table -->\n"

_HEAD = "| fault | what happens | test | figure |\n|---|---|---|---|\n"


def table() -> str:
    """All rows, an area after the other."""
    count = sum(len(rows) for rows in defences.faults().values())
    parts = [f"{count} faults.\n"]
    for area, rows in defences.faults().items():
        parts.append(f"\n### {defences.title(area)}\n\n{_HEAD}{''.join(map(_line, rows))}")
    return "".join(parts)


def written() -> str:
    """What stands in the document."""
    return DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


def write() -> None:
    """Replaces what stands in the document."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")


def _line(fault: defences.Fault) -> str:
    file, _, name = fault.test.partition("::")
    cells = (fault.fault, fault.happens, f"[{file.rpartition('/')[2]}](../{file}) `{name}`", fault.figure)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


if __name__ == "__main__":
    write()
