"""The clients that ours is compared with do what they are said to do: they decide, and their events arrive."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from stress.bench.formats import VARIANTS
from stress.bench.peer import Peer
from stress.bench.peers import DELIVERING, PEERS, missing
from stress.bench.sink import Sink
from tests.server_process import DEADLINE, clean_env

USERS = 400
_SEND_AT_END = 3.0
CALLS = f"""
import json, sys
from stress.bench.peers import PEERS
call = next(peer.make for peer in PEERS if peer.name == sys.argv[1])(sys.argv[2], 20)
print(json.dumps([str(call(f"user-{{number}}")) for number in range({USERS})]), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("peer", PEERS, ids=[peer.name for peer in PEERS])
def test_a_peer_decides_and_delivers(peer: Peer) -> None:
    """Half of the users get each variant; at the process's end each call's event has arrived, and nothing else."""
    if reason := missing(peer):
        pytest.skip(reason)
    events = USERS if peer.name in DELIVERING else 0
    with Sink() as sink:
        with subprocess.Popen(
            [sys.executable, "-c", CALLS, peer.name, sink.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_env(),
        ) as process:
            try:
                answers = json.loads(process.stdout.readline() or "[]")
                _wait(sink, events, DEADLINE if peer.name == "client 1.0.9" else _SEND_AT_END)
                _, errors = process.communicate(timeout=DEADLINE)
            finally:
                process.kill()
        assert len(answers) == USERS, errors
        assert sink.count() == events, errors
    if peer.configured:
        counts = Counter(answers)
        assert counts.keys() == set(VARIANTS)
        assert 0.4 * USERS < counts["b"] < 0.6 * USERS


def _wait(sink: Sink, events: int, patience: float) -> None:
    """Until they are there, or none has come for so long: 1.0.9 sends nothing at its end, others the most of it."""
    seen, since = 0, time.monotonic()
    while (found := sink.count()) < events and time.monotonic() < since + patience:
        if found > seen:
            seen, since = found, time.monotonic()
        time.sleep(0.02)
