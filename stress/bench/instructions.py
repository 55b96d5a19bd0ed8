"""Machine instructions of the hot path and of the import: figures that a busy machine does not move.

Counted by valgrind, and given as ratios to what a fixed piece of Python takes in the same interpreter: builds of Python
differ by more than a regression would. `python -m stress.bench.instructions` records them for this version of Python in
the file that tests/test_instructions.py compares with.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stress.bench import peers
from stress.bench.row import Bar, Row, unmeasured
from stress.bench.sink import Sink
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess, clean_env

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORDED = Path(__file__).resolve().parents[2] / "tests" / "instructions.json"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
_CALLS = 3_000
_LAYOUTS = (0, 7)
"""So many objects of each size more: each call is counted in several layouts of the memory, and the least counts."""
_SCRIPT = """
import os, sys
import hypotest, mmh3, orjson
assert hypotest.wait_until_ready(60)
table = {"a": 1, "b": 2}

def reference(user):
    # Of each thing that a decision and an event are made of, about as much.
    for _ in range(4):
        key = (user + "-9300000028841").encode()
        mmh3.hash(key, 1, False)
        head = b"".join((b"one", orjson.dumps(user), b"two", key, b"three"))
        if type(user) is str and table.get(user) is None:
            head = head[2:40]
    return head

def nothing(user):
    return None

def silent(user):
    return hypotest.experiment("button", user, report_event=False)

def exposure(user):
    return hypotest.experiment("button", user)

def kpi(user):
    return hypotest.kpi_event("purchase", user)

# A call, and as many turns of an empty loop as make a tenth of it: NAME+TIMES.
name, _, times = sys.argv[1].partition("+")
only, times = globals()[name], range(int(times or 0))

def with_more(user):
    only(user)
    for _ in times:  # each little enough for a tenth to be made of it
        pass

