"""multiprocessing: children that are forked, forked by a server, or spawned; as Process, Pool, ProcessPoolExecutor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.hosts.host import LineHost, Site
from tests.hosts.proof import prove
from tests.hosts.trials import fall_leading, kill_the_leader, recycle


class Multiprocessing(LineHost):
    """A script that hands names to its children.

    Attributes:
        by_end_of_input: whether it is stopped by that, and not by SIGTERM.
    """

    name = "multiprocessing"
    orphans = True
    by_end_of_input = False

    def command(self, site: Site) -> Sequence[str]:
        return ["python", "-m", "tests.hosts.multi", *self.options]

    def ask_to_stop(self, site: Site) -> None:
        if not self.by_end_of_input:
            super().ask_to_stop(site)
            return
        assert site.process.stdin is not None
        site.process.stdin.close()


METHODS = ("fork", "forkserver", "spawn")
KINDS = {"Process": kill_the_leader, "Pool": fall_leading, "ProcessPoolExecutor": kill_the_leader}
"""And what becomes of their leader. Who kills a Pool's worker while it waits for a task stops the whole Pool: it holds
the lock of the queue. So that one falls at work."""


def recycles(method: str, kind: str) -> bool:
    """Whether a limit of tasks per child can be had."""
    return kind != "ProcessPoolExecutor" or (method != "fork" and sys.version_info >= (3, 11))


MODES = [
    Multiprocessing(f"{method}, {kind}", method, kind, by_end_of_input=True, trials=(lose,))
    for method in METHODS
    for kind, lose in KINDS.items()
] + [
    Multiprocessing(
        f"{method}, {kind}{', recycled' * recycles(method, kind)}, SDK used in the main process, too",
        *(method, kind, *["25"] * recycles(method, kind)),
        early=True,
        workers=3,
        trials=(*[recycle] * recycles(method, kind), lose),
    )
    for method in METHODS
    for kind, lose in KINDS.items()
]


@pytest.mark.parametrize("host", MODES, ids=str)
def test_multiprocessing(host: Multiprocessing, tmp_path: Path) -> None:
    """However the children are started, nothing is lost or doubled, and no answer is stale."""
    prove(host, tmp_path)
