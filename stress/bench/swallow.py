"""A server on loopback that is as cheap as can be: it reads each body, and answers as ours does without looking at it.

`python -m stress.bench.swallow` prints its port. `GET /seen` says how many POSTs it has answered, how many bytes they
had and when the last one was answered (monotonic clock); `GET /bodies` gives the first bodies, each after its length.
"""

from __future__ import annotations

import json
import socket
import threading
import time

_BUFFER = 4 << 20
_KEPT = 100
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_TAKEN = _ANSWER % (29, b'{"accepted":0,"duplicates":0}')
_LENGTH = b"content-length: "
_TEST = {
    "test_id": 17,
    "test_name": "button",
    "experiment_hypothesis": "",
    "tag_names": ["country"],
    "condition_to_enter_test": 'country == "DE"',
    "variants_distribution": {"control": 0.5, "b": 0.5},
    "goal_names": ["purchase"],
    "test_state": "running",
    "test_active": True,
    "override_control": [],
    "override_b": [],
}
_SETTINGS = json.dumps({"tests": {"button": _TEST}}).encode()


class Sink:
    """What was swallowed so far."""

    def __init__(self) -> None:
        self.posts = self.bytes = 0
        self.at = 0.0
        self.bodies: list[bytes] = []

    def serve(self, connection: socket.socket) -> None:
        """Answers all requests of a connection; to be called in a thread of its own."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        while (asked := self._read(connection, buffer, view)) is not None:
            line, start, end = asked
            if line.startswith(b"POST"):
                connection.sendall(_TAKEN)
                self.posts += 1
                self.bytes += end - start
                self.at = time.monotonic()
                if len(self.bodies) < _KEPT:
                    self.bodies.append(bytes(view[start:end]))
                continue
            if line.startswith(b"GET /seen"):
                said = json.dumps([self.posts, self.bytes, self.at]).encode()
            else:
                said = self._kept() if line.startswith(b"GET /bodies") else _SETTINGS
            connection.sendall(_ANSWER % (len(said), said))

    def _kept(self) -> bytes:
        return b"".join(b"%d\n%b" % (len(body), body) for body in self.bodies)

    def _read(self, connection: socket.socket, buffer: bytearray, view: memoryview) -> tuple[bytes, int, int] | None:
        """One request: its first line, and where its body begins and ends in the buffer; None at the end of all."""
        got = 0
        while (head := buffer.find(b"\r\n\r\n", 0, got)) < 0:
            more = connection.recv_into(view[got:])
            if not more:
                return None
            got += more
        lines = bytes(view[:head])
        at = lines.lower().find(_LENGTH)
        start = end = head + 4
        if at >= 0:
            end += int(lines[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if end > got:
            connection.recv_into(view[got:end], end - got, socket.MSG_WAITALL)
        return lines.split(b"\r\n", 1)[0], start, end


def main() -> None:
    sink = Sink()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        print(door.getsockname()[1], flush=True)
        while True:
            connection, _ = door.accept()
            threading.Thread(target=sink.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