# Room in the pools of each size: at the edge of one, each call would take a pool and give it back, 3 % of it, or none
# would, by the length of a path.
layout = range(int(sys.argv[3]))
pad = [make(size) for size in range(1, 480, 8) for make in (bytes, lambda n: [None] * (n // 8)) for _ in layout]
room = [make(size) for size in range(1, 480, 8) for make in (bytes, float, lambda _: object()) for _ in range(100)]
del room[::2]

call = with_more if times else only
for n in range(int(sys.argv[2])):
    call("user-1")
os._exit(0)
"""
CALLS = {
    "silent": "experiment(report_event=False)",
    "exposure": "experiment()",
    "kpi": "kpi_event()",
}
IMPORT = "import"
_WORDS = {name: f"instructions of {words}" for name, words in (*CALLS.items(), (IMPORT, "import hypotest"))}
LONGER = ", and a tenth"
TENTH = 0.1
SLACK = 0.05
"""Builds of one version of Python differ by a hundredth or two, runs on one machine by half of one."""
_LOOPS = 1_000_000
_YARDSTICK = "eppo-server-sdk"
_PEER = """
import os, sys
from stress.bench.contender import ALL
made = ALL[sys.argv[1]].make(sys.argv[2], 1)
call = made if sys.argv[4] == "call" else lambda user: None
for n in range(int(sys.argv[3])):
    call("user-1")
os._exit(0)
"""


def missing() -> str:
    """Why they cannot be counted here; "" if they can."""
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def measure() -> Iterator[Row]:
    """The ratios."""
    before = recorded()
    if missing():
        print(f"instructions: {missing()}")
        for name, words in _WORDS.items():
            yield Row("instructions", words, None, "", **unmeasured(_bar(name, before)))
        return
    found, reference = _counted(_WORDS)
    ratios_now = _ratios(found, reference)
    for name, words in _WORDS.items():
        to = "a bare start, which is 1" if name == IMPORT else "a fixed piece of Python"
        held: Bar = unmeasured(_bar(name, before))
        if name in before:
            held["met"] = not verdict(before[name], ratios_now[name])
        yield Row("instructions", words, found[name], "", to=to, ratio=ratios_now[name], **held)
    if any(peer.name == _YARDSTICK and not peers.missing(peer) for peer in peers.PEERS):
        theirs = _peers()
        for name, words in CALLS.items():
            what, to = f"the same of {words}, beside a peer's", f"{_YARDSTICK}: {theirs:,.0f}"
            yield Row("instructions", what, found[name], "", to=to, ratio=found[name] / theirs)


def _bar(name: str, before: dict[str, float]) -> str:
    return f"{SLACK:.0%} from {before.get(name, 'what is recorded')} at most"


def verdict(before: float, now: float) -> str:
    """What is to be said of a ratio, beside the one that is recorded; "" if nothing."""
    if now > before * (1 + SLACK):
        return f"{now:.3f} is {now / before - 1:.1%} more than {before}"
    if now < before * (1 - SLACK):
        return f"{now:.3f} is {1 - now / before:.1%} less than {before}: record it anew"
    return ""


def ratios(names: Iterable[str]) -> dict[str, float]:
    """Of calls, to the reference; of the import, to a bare start.

    Args:
        names: of CALLS and IMPORT; with LONGER behind it, it has a tenth more to do, for a guard to see.
    """
    return _ratios(*_counted(names))


def _ratios(found: dict[str, float], reference: float) -> dict[str, float]:
    return {name: count if name.startswith(IMPORT) else count / reference for name, count in found.items()}


def _peers() -> float:
    """The instructions of the yardstick's call, less an empty one: as ours."""
    with Sink() as sink:

        def taken(what: str) -> float:
            few, many = (
                _count(_PEER, _YARDSTICK, sink.url, str(calls), what, env=clean_env()) for calls in (500, 10_500)
            )
            return (many - few) / 10_000

        return taken("call") - taken("nothing")


def _counted(names: Iterable[str]) -> tuple[dict[str, float], float]:
    """The instructions of calls, those of the import as a ratio to a bare start, and those of the reference."""
    found = {}
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        env = sdk_env(server, Path(directory) / "state", leader="off") | {"PYTHONHASHSEED": "0"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        run("assert hypotest.wait_until_ready(10)", env | {"HT_LEADER": "auto"})  # leaves settings behind

        def count(name: str, calls: int, layout: int) -> int:
            for left in Path(directory).glob("state/v1/*/spool/*"):
                left.unlink()  # each look at the spool costs by the files there, and each process before left some
            return _count(_SCRIPT, name, str(calls), str(layout), env=env)

        @functools.cache
        def taken(name: str) -> float:
            return min(count(name, _CALLS, layout) - start for layout, start in starts.items()) / _CALLS

        starts = {layout: count("nothing", 1, layout) for layout in _LAYOUTS}
        empty = taken("nothing")
        reference = taken("reference") - empty
        few, many = (taken(f"nothing+{turns}") for turns in (10, 110))
        once, wrapped = (many - few) / 100, few - (many - few) / 10
        for name in names:
            bare = name.removesuffix(LONGER)
            if bare == IMPORT:
                found[name] = _import(env, longer=bare != name)
            elif bare != name:
                # The wrapper is nobody's work: what it costs is taken off, and what it calls is the tenth.
                turns = round((taken(bare) - empty) * TENTH / once)
                found[name] = taken(f"{bare}+{turns}") - wrapped
            else:
                found[name] = taken(name) - empty
    return found, reference


def _import(env: dict[str, str], *, longer: bool) -> float:
    """Of the import, to a bare start. Without the site's own imports, which an editable installation adds to."""
    alone = env | {"PYTHONPATH": os.pathsep.join((env["PYTHONPATH"], sysconfig.get_path("platlib")))}

    def more(code: str) -> int:
        return _count(code, env=alone, options=("-S",)) - bare

    bare = _count("pass", env=alone, options=("-S",))
    imported = more("import hypotest")
    if longer:
        loops = round(_LOOPS * imported * TENTH / more(f"for _ in range({_LOOPS}): pass"))
        imported = more(f"import hypotest\nfor _ in range({loops}): pass")
    return imported / bare


def _count(code: str, *words: str, env: dict[str, str], options: tuple[str, ...] = ()) -> int:
    """The instructions that a Python process executes."""
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={os.devnull}"]
    done = subprocess.run(
        [*tool, sys.executable, *options, "-c", code, *words],
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    counted = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if counted is None or done.returncode:
        raise RuntimeError(f"valgrind ended with {done.returncode}: {done.stderr[-2000:]}")
    return int(counted[1].replace(",", ""))


def recorded() -> dict[str, float]:
    """What was recorded for this version of Python."""
    found: dict[str, float] = json.loads(RECORDED.read_text()).get(VERSION, {})
    return found


def record() -> None:
    """Writes them down."""
    everything = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    everything[VERSION] = {name: round(ratio, 3) for name, ratio in ratios((*CALLS, IMPORT)).items()}
    RECORDED.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n")
    print(VERSION, everything[VERSION])


if __name__ == "__main__":
    record()
