"""How to ask a running host, and what it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

PATIENCE = 5.0
_CREDENTIALS = struct.Struct("=iII")
"""pid, uid and gid of a datagram's sender, as this process sees them."""


class Unanswered(Exception):
    """No answer came: the process that worked on it ended, or the host takes nothing."""


class Answer(NamedTuple):
    """What `work` tells; `worker` is its process, and `done` names whatever work is complete by that."""

    worker: int
    begin: float
    end: float
    left: int
    right: int
    threads: tuple[str, ...]
    done: tuple[str, ...]

    @classmethod
    def of(cls, ask: str, told: Mapping[str, Any]) -> Answer:
        """`told` may name in `done` what is complete, if that is not `ask` alone: `<ask>/<part>`."""
        times_and_versions = (told["begin"], told["end"], told["left"], told["right"])
        return cls(told["pid"], *times_and_versions, tuple(told["threads"]), tuple(told.get("done", [ask])))


class Door(Protocol):
    """Asks for one piece of work; may be used by several threads."""

    def ask(self, name: str, patience: float | None = None) -> Answer:
        """Returns the answer.

        Args:
            name: of the work.
            patience: seconds, or as many as this door usually waits.

        Raises:
            Unanswered: there is none.
        """
        ...

    def close(self) -> None: ...


class HttpDoor:
    """HTTP over a unix socket, a connection for each request: whichever worker is free takes it."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def ask(self, name: str, patience: float | None = None) -> Answer:
        patience = patience or PATIENCE
        connection = http.client.HTTPConnection("localhost", timeout=patience)
        with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as connected:
            try:
                connected.settimeout(patience)
                connected.connect(self._path)
                connection.sock = connected
                connection.request("GET", f"/?{name}", headers={"Connection": "close"})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    raise Unanswered(f"{response.status}: {body[:200]!r}")
                return Answer.of(name, json.loads(body))
            except (OSError, http.client.HTTPException, ValueError) as error:  # a killed worker's answer may be a part
                raise Unanswered(repr(error)) from error

    def close(self) -> None:
        """Nothing is held."""


class LineDoor:
    """For hosts without HTTP: names go as lines to a process, answers come as datagrams from whoever has done it.

    Whoever works finds the socket in HOSTS_ANSWERS; see `reply`. After `patience` seconds there is no answer.
    """

    def __init__(self, path: Path, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lines: IO[bytes] | None = None
        self._writing = threading.Lock()
        self._waiting: dict[str, tuple[threading.Event, list[Answer]]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def write_to(self, lines: IO[bytes]) -> None:
        """Names go there from now on."""
        with self._writing:
            self._lines = lines

    def ask(self, name: str, patience: float | None = None) -> Answer:
        patience = patience or self._patience
        done, answers = self._waiting.setdefault(name, (threading.Event(), []))
        try:
            with self._writing:
                if self._lines is None:
                    raise Unanswered("nobody listens yet")
                self._lines.write(name.encode() + b"\n")
                self._lines.flush()
            if not done.wait(patience):
                raise Unanswered(f"nothing for {patience} s")
            return answers[0]
        except (OSError, ValueError) as error:
            raise Unanswered(repr(error)) from error
        finally:
            del self._waiting[name]

    def _read(self) -> None:
        while (found := self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(_CREDENTIALS.size)))[0]:
            told = json.loads(found[0])
            told["pid"] = _CREDENTIALS.unpack(found[1][0][2])[0]  # not what it is in a namespace of its own
            done, answers = self._waiting.get(told["ask"], (threading.Event(), []))
            answers.append(Answer.of(told["ask"], told))
            done.set()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as farewell, contextlib.suppress(OSError):
            farewell.sendto(b"", self._socket.getsockname())
        self._reader.join(PATIENCE)
        self._socket.close()


def reply(ask: str, told: Mapping[str, Any]) -> None:
    """In a worker without HTTP: the work is done, and this is what `work` told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answers:
        answers.sendto(json.dumps({"ask": ask, **told}).encode(), os.environ["HOSTS_ANSWERS"])
