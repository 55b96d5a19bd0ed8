"""The settings document, read in parts.

Read whole, 10,000 experiments hold the GIL for 20 ms, and live for so long that the collector goes through all that the
application has. It is cut at commas. If each part is an object once braces are put around it, the parts are the members
under `tests`, in order. A cut inside of an entry or a text gives a part that is none: no scanner of ours is needed. A
document that does not come apart is read whole.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

import orjson

from hypotest import pace
from hypotest.errors import SettingsError

Tests = dict[str, Any]

_PART = 32 << 10
_MOST_CUTS = 16
_HEAD = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"tests"[ \t\r\n]*:[ \t\r\n]*\{')
_BLANK = b" \t\r\n"


class NotInParts(ValueError):
    """A document has to be read whole."""


def in_parts(body: bytes) -> Iterator[Tests]:
    """The members of the object under `tests`, some at a time. A name may occur in several parts; the last one counts.

    Raises:
        NotInParts: perhaps after some parts.
    """
    head = _HEAD.match(body)
    end = _end(body)
    if head is None or end < head.end() or len(body) < 2 * _PART:
        raise NotInParts
    at = head.end()
    while at <= end:  # behind the last comma there has to be a part, too
        part, at = _part(body, at, end)
        pace.rest()
        yield part


def whole(body: bytes) -> Tests:
    """The object under `tests`.

    Raises:
        SettingsError: there is none.
    """
    # orjson refuses NaN and lone surrogates: one bad entry would keep all others from being updated. Given bytes, json
    # guesses an encoding, and Python imports a module for UTF-16: an import in a thread while the host may fork.
    try:
        try:
            document = orjson.loads(body)
        except ValueError:
            document = json.loads(body.removeprefix(BOM_UTF8).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        what = f"are not JSON, {error}" if body else "are empty"
        raise SettingsError(f"the settings {what}: is there a proxy or a portal in between?") from error
    tests = document.get("tests") if isinstance(document, dict) else None
    if not isinstance(tests, dict):
        raise SettingsError("the settings have no object under 'tests'")
    return tests


def _end(body: bytes) -> int:
    """Where the object under `tests` has its closing brace, if it is the last thing there is; else -1."""
    text = body[-_PART:].rstrip(_BLANK)
    inner = text[:-1].rstrip(_BLANK)
    both = text.endswith(b"}") and inner.endswith(b"}")
    return max(0, len(body) - _PART) + len(inner) - 1 if both else -1


def _part(body: bytes, start: int, end: int) -> tuple[Tests, int]:
    """The members from `start` on, and where the next ones begin."""
    cut = start + _PART
    for _ in range(_MOST_CUTS):
        cut = body.find(b"},", cut, end) + 1 or end
        try:
            members = orjson.loads(b"{%b}" % body[start:cut])
        except ValueError:
            if cut == end:
                break
            continue
        if members:
            return members, cut + 1
    raise NotInParts
