"""The events side of the leader: claim, batch, send, settle; and what to do with a batch that is not acknowledged."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable

from hypotest import log, pace
from hypotest.backlog import DELIVERED, Backlog, Batch, Fate
from hypotest.errors import PayloadRejected, PayloadTooLarge, ServerAway, TransportError
from hypotest.events import sent
from hypotest.transport import Transport

MAX_EVENTS = 1000
MAX_BYTES = 512 << 10
_MOST_HALVINGS = 9  # of 1000 events: 1
_QUICK = 2.0  # s: a batch acknowledged within that doubles the next
_PROBES = 32  # events sent alone, to see whether a server refuses everything
_RUN = 100  # events, between two rests


class Sender:
    """Delivers the backlog to the server.

    Attributes:
        full: whether the last batch was as large as one may be, so that more may wait.

    Each batch that is not acknowledged halves the next one, down to one event, but where the server is away; each that
    is within two seconds doubles it. Or none would ever arrive on a line too thin for a whole one, or where a proxy
    hangs up on a large one; and an event that makes the server fail would keep all others, which come in turn, from it.
    """

    def __init__(self, transport: Transport, backlog: Backlog) -> None:
        self._transport = transport
        self._backlog = backlog
        self.full = False
        self._halvings = 0

    def drain_once(self) -> int:
        """Sends one batch.

        Returns:
            How many events were settled; 0 when there is nothing to send.

        Raises:
            TransportError: nothing of the batch was acknowledged, or a part of it only before the server went away or
                asked for patience. The rest stays where it is.
        """
        most_events, most_bytes = MAX_EVENTS >> self._halvings, MAX_BYTES >> self._halvings
        batch = self._backlog.claim(most_events, most_bytes)
        self.full = len(batch.ids) >= most_events or batch.size >= most_bytes
        if not batch.ids:
            return 0
        began = time.monotonic()
        try:
            self._send(batch.ids, batch.payloads)
        except (PayloadTooLarge, PayloadRejected) as refusal:
            return self._settle_parts(batch, refusal)
        except TransportError as error:
            if not isinstance(error, ServerAway):
                self._halvings = min(self._halvings + 1, _MOST_HALVINGS)
            raise
        if time.monotonic() - began < _QUICK:
            self._halvings = max(self._halvings - 1, 0)
        return self._backlog.settle(batch, [DELIVERED] * len(batch.ids))

    def _settle_parts(self, batch: Batch, refusal: TransportError) -> int:
        """Finds what of a refused batch passes. What is refused alone, while another part passes, is poison."""
        parts = _Parts(batch, self._send)
        cut_short: TransportError | None = None
        try:
            parts.bisect()
        except TransportError as error:
            cut_short = error
        if DELIVERED not in parts.fates:
            # A server, or a proxy before it, that refuses everything: the fault is not the events'.
            raise cut_short or refusal
        poison = parts.refused_alone
        for index in poison:
            parts.fates[index] = "rejected"
        if poison:
            log.limited(
                log.ERROR, "rejected", "%d events refused for good are in quarantine/: %s", len(poison), refusal
            )
        settled = self._backlog.settle(batch, parts.fates)
        if cut_short is not None:  # it asked for patience, or is away
            raise cut_short
        return settled

    def _send(self, ids: list[str], payloads: list[bytes]) -> None:
        pace.rest()
        body, key = _body(ids, payloads), hashlib.sha256("\n".join(ids).encode()).hexdigest()
        pace.rest()
        self._transport.send_events(body, key)


def _body(ids: list[str], payloads: list[bytes]) -> bytes:
    """The events, each with its id in front."""
    pieces = [b""] * (2 * len(ids))
    pieces[::2] = [f',{{"event_id":"{event_id}",'.encode() for event_id in ids]
    for first in range(0, len(payloads), _RUN):
        pieces[2 * first + 1 : 2 * (first + _RUN) : 2] = sent(payloads[first : first + _RUN])
        pace.rest()
    pieces[0] = b'{"events":[' + pieces[0].removeprefix(b",")
    pieces.append(b"]}")
    return b"".join(pieces)  # at once: each copy of it takes as long as a hundred events


class _Parts:
    """A refused batch, sent again in parts.

    Attributes:
        fates: DELIVERED or None for each event.
        refused_alone: the events that were refused in a request of their own.
    """

    def __init__(self, batch: Batch, send: Callable[[list[str], list[bytes]], None]) -> None:
        self._batch = batch
        self._send = send
        self.fates: list[Fate] = [None] * len(batch.ids)
        self.refused_alone: set[int] = set()

    def bisect(self) -> None:
        """Halves what is refused until single events are left.

        Raises:
            TransportError: the server does not answer, or seems to refuse everything.
        """
        spans = _halves(0, len(self.fates))
        while spans:
            low, high = spans.pop()
            refusal = self._refusal(range(low, high))
            if refusal is None:
                continue
            spans += _halves(low, high)
            if high - low == 1 and DELIVERED not in self.fates and not self._any_passes():
                raise refusal

    def _any_passes(self) -> bool:
        # To bisect 1000 events that are all refused would take 2000 requests at each attempt. Drawn at random, so that
        # a few good ones are found in one of the next attempts.
        drawn = random.sample(range(len(self.fates)), min(_PROBES, len(self.fates)))
        return any(self._refusal([index]) is None for index in drawn if index not in self.refused_alone)

    def _refusal(self, indices: Iterable[int]) -> TransportError | None:
        """Sends what is undecided of these events; returns the refusal, if any."""
        open_ones = [index for index in indices if self.fates[index] is None and index not in self.refused_alone]
        if not open_ones:
            return None
        try:
            ids, payloads = self._batch.ids, self._batch.payloads
            self._send([ids[index] for index in open_ones], [payloads[index] for index in open_ones])
        except (PayloadTooLarge, PayloadRejected) as refusal:
            if len(open_ones) == 1:
                self.refused_alone.add(open_ones[0])
            return refusal
        for index in open_ones:
            self.fates[index] = DELIVERED
        return None


def _halves(low: int, high: int) -> list[tuple[int, int]]:
    """The two halves of a span, the later one first; nothing of a span of one."""
    middle = (low + high) // 2
    return [(middle, high), (low, middle)] if high - low > 1 else []
