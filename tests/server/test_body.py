from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from hypotest.server.body import read_body
from hypotest.server.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = 10_000


class Chunks:
    """A body that arrives in pieces, and counts those that were taken."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.taken = 0

    async def __call__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.taken += 1
            yield chunk


def read(chunks: Chunks, encoding: str = "") -> bytes:
    return asyncio.run(read_body(chunks(), encoding, LIMIT))


def refuse(chunks: Chunks, encoding: str = "") -> int:
    with pytest.raises(Refusal) as caught:
        read(chunks, encoding)
    return caught.value.status


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces(size: int) -> None:
    """A body may be cut anywhere, in the middle of a gzip header or between members too."""
    data = bytes(range(256)) * 30
    packed = gzip.compress(data[:5000]) + gzip.compress(data[5000:])
    assert read(Chunks(*pieces(data, size))) == data
    assert read(Chunks(*pieces(packed, size)), "GZip") == data


def test_empty() -> None:
    """No body is an empty one, gzip or not."""
    assert read(Chunks()) == read(Chunks(b""), "gzip") == b""


@pytest.mark.parametrize("members", [1, 3])
def test_sum_of_members(members: int) -> None:
    """The limit holds for the whole, however it is divided into members and pieces."""
    part = b"x" * (LIMIT // members)
    rest = LIMIT - len(part) * members
    packed = gzip.compress(part) * members
    assert len(read(Chunks(*pieces(packed + gzip.compress(b"x" * rest), 11)), "gzip")) == LIMIT
    assert refuse(Chunks(*pieces(packed + gzip.compress(b"x" * (rest + 1)), 11)), "gzip") == 413


def test_bomb_is_not_unfolded() -> None:
    """A bomb takes memory in proportion to the limit, not to its size."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = Chunks(b"".join([packer.compress(bytes(1 << 20)) for _ in range(50)]) + packer.flush())
    tracemalloc.start()
    try:
        assert refuse(bomb, "gzip") == 413
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (gzip.compress(b"") * (LIMIT // 20 + 1), 413),
        (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * LIMIT + b"\0", 413),
        (gzip.compress(b"") * 1001, 400),
    ],
    ids=["empty members", "a long name", "many members"],
)
def test_what_unfolds_to_nothing(packed: bytes, status: int) -> None:
    """Members without content, and names in their heads, count on the wire; and there may not be too many."""
    limit = LIMIT if status == 413 else 1 << 20
    with pytest.raises(Refusal) as caught:
        asyncio.run(read_body(Chunks(*pieces(packed, 1000))(), "gzip", limit))
    assert caught.value.status == status


@pytest.mark.parametrize(("encoding", "status"), [("", 413), ("gzip", 400), ("br", 415)])
def test_rest_is_discarded(encoding: str, status: int) -> None:
    """A refused body is read to its end, so that the client gets to read the answer."""
    chunks = Chunks(*[b"x" * LIMIT] * 5)
    assert refuse(chunks, encoding) == status
    assert chunks.taken == 5
