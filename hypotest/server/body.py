"""Request bodies: plain or gzip (RFC 7694), bounded before and after decompression."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

from hypotest.server.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DRAIN_LIMIT = 256 * 1024 * 1024
_GZIP = zlib.MAX_WBITS | 16
_SLICE = 4096
_MOST_MEMBERS = 1000


class _Sink(Protocol):
    def feed(self, data: bytes) -> None: ...
    def finish(self) -> bytes: ...


class _Plain:
    def __init__(self, limit: int, measured: str = "") -> None:
        self._limit = limit
        self._measured = measured
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise Refusal(413, f"the body is over {self._limit} bytes{self._measured}: send smaller batches")
        if data:
            self._parts.append(data)

    def finish(self) -> bytes:
        return b"".join(self._parts)


class _Gunzip:
    """Streams: a bomb costs twice `limit` bytes at most, whatever it would unfold to; or not, as empty members do."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._wire = self._members = 0
        self._plain = _Plain(limit, " when decompressed")
        self._member = zlib.decompressobj(_GZIP)
        self._started = False

    def feed(self, data: bytes) -> None:
        self._wire += len(data)
        if self._wire > self._limit:
            raise Refusal(413, f"the body is over {self._limit} bytes: send smaller batches")
        for start in range(0, len(data), _SLICE):  # what is behind a member is copied once for each
            self._unpack(data[start : start + _SLICE])

    def _unpack(self, data: bytes) -> None:
        while data:
            if self._member.eof:  # RFC 1952, 2.2: a file is a series of members
                self._member = zlib.decompressobj(_GZIP)
                self._members += 1
                if self._members == _MOST_MEMBERS:
                    raise Refusal(400, f"the gzip body has {_MOST_MEMBERS} members")
            self._started = True
            try:
                out = self._member.decompress(data, self._limit + 1)
            except zlib.error as error:
                raise Refusal(400, f"the body is not gzip: {error}") from None
            self._plain.feed(out)
            data = self._member.unconsumed_tail or self._member.unused_data

    def finish(self) -> bytes:
        if self._started and not self._member.eof:
            raise Refusal(400, "the gzip body ends too early")
        return self._plain.finish()


async def read_body(chunks: AsyncIterator[bytes], encoding: str, limit: int) -> bytes:
    """Reads a whole body.

    Args:
        chunks: the body as it arrives.
        encoding: the value of Content-Encoding, empty if there was none.
        limit: bytes allowed, both on the wire and decompressed.

    Raises:
        Refusal: 413 too large, 400 not gzip, 415 another encoding; the rest of the body is discarded first.
    """
    try:
        sink = _sink(encoding, limit)
        async for chunk in chunks:
            sink.feed(chunk)
        return sink.finish()
    except Refusal:
        await drain(chunks)
        raise


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Discards what is left of a body, up to `DRAIN_LIMIT` bytes.

    A client that is still writing when the connection is closed sees a reset instead of the answer: it would
    take a 413 for an outage and send the same batch for ever.
    """
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > DRAIN_LIMIT:
            return


def _sink(encoding: str, limit: int) -> _Sink:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain(limit)
    if name in ("gzip", "x-gzip"):
        return _Gunzip(limit)
    raise Refusal(415, f"Content-Encoding {encoding!r} is not understood: send gzip or none")
