"""A server on loopback in a process of its own, which prints its URL and ends with its standard input."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from tests.server_process import ROOT

_PATIENCE = 10
_Self = TypeVar("_Self", bound="Aside")


class Aside:
    """The server of a module, which calls `serve`, as a context manager."""

    module: ClassVar[str]

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments
        self.url = ""

    def __enter__(self: _Self) -> _Self:  # noqa: PYI019 - Self needs Python 3.11
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, *map(str, self._arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, f"{self.module} did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Handler(BaseHTTPRequestHandler):
    """Answers JSON, and holds no client up. The requests are what `get` and `post` make of them."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet, or a delayed acknowledgement is measured
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """See `get`."""
        self.get()

    def do_POST(self) -> None:
        """See `post`."""
        self.post()

    def get(self) -> None:
        """Answers a GET."""
        raise NotImplementedError

    def post(self) -> None:
        """Answers a POST."""
        raise NotImplementedError

    def answer(self, content: bytes, status: int = 200) -> None:
        """Answers with that body."""
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


def serve(handler: type[Handler]) -> None:
    """Serves until standard input ends, as it does with whoever started this process."""
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    server.shutdown()


def fetch(url: str) -> bytes:
    """What is there."""
    with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
        content: bytes = response.read()
    return content
