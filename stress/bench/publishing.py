"""What the settings cost a leader: `python -m stress.bench.publishing COUNT ROUNDS [busy]` prints JSON.

The leader is an agent, which has no requests; or, with `busy`, a worker in which one thread of the application never
rests: then the leader's work goes in pieces, and waits for the interpreter after each.

The parts are those of a poll: the document is read, the settings are written and put in force; and a poll without news,
which reads all of the settings in force.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import orjson

from hypotest import pace
from hypotest.control import open_control
from hypotest.publisher import Publisher
from hypotest.validation import parse_document
from stress.bench.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def main(count: str, rounds: str, where: str = "") -> None:
    """Prints ms by part: medians of the rounds but the first, or that one if there is no other."""
    if where == "busy":
        threading.Thread(target=_spin, daemon=True).start()
    else:
        pace.alone()
    body = orjson.dumps(FORMATS["hypotest"].document(int(count)))
    took: dict[str, list[float]] = {"read": [], "write": [], "no news": []}
    with tempfile.TemporaryDirectory() as directory:
        publisher = Publisher(directory, open_control(directory))
        for number in range(int(rounds)):
            document, reading = _time(lambda: parse_document(body))
            records = document.records | {"round": b"%d" % number}
            generation, writing = _time(partial(publisher.publish, records))
            sound, looking = _time(publisher.in_force)
            assert generation == number + 1
            assert sound
            for part, figure in zip(took, (reading, writing, looking), strict=True):
                took[part].append(figure)
    print(json.dumps({part: median(each[1:] or each) for part, each in took.items()}))


def _spin() -> None:
    while True:
        pass


def _time(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main(*sys.argv[1:])
