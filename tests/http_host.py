"""A small real HTTP server on loopback that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hypotest.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from hypotest.transport import HttpTransport

    Answer = Callable[["Exchange"], None]

TOKEN = "top-secret-token"


class Asked(NamedTuple):
    """A request as it arrived; `body` is unpacked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go separately: 40 ms for each answer otherwise
    server: HttpHost
    asked: Asked

    def _exchange(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.asked = Asked(self.command, self.path, dict(self.headers), body)
        self.server.asked.append(self.asked)
        try:
            self.server.answer(self)
        except OSError:  # the client has had enough, as it should
            self.close_connection = True

    do_GET = do_POST = _exchange  # noqa: N815 - its names in http.server

    def reply(self, status: int = 200, body: bytes = b"{}", **headers: Any) -> None:
        """Answer; names of headers with _ for -."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Close the connection after this."""
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class HttpHost(ThreadingHTTPServer):
    """The server as a context manager.

    Attributes:
        asked: the requests so far.
        answer: what answers the next ones.
        ending: set when the test is over, for answers that wait.
    """

    daemon_threads = True

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.asked: list[Asked] = []
        self.answer: Answer = answer or (lambda exchange: exchange.reply())
        self.ending = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that have had enough hang up, also between two requests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> HttpHost:  # noqa: PYI034 - Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class LateHost(HttpHost):
    """A server of an empty document that answers all at once, but the first request with events only when it is told.

    Attributes:
        waiting: set once that request is there. From then on its client is in the middle of it.
        answering: what it waits for.
        goals: id and name of each KPI event that was acknowledged, as often as it came.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.waiting = threading.Event()
        self.answering = threading.Event()
        self.goals: list[tuple[str, str]] = []
        self._turn = threading.Lock()

    def _answer(self, exchange: Exchange) -> None:
        if exchange.command == "POST":
            with self._turn:
                first = not self.waiting.is_set()
                self.waiting.set()
            if first:
                self.answering.wait()
            events = json.loads(exchange.asked.body)["events"]
            self.goals += [(event["event_id"], event["goal_name"]) for event in events]
        exchange.reply(body=b'{"tests":{}}')

    def __enter__(self) -> LateHost:  # noqa: PYI034 - Self needs Python 3.11
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answering.set()
        super().__exit__(kind, error, trace)


def fails(client: HttpTransport, kind: type[TransportError] = TransportError, *, send: bool = True) -> TransportError:
    """Let a call fail and return its error, whose text must be fit for the log; the client's token is `TOKEN`."""
    with pytest.raises(kind) as caught:
        client.send_events(b'{"events":[]}', "key") if send else client.fetch_settings(None)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert text.isprintable()
    assert 0 < len(text) < 320
    assert TOKEN not in text
    return caught.value
