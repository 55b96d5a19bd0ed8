"""What a document in Markdown has."""

from __future__ import annotations

import re


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, as cells; the lines below the heads left out."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    return [row for row in cells if set("".join(row)) - set("-: ")]
