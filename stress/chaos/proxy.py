"""A proxy before the server that misbehaves by a seed: `python -m stress.chaos.proxy SERVER_PORT PORT SEED SHARE`.

A line on its standard input ends the misbehaviour, and it prints how often it did what, as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

_TIMEOUT = 5.0
_HANG = 4.0
_SPELL = 0.02
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy
    timeout = 30

    def _exchange(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw(self.command, len(body))
        try:
            getattr(self, f"_{fault}")(body)
        except OSError:  # the client has had enough, as it should
            self.close_connection = True

    do_GET = do_POST = _exchange  # noqa: N815 - its names in http.server

    def _forward(self, body: bytes) -> _Answer:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=_TIMEOUT)
        try:
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body or None, headers)
                reply = connection.getresponse()
                kept = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOP_BY_HOP]
                return _Answer(reply.status, kept, reply.read())
        except (OSError, http.client.HTTPException):
            self.server.counts["502, server away"] += 1
            return _Answer(502, [], b'{"error": "no server"}')

    def _reply(self, answer: _Answer, length: int | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        self.end_headers()
        self.wfile.write(answer.body)

    def _refuse_with(self, status: int, *headers: tuple[str, str]) -> None:
        self._reply(_Answer(status, list(headers), b'{"error": "not now"}'))

    def _honest(self, body: bytes) -> None:
        self._reply(self._forward(body))

    def _status_500(self, _: bytes) -> None:
        self._refuse_with(500)

    def _status_503(self, _: bytes) -> None:
        self._refuse_with(503, ("Retry-After", "1"))

    def _status_429(self, _: bytes) -> None:
        self._refuse_with(429, ("Retry-After", "1"))

    def _status_413(self, _: bytes) -> None:
        self._refuse_with(413)

    def _status_401(self, _: bytes) -> None:
        self._refuse_with(401)

    def _html(self, _: bytes) -> None:
        self._reply(_Answer(200, [("Content-Type", "text/html")], b"<html><body>Please log in.</body></html>"))

    def _redirect(self, _: bytes) -> None:
        self._refuse_with(302, ("Location", "http://127.0.0.1:9/login"))

    def _hang(self, _: bytes) -> None:
        time.sleep(_HANG)
        self.close_connection = True

    def _drip(self, body: bytes) -> None:
        answer = self._forward(body)
        self._reply(answer._replace(body=b""), len(answer.body))
        end = time.monotonic() + _HANG
        for at in range(len(answer.body)):
            if time.monotonic() > end:
                self.close_connection = True
                return
            self.wfile.write(answer.body[at : at + 1])
            time.sleep(0.2)

    def _partial(self, body: bytes) -> None:
        answer = self._forward(body)
        self._reply(answer._replace(body=answer.body[: len(answer.body) // 2]), len(answer.body))
        self.close_connection = True

    def _drop(self, body: bytes) -> None:
        self._forward(body)  # the server commits, and nobody hears of it
        self.close_connection = True

    def _drop_with_500(self, body: bytes) -> None:
        self._forward(body)
        self._refuse_with(500)

    def _reset(self, _: bytes) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    _refuse = _reset

    def log_message(self, *_: object) -> None:
        """Says nothing."""


FAULTS = tuple(
    name.removeprefix("_")
    for name in vars(_Exchange)
    if name.startswith(("_status", "_html", "_redirect", "_hang", "_drip", "_partial", "_drop", "_reset", "_refuse"))
    and name != "_refuse_with"
)


class Proxy(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        upstream: the server's port.
        counts: how often it did what.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    timeout = 0.05

    def __init__(self, upstream: int, port: int, seed: str, share: float) -> None:
        super().__init__(("127.0.0.1", port), _Exchange)
        self.upstream = upstream
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._spell: tuple[float, str, int] = (0.0, "honest", 0)

    def draw(self, method: str, size: int) -> str:
        """What to do with this request: a fault of its own, or that of a spell, during which all meet the same."""
        with self._lock:
            until, fault, limit = self._spell
            if time.monotonic() > until:
                fault = self._rng.choice(FAULTS) if self._rng.random() < self._share else "honest"
                # Over a single event, packed or not: one that is refused by itself is given up for good.
                limit = self._rng.randint(2_000, 20_000)
                if fault != "honest" and self._rng.random() < _SPELL / self._share:
                    self._spell = (time.monotonic() + self._rng.uniform(1, 4), fault, limit)
            if fault == "status_413" and (method == "GET" or size < limit):
                fault = "honest"
            self.counts[fault] += 1
            if fault == "refuse":
                self._closed_until = time.monotonic() + self._rng.uniform(0.5, 3)
        return fault

    def serve(self) -> None:
        """Answers for ever; where connections are to be refused, the port is nobody's for a while."""
        while True:
            self.handle_request()
            if time.monotonic() < self._closed_until:
                self.socket.close()
                time.sleep(max(0.0, self._closed_until - time.monotonic()))
                self.socket = socket.socket()
                self.server_bind()
                self.server_activate()

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that have had enough hang up, also between two requests."""

    def behave(self) -> None:
        """Ends the misbehaviour."""
        with self._lock:
            self._share, self._spell = 0.0, (0.0, "honest", 0)


def main(upstream: str, port: str, seed: str, share: str) -> None:
    proxy = Proxy(int(upstream), int(port), seed, float(share))
    threading.Thread(target=proxy.serve, daemon=True).start()
    sys.stdin.readline()
    proxy.behave()
    print(json.dumps(proxy.counts), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
