"""The status: how the SDK is doing on this host, gathered from control page and spool by any process.

Not called status.py: a submodule of that name, imported late, would replace the function `hypotest.status`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

import orjson

from hypotest import accounts, control, interrupts, lazy
from hypotest.client import Client
from hypotest.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:  # for who evaluates the annotations
    Any = object

_ATTEMPTS = 10
_NOTHING: Mapping[str, int] = MappingProxyType({})


class Status(Record):
    """The state of one namespace, host-wide. accepted = delivered + dropped + pending, exact when the host is at rest.

    Attributes:
        connected: False with `connect_to_server=False`, or where there is no token, server or state directory.
        ready: whether settings are readable.
        server_url: where settings come from and events go.
        state_dir: the namespace's directory; None if there is none.
        refusing: why events are refused: "no_token", "no_server" or "disk", all of them, where not `connected`;
            "spool_full" or "disk" if any process of the host had no room for one in the last minute. "" if none is.
        leader_pid: as the leader wrote it, in its own pid namespace; 0 if none has signed on.
        is_leader: whether this process leads.
        silence: seconds since this process saw the leader's heartbeat move; over a second, it is stuck or dead. None in
            a process that does not watch.
        leaders: how many leaders there have been.
        generation: of the settings this process reads; 0 before any.
        settings_age: seconds since the server last confirmed the settings; None before any.
        accepted: events kept. delivered: acknowledged by the server. pending: waiting.
        refused: events that were not kept, by reason. dropped: events given up later, by reason.
        spool_bytes: size of the spool's files.
        polls: of the settings. sends: acknowledged batches.
        last_error: of the leader, with the server; "" if all is well.
        leader_config: the leader's own intervals, which are in force for the host.
    """

    connected: bool = False
    ready: bool = False
    server_url: str = ""
    state_dir: str | None = None
    refusing: str = ""
    leader_pid: int = 0
    is_leader: bool = False
    silence: float | None = None
    leaders: int = 0
    generation: int = 0
    settings_age: float | None = None
    accepted: int = 0
    delivered: int = 0
    refused: Mapping[str, int] = _NOTHING
    dropped: Mapping[str, int] = _NOTHING
    pending: int = 0
    spool_bytes: int = 0
    polls: int = 0
    sends: int = 0
    last_error: str = ""
    leader_config: Mapping[str, Any] = _NOTHING


def gather(client: Client) -> Status:
    """The status as this process sees it."""
    state, page, spool, reader = client.state, client.page, client.spool, client.reader
    if state is None or page is None or spool is None or reader is None:
        return Status(
            server_url=client.config.server_url,
            refusing=client.trouble,
            refused=accounts.refused(client.instance.unreported),
        )
    words = page.words
    counters, size = _accounts(client)
    confirmed = words[control.SETTINGS_TIME]
    return Status(
        connected=True,
        ready=reader.ready(),
        server_url=client.config.server_url,
        state_dir=state.path,
        refusing=page.refusing(),
        leader_pid=words[control.LEADER_PID],
        is_leader=client.campaign is not None and client.campaign.leading,
        silence=client.campaign.silence() if client.campaign is not None and client.watching else None,
        leaders=words[control.EPOCH],
        generation=reader.generation,
        settings_age=max(0.0, time.time() - confirmed) if confirmed else None,
        accepted=counters[accounts.ACCEPTED],
        delivered=counters[accounts.DELIVERED],
        refused=accounts.refused(counters),
        dropped=accounts.dropped(counters),
        pending=accounts.pending(counters),
        spool_bytes=size,
        polls=words[control.POLLS],
        sends=words[control.SENDS],
        last_error=page.text(control.LAST_ERROR),
        leader_config=_leader_config(page.text(control.LEADER_CONFIG)),
    )


def _leader_config(said: str) -> dict[str, Any]:
    try:
        return dict(orjson.loads(said)) if said else {}
    except (ValueError, TypeError) as error:  # cut to its area: a server URL may be of any length
        interrupts.let_through(error)
        return {}


def _accounts(client: Client) -> tuple[list[int], int]:
    """The counts of finished and open segments, and of what this process has not written down yet."""
    look = lazy.load("hypotest.survey").survey
    page, state, spool = client.page, client.state, client.spool
    assert page is not None and state is not None and spool is not None  # noqa: PT018, S101 - checked by the caller
    for _ in range(_ATTEMPTS):
        # A segment may be folded into the totals while the others are read: read again until none was.
        folded, totals = page.accounts()
        found = look(state, spool.segments, without=folded)
        if page.accounts() == (folded, totals):
            break
    return accounts.add([totals, found.counters, spool.unreported()]), found.size
