"""A server on loopback that answers what the peers fetch, takes what they post, and counts the events in it.

In a process of its own: `python -m stress.bench.sink` prints its URL, and ends with its standard input. A peer's base
URL is <url>/<experiments>/<peer>; whatever stands behind that is the peer's own affair.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from stress.bench.formats import FORMATS

_ROOT = Path(__file__).resolve().parent.parent.parent
_PATIENCE = 10
_INFLATE: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


class Sink:
    """The server as a context manager."""

    url = ""

    def __enter__(self) -> Sink:  # noqa: PYI034 - Self needs Python 3.11
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stress.bench.sink"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the sink did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def count(self) -> int:
        """How many events have arrived."""
        return int(fetch(f"{self.url}/count"))


def fetch(url: str) -> bytes:
    """What is there."""
    with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
        content: bytes = response.read()
    return content


@cache
def _document(peer: str, experiments: int) -> bytes:
    return json.dumps(FORMATS[peer].document(experiments)).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet, or a delayed acknowledgement is measured
    disable_nagle_algorithm = True
    counted: ClassVar[int] = 0
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        self._body()  # 1.0.9 sends one
        _, experiments, *rest = self.path.split("/", 3)
        if experiments == "count":
            self._answer(str(self.counted).encode())
        else:
            self._answer(_document(rest[0], int(experiments)))

    def do_POST(self) -> None:
        _, _, peer, *_ = self.path.split("/", 3)
        posted = self._body()
        events = FORMATS[peer].events(json.loads(posted))
        with self._lock:
            _Handler.counted += events
        self._answer(b'{"success": true}', FORMATS[peer].taken)

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

    def _answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: only what goes wrong is of interest, and that is a traceback."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed says nothing; all else is a fault of ours or news of a peer's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serves until its standard input ends, as it does with whoever started it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
