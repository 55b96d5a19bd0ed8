"""Machine instructions of the hot path and of the import: figures that a busy machine does not move.

Counted by valgrind, and given as ratios to what a fixed piece of Python takes in the same interpreter: builds of Python
differ by more than a regression would. `python -m stress.bench.instructions` records them for this version of Python in
the file that tests/test_instructions.py compares with.
"""

from __future__ import annotations

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
from stress.bench.row import Row
from stress.bench.sink import Sink
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORDED = Path(__file__).resolve().parents[2] / "tests" / "instructions.json"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
_CALLS = 20_000
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

def longer(user):
    # The exposure, and about a tenth more.
    hypotest.experiment("button", user)
    for _ in range(5):
        nothing(user)

call = globals()[sys.argv[1]]
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
_YARDSTICK = "eppo-server-sdk"
_PEER = """
import os, sys
from stress.bench.contender import ALL
call = ALL[sys.argv[1]].make(sys.argv[2], 1)
for n in range(int(sys.argv[3])):
    call("user-1")
os._exit(0)
"""


def missing() -> str:
    """Why they cannot be counted here; "" if they can."""
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def measure() -> Iterator[Row]:
    """The ratios."""
    if missing():
        print(f"instructions: {missing()}")
        return
    found, reference = _counted((*CALLS, IMPORT))
    for name, words in CALLS.items():
        what, ratio = f"instructions of {words}", found[name] / reference
        yield Row("instructions", what, found[name], "", to="a fixed piece of Python", ratio=ratio)
    what = "instructions of import hypotest"
    yield Row("instructions", what, found[IMPORT], "", to="a bare start, which is 1", ratio=found[IMPORT])
    if any(peer.name == _YARDSTICK and not peers.missing(peer) for peer in peers.PEERS):
        theirs = _peers()
        for name, words in CALLS.items():
            what, to = f"the same of {words}, beside a peer's", f"{_YARDSTICK}: {theirs:,.0f}"
            yield Row("instructions", what, found[name], "", to=to, ratio=found[name] / theirs)


def ratios(names: Iterable[str]) -> dict[str, float]:
    """Of calls, to the reference; of the import, to a bare start.

    Args:
        names: of CALLS and IMPORT; `longer` is the exposure and about a tenth more, for a guard to see.
    """
    found, reference = _counted(names)
    return {name: count if name == IMPORT else count / reference for name, count in found.items()}


def _peers() -> float:
    """The instructions of the yardstick's call."""
    with Sink() as sink:
        few, many = (_count(_PEER, _YARDSTICK, sink.url, str(calls), env=dict(os.environ)) for calls in (500, 10_500))
    return (many - few) / 10_000


def _counted(names: Iterable[str]) -> tuple[dict[str, float], float]:
    """The instructions of calls, those of the import as a ratio to a bare start, and those of the reference."""
    found = {}
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        env = sdk_env(server, Path(directory) / "state", leader="off") | {"PYTHONHASHSEED": "0"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        run("assert hypotest.wait_until_ready(10)", env | {"HT_LEADER": "auto"})  # leaves settings behind

        def taken(name: str) -> float:
            counted = _count(_SCRIPT, name, str(_CALLS), env=env)
            return (counted - start) / _CALLS

        start = _count(_SCRIPT, "nothing", "1", env=env)
        empty = taken("nothing")
        reference = taken("reference") - empty
        for name in names:
            if name == IMPORT:
                # Without the site's own imports, which an editable installation adds to.
                alone = env | {"PYTHONPATH": os.pathsep.join((env["PYTHONPATH"], sysconfig.get_path("platlib")))}
                bare = _count("pass", env=alone, options=("-S",))
                found[name] = (_count("import hypotest", env=alone, options=("-S",)) - bare) / bare
            else:
                found[name] = taken(name) - empty
    return found, reference


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
