"""A server on loopback with settings that are others at each poll, and that takes events without looking at them.

In a process of its own: `python -m stress.bench.changing EXPERIMENTS` prints its URL, and ends with its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from stress.bench.formats import FORMATS, name
from tests.server_process import ROOT

_PATIENCE = 10


class Served(NamedTuple):
    """What a server has served so far."""

    polls: int
    events: int


class Changing:
    """The server as a context manager."""

    def __init__(self, experiments: int) -> None:
        self._experiments = experiments
        self.url = ""

    def __enter__(self) -> Changing:  # noqa: PYI034 - Self needs Python 3.11
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stress.bench.changing", str(self._experiments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def served(self) -> Served:
        """What it has served so far."""
        with urllib.request.urlopen(f"{self.url}/served", timeout=_PATIENCE) as response:
            return Served(**json.load(response))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet, or a delayed acknowledgement is measured
    disable_nagle_algorithm = True
    documents: ClassVar[Any] = None
    polls: ClassVar[int] = 0
    events: ClassVar[int] = 0

    def do_GET(self) -> None:
        if self.path == "/served":
            self._answer(json.dumps(Served(_Handler.polls, _Handler.events)._asdict()).encode())
        else:
            _Handler.polls += 1
            self._answer(next(self.documents))

    def do_POST(self) -> None:
        _Handler.events += self.rfile.read(int(self.headers["Content-Length"])).count(b'"event_id"')
        self._answer(b'{"success": true}')

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def main(experiments: str) -> None:
    """Serves until its standard input ends."""
    document = FORMATS["hypotest"].document(int(experiments))
    bodies = [json.dumps(document).encode()]
    document["tests"][name(0)]["variants_distribution"] = {"control": 0.4, "b": 0.6}
    bodies.append(json.dumps(document).encode())
    _Handler.documents = cycle(bodies)
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
