"""Exceptions, calls and forks at every bytecode of the public calls; prints a table.

The bar: each exception reaches the host but where Python takes an object down, and no event is hidden or doubled.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.faults.bytecodes import ASYNC, CALLS, REENTRIES, UWSGI, Row, sweep
from tests.server_process import ServerProcess

_KINDS = ("SoftTimeLimitExceeded", "TimeoutError", "KeyboardInterrupt", "SystemExit")
_STATES = (("kpi_event", "rotates"), ("experiment, condition and tags", "new settings"))
_BUILDING = (
    ("kpi_event", "first of the process", ""),
    ("wait_until_ready", "first of the process", ""),
    ("kpi_event", "first after a fork", None),
)
_DEADLINE = 24 * 3600.0
_HEAD = ("bytecodes", "tried", "reached", "dying", "swallowed", "failed", "hidden", "doubled")


def main(stride: str = "1") -> int:
    """Tries each `stride`th bytecode, from a random one on. With 1, all: the calls that build a client take hours."""
    step = int(stride)
    first = random.randint(1, step)
    at = f"first={first}, stride={step}"
    print(f"{at}\n{'call':31}{'state':21}{'what':27}" + "".join(f"{word:>10}" for word in _HEAD), flush=True)
    rows: list[Row] = []
    for kind in (*_KINDS, ASYNC):
        rows += _swept(f"[interrupted(call, 'steady', {kind!r}, {at}) for call in {tuple(CALLS)}]")
        rows += _swept(f"[interrupted(call, state, {kind!r}, {at}) for call, state in {_STATES}]")
    for way in REENTRIES:
        rows += _swept(f"[reentered(call, 'steady', {way!r}, {at}) for call in {tuple(CALLS)}]")
        rows += _swept(f"[reentered(call, state, {way!r}, {at}) for call, state in {_STATES}]")
    events = ("experiment", "experiment, condition and tags", "kpi_event")
    rows += _swept(f"[forked(call, {at}) for call in {events}]")
    rows += _swept(f"[forked(call, raw=True, {at}) for call in {events}]", uwsgi=UWSGI)
    for call, state, before in _BUILDING:
        more = {} if before is None else {"first": before}
        for kind in _KINDS:
            rows += _swept(f"[interrupted({call!r}, {state!r}, {kind!r}, {at})]", **more)
        rows += _swept(f"[reentered({call!r}, {state!r}, 'a signal handler', {at})]", **more)
    bad = [row for row in rows if row.failed or row.hidden or row.doubled or (row.swallowed and row.act != ASYNC)]
    print(f"{sum(row.tried for row in rows)} bytecodes tried, {len(bad)} of {len(rows)} rows are bad")
    return 1 if bad else 0


def _swept(expression: str, **more: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory, ServerProcess(directory) as server:
        rows = sweep(server, Path(directory) / "state", expression, deadline=_DEADLINE, **more)
    for row in rows:
        counts = (getattr(row, name) for name in _HEAD)
        shown = "".join(f"{count if isinstance(count, int) else len(count):>10}" for count in counts)
        print(f"{row.call:31}{row.state:21}{row.act:27}{shown}", flush=True)
        for label in (*row.failed, *row.hidden, *row.doubled, *(row.swallowed if row.act != ASYNC else ())):
            print(f"    {label}")
    return rows
