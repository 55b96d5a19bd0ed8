"""A settings server for any number of experiments, which answers from memory and notes when it is asked.

In a thread of the benchmark: our own server takes seconds to read 100,000 experiments.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson

from stress.bench.formats import FORMATS, VARIANTS, name


class Settings:
    """The server, as a context manager.

    Attributes:
        url: where it is.
        polls: when it was asked for the settings, by the monotonic clock.
    """

    def __init__(self, experiments: int) -> None:
        self._document = FORMATS["hypotest"].document(experiments)
        self.polls: list[float] = []
        self.serve(VARIANTS[0])

    def serve(self, variant: str) -> None:
        """From now on everybody gets `variant` in the first experiment."""
        self._document["tests"][name(0)]["variants_distribution"] = {variant: 1}
        self.content, self.tag = orjson.dumps(self._document), f'"{variant}-{time.monotonic_ns()}"'

    def __enter__(self) -> Settings:  # noqa: PYI034 - Self needs Python 3.11
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.settings = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an agent that is killed leaves its connection open
    settings: Settings


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        settings = self.server.settings
        settings.polls.append(time.monotonic())
        tag, content = settings.tag, settings.content
        known = self.headers.get("If-None-Match") == tag
        self._answer(304 if known else 200, b"" if known else content, tag)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"{}")

    def _answer(self, status: int, content: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
