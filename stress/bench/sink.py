"""A server on loopback that answers what the peers fetch, takes what they post, and counts the events in it.

In a process of its own: `python -m stress.bench.sink`, see `aside`. A peer's base URL is <url>/<experiments>/<peer>;
whatever stands behind that is the peer's own affair.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable
from functools import cache
from typing import ClassVar

from stress.bench.aside import Aside, Handler, fetch, serve
from stress.bench.formats import FORMATS

_INFLATE: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


class Sink(Aside):
    """The server as a context manager."""

    module = "stress.bench.sink"

    def count(self) -> int:
        """How many events have arrived."""
        return int(fetch(f"{self.url}/count"))

    def build(self, peer: str, experiments: int) -> None:
        """Makes a peer's document, which is kept: the first client that asks for it does not wait for that."""
        fetch(f"{self.url}/{experiments}/{peer}")


@cache
def _document(peer: str, experiments: int) -> bytes:
    return json.dumps(FORMATS[peer].document(experiments)).encode()


class _Handler(Handler):
    counted: ClassVar[int] = 0
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def get(self) -> None:
        self._body()  # 1.0.9 sends one
        _, experiments, *rest = self.path.split("/", 3)
        if experiments == "count":
            self.answer(str(self.counted).encode())
        else:
            self.answer(_document(rest[0], int(experiments)))

    def post(self) -> None:
        _, _, peer, *_ = self.path.split("/", 3)
        posted = self._body()
        events = FORMATS[peer].events(json.loads(posted))
        with self._lock:
            _Handler.counted += events
        self.answer(b'{"success": true}', FORMATS[peer].taken)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionResetError
        return _INFLATE[self.headers.get("Content-Encoding", "")](body)

    def _chunk(self) -> bytes:
        chunk = self.rfile.read(int(self.rfile.readline().partition(b";")[0], 16))
        self.rfile.readline()
        return chunk


if __name__ == "__main__":
    serve(_Handler)
