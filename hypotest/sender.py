"""The events side of the leader: claim, batch, send, settle; and what to do with a batch that is not acknowledged."""

from __future__ import annotations

import hashlib

from hypotest import log
from hypotest.backlog import DELIVERED, Backlog, Batch, Fate
from hypotest.errors import PayloadRejected, PayloadTooLarge, TransportError
from hypotest.transport import Transport

MAX_EVENTS = 1000
MAX_BYTES = 512 << 10


class Sender:
    """Delivers the backlog to the server."""

    def __init__(self, transport: Transport, backlog: Backlog) -> None:
        self._transport = transport
        self._backlog = backlog

    def drain_once(self) -> int:
        """Sends one batch.

        Returns:
            How many events were settled; 0 when there is nothing to send.

        Raises:
            TransportError: nothing of the batch was acknowledged. It stays where it is.
        """
        batch = self._backlog.claim(MAX_EVENTS, MAX_BYTES)
        if not batch.events:
            return 0
        try:
            self._send(batch.events)
        except (PayloadTooLarge, PayloadRejected) as refusal:
            return self._settle_parts(batch, refusal)
        return self._backlog.settle(batch, [DELIVERED] * len(batch.events))

    def _settle_parts(self, batch: Batch, refusal: TransportError) -> int:
        """Bisects a refused batch: what is refused alone, while another part was acknowledged, is poison."""
        fates: list[Fate] = [None] * len(batch.events)
        refused_alone: list[int] = []
        spans = _halves(0, len(fates))
        try:
            while spans:
                low, high = spans.pop()
                try:
                    self._send(batch.events[low:high])
                    fates[low:high] = [DELIVERED] * (high - low)
                except (PayloadTooLarge, PayloadRejected):
                    if high - low == 1:
                        refused_alone.append(low)
                    spans += _halves(low, high)
        except TransportError as error:
            refusal = error
        if DELIVERED not in fates:
            # A server, or a proxy before it, that refuses everything: the fault is not the events'.
            raise refusal
        for index in refused_alone:
            fates[index] = "rejected"
        log.limited(
            log.ERROR, "rejected", "%d events refused for good are in quarantine/: %s", len(refused_alone), refusal
        )
        return self._backlog.settle(batch, fates)

    def _send(self, events: list[tuple[str, bytes]]) -> None:
        ids = [event_id for event_id, _ in events]
        body = b'{"events":[%b]}' % b",".join(
            [b'{"event_id":"%b",%b' % (event_id.encode(), payload[1:]) for event_id, payload in events]
        )
        self._transport.send_events(body, hashlib.sha256("\n".join(ids).encode()).hexdigest())


def _halves(low: int, high: int) -> list[tuple[int, int]]:
    """The two halves of a span, the later one first; nothing of a span of one."""
    middle = (low + high) // 2
    return [(middle, high), (low, middle)] if high - low > 1 else []
