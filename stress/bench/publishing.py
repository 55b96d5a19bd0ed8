"""What the settings cost an agent, a leader without requests: `python -m stress.bench.publishing COUNT` prints JSON.

The parts are those of a poll: the document is read, the settings are written and put in force; and a poll without news,
which reads all of the settings in force.
"""

from __future__ import annotations

import json
import sys
import tempfile
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

_ROUNDS = 3
T = TypeVar("T")


def main(count: str) -> None:
    """Prints ms by part: medians, of which the first round is none."""
    pace.alone()
    body = orjson.dumps(FORMATS["hypotest"].document(int(count)))
    took: dict[str, list[float]] = {"read": [], "write": [], "no news": []}
    with tempfile.TemporaryDirectory() as directory:
        publisher = Publisher(directory, open_control(directory))
        for number in range(1 + _ROUNDS):
            document, reading = _time(lambda: parse_document(body))
            records = document.records | {"round": b"%d" % number}
            generation, writing = _time(partial(publisher.publish, records))
            sound, looking = _time(publisher.in_force)
            assert generation == number + 1
            assert sound
            if number:
                for part, figure in zip(took, (reading, writing, looking), strict=True):
                    took[part].append(figure)
    print(json.dumps({part: median(each) for part, each in took.items()}))


def _time(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main(*sys.argv[1:])
