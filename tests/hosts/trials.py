"""What happens to hosts while they are under load."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hypotest.control import EPOCH, LEADER_PID
from tests.hosts.doors import Unanswered
from tests.hosts.proof import Proof
from tests.server_process import wait_for


def kill_the_leader(proof: Proof) -> None:
    """SIGKILL for the process that polls and sends; another one has to, soon. An operator starts what has ended.

    Of a lone host with several processes another one takes over, and then its operator starts all of it again.
    """
    words = proof.site.page().words
    leader, epoch = wait_for(
        # The epoch first, as leaders write it: beside the next one's, the pid may still be of one that leads no more.
        lambda: _kill(proof, epoch=words[EPOCH], leader=words[LEADER_PID]),
        "somebody leads, and is killed",
        proof.patience,
    )
    _expect_another(proof, leader, epoch)


def kill_the_leading_worker(proof: Proof) -> None:
    """The same where the leader's pid is of a namespace of its own: the one whose answers say that it leads."""
    epoch = proof.site.page().words[EPOCH]
    leaders = [answer.worker for answer in proof.load.answers if "hypotest-poller" in answer.threads]
    assert _kill(proof, epoch, leaders[-1])
    _expect_another(proof, leaders[-1], epoch)


def fall_leading(proof: Proof) -> None:
    """The leader dies at work, by its own hand: for hosts that a kill at another moment stops for good."""
    words = proof.site.page().words
    leader: int = wait_for(lambda: words[LEADER_PID], "somebody leads")
    epoch = words[EPOCH]
    fallen = threading.Event()
    asker = threading.Thread(target=_ask_until, args=(proof, fallen))
    asker.start()
    try:
        wait_for(lambda: not _lives(leader), "the leader falls")
    finally:
        fallen.set()
    _expect_another(proof, leader, epoch)
    asker.join()


def _kill(proof: Proof, epoch: int, leader: int) -> tuple[int, int] | None:
    """Returns both, or nothing if there was none: one that ends by a signal's default leaves its pid for a moment."""
    if leader not in proof.site.processes():
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)
        return leader, epoch
    return None


def _ask_until(proof: Proof, fallen: threading.Event) -> None:
    while not fallen.is_set():
        with contextlib.suppress(Unanswered):
            proof.load.ask("fall")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _expect_another(proof: Proof, leader: int, epoch: int) -> None:
    killed = time.monotonic()
    words, main = proof.site.page().words, proof.site.process
    several = proof.host.lone and proof.host.workers > 1
    again = leader == main.pid or proof.host.lone or proof.host.mortal
    # The workers of a killed main process may answer for a while, when those of the next one are still booting.
    old = proof.load.workers() if leader == main.pid else set()
    if again and not several:
        _await_the_end(proof)
        if proof.host.orphans:
            proof.site.end_what_is_left()
        proof.start()
    started = time.monotonic()
    wait_for(lambda: words[EPOCH] > epoch, "another leader", proof.patience)
    proof.row["takeover"] = max(time.monotonic() - killed, proof.row.get("takeover", 0.0))
    if several:
        proof.site.end_what_is_left()
        proof.start()
        started = time.monotonic()
    if again:
        wait_for(
            lambda: len(proof.load.workers(since=started) - old) >= proof.host.workers, "every worker answers again"
        )


def _await_the_end(proof: Proof) -> None:
    """The main process was killed, or ends because one of its own was; if it stands still instead, it is killed."""
    try:
        proof.site.process.wait(proof.patience)
    except subprocess.TimeoutExpired:
        assert proof.host.mortal, "the main process was killed, and lives"
        for pid in proof.site.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        proof.site.process.wait()


def recycle(proof: Proof) -> None:
    """Waits until the host has replaced its workers more than once."""
    enough = len(proof.load.workers()) + 2 * proof.host.workers
    wait_for(lambda: len(proof.load.workers()) >= enough, "workers come and go", 300)


def reload_by(number: int) -> Callable[[Proof], None]:
    """The trial of an orderly reload: a signal to the main process, after which all workers are new ones."""

    def reload(proof: Proof) -> None:
        before = proof.load.workers()
        asked = time.monotonic()
        proof.site.process.send_signal(number)
        wait_for(
            lambda: len(proof.load.workers(since=asked) - before) >= proof.host.workers,
            "new workers after the reload",
            proof.patience,
        )
        wait_for(lambda: not before & set(proof.site.processes()), "the old workers are gone", proof.patience)

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
