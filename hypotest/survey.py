"""The spool as any process can see it, whoever leads: what is in it, and what of it is settled. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import orjson

from hypotest import accounts, control, interrupts, segment
from hypotest.config import parse
from hypotest.errors import ConfigError, CorruptFile
from hypotest.header import SUFFIX, frames
from hypotest.segment import Segment
from hypotest.statedir import StateDir


class Survey(NamedTuple):
    """The spool as any process can see it.

    Attributes:
        counters: the accounts of all segments that still have a file.
        size: their bytes.
        marks: the position of each, by path.
    """

    counters: list[int]
    size: int
    marks: dict[str, int]


def survey(state: StateDir, own: Mapping[str, Segment], without: Collection[str] = ()) -> Survey:
    """Looks at the spool of a namespace; changes nothing.

    Args:
        state: the namespace's directory.
        own: the open segments of this process's own writer, by path.
        without: the names of segments to leave out, whose counts are in the totals already.
    """
    rows, size, marks = [], 0, {}
    with interrupts.suppress(FileNotFoundError), os.scandir(state.spool) as entries:
        for entry in entries:
            name = entry.name.removesuffix(SUFFIX)
            if name == entry.name or name in without:
                continue
            with interrupts.suppress(FileNotFoundError, CorruptFile, ValueError):
                position, _, counters = _look(entry.path, own)
                rows.append(counters)
                marks[entry.path] = position
                size += entry.stat().st_size
    return Survey(accounts.add(rows), size, marks)


def is_settled(path: str, position: int, own: Mapping[str, Segment]) -> bool:
    """Whether the events of a segment up to `position` are settled; a segment without a file is."""
    try:
        acknowledged = _look(path, own)[1]
    except OSError as error:
        interrupts.let_through(error)
        return isinstance(error, FileNotFoundError)
    return frames(acknowledged) >= frames(position)


def _look(path: str, own: Mapping[str, Segment]) -> tuple[int, int, list[int]]:
    """What `segment.peek` tells of a segment, also of one that this process writes."""
    held = own.get(path)
    if held is not None:
        try:
            return held.position(), held.acknowledged(), held.counters()
        except OSError as error:
            interrupts.let_through(error)
            if held.in_place():
                raise
    return segment.peek(path)  # where the host has closed ours, which is not mapped, its lock is gone already


def server_of(state: StateDir) -> str:
    """The server that the last leader of a namespace delivered to, "" if it is not known."""
    page = control.open_existing(state.path)
    return str((page and leaders_own(page, "server_url")) or "")


def leaders_own(page: control.ControlPage, option: str) -> Any:
    """What the last leader of a namespace had as an option, None if that is not known."""
    with interrupts.suppress(ValueError, TypeError, KeyError, ConfigError):
        return parse(option, orjson.loads(page.text(control.LEADER_CONFIG))[option])
    return None
