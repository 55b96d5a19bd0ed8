"""What happens to hosts while they are under load."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from hypotest.control import EPOCH, LEADER_PID
from tests.hosts.proof import Proof
from tests.server_process import wait_for


def kill_the_leader(proof: Proof) -> None:
    """SIGKILL for the process that polls and sends; another one has to, soon. An operator starts what has ended.

    Of a lone host with several processes another one takes over, and then its operator starts all of it again.
    """
    words = proof.page().words
    epoch, leader = wait_for(lambda: _killed_leader(words), "somebody leads")
    killed = time.monotonic()
    several = proof.host.lone and proof.host.workers > 1
    if (leader == proof.site.process.pid or proof.host.lone) and not several:
        proof.site.process.wait()
        proof.start()
    wait_for(lambda: words[EPOCH] > epoch, "another leader")
    proof.row["takeover"] = max(time.monotonic() - killed, proof.row.get("takeover", 0.0))
    if several:
        proof.site.end_what_is_left()
        proof.start()
        started = time.monotonic()
        wait_for(lambda: len(proof.load.workers(since=started)) >= proof.host.workers, "every worker answers again")


def _killed_leader(words: memoryview) -> tuple[int, int] | None:
    """The leader that was killed, after its epoch; none if nobody leads, or no longer."""
    epoch, leader = words[EPOCH], words[LEADER_PID]
    try:
        if leader:
            os.kill(leader, signal.SIGKILL)
            return epoch, leader
    except ProcessLookupError:  # it ended by itself, as workers do that are recycled
        pass
    return None


def recycle(proof: Proof) -> None:
    """Waits until the host has replaced its workers more than once."""
    enough = len(proof.load.workers()) + 2 * proof.host.workers
    wait_for(lambda: len(proof.load.workers()) >= enough, "workers come and go", 40)


def reload_by(number: int) -> Callable[[Proof], None]:
    """The trial of an orderly reload: a signal to the main process, after which all workers are new ones."""

    def reload(proof: Proof) -> None:
        before = proof.load.workers()
        asked = time.monotonic()
        proof.site.process.send_signal(number)
        wait_for(
            lambda: len(proof.load.workers(since=asked) - before) >= proof.host.workers,
            "new workers after the reload",
        )

    return reload


def hang(name: str, notice: str) -> Callable[[Proof], None]:
    """The trial of a request that never ends: the host ends its worker, and prints `notice`."""

    def hang_(proof: Proof) -> None:
        since = proof.site.log_size()
        asker = threading.Thread(target=proof.ask_once, args=(name,))
        asker.start()
        wait_for(lambda: notice in proof.site.log(since), f"the host says {notice!r}")
        asker.join()

    return hang_
