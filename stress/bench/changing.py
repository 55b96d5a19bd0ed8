"""A server on loopback with settings that are others at each poll, and that takes events without looking at them.

In a process of its own: `python -m stress.bench.changing EXPERIMENTS`, see `aside`.
"""

from __future__ import annotations

import json
import sys
from itertools import cycle
from typing import Any, ClassVar, NamedTuple

from stress.bench.aside import Aside, Handler, fetch, serve
from stress.bench.formats import FORMATS, name


class Served(NamedTuple):
    """What a server has served so far."""

    polls: int
    events: int


class Changing(Aside):
    """The server as a context manager; it takes the number of experiments."""

    module = "stress.bench.changing"

    def served(self) -> Served:
        """What it has served so far."""
        return Served(**json.loads(fetch(f"{self.url}/served")))


class _Handler(Handler):
    documents: ClassVar[Any] = None
    polls: ClassVar[int] = 0
    events: ClassVar[int] = 0

    def get(self) -> None:
        if self.path == "/served":
            self.answer(json.dumps(Served(_Handler.polls, _Handler.events)._asdict()).encode())
        else:
            _Handler.polls += 1
            self.answer(next(self.documents))

    def post(self) -> None:
        _Handler.events += self.rfile.read(int(self.headers["Content-Length"])).count(b'"event_id"')
        self.answer(b'{"success": true}')


def main(experiments: str) -> None:
    """Serves two documents in turn."""
    document = FORMATS["hypotest"].document(int(experiments))
    bodies = [json.dumps(document).encode()]
    document["tests"][name(0)]["variants_distribution"] = {"control": 0.4, "b": 0.6}
    bodies.append(json.dumps(document).encode())
    _Handler.documents = cycle(bodies)
    serve(_Handler)


if __name__ == "__main__":
    main(*sys.argv[1:])
