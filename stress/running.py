"""A real host with a real server, for as long as a measurement takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.host import Host, Site
from tests.hosts.load import Load
from tests.hosts.proof import versions
from tests.server_process import ServerProcess, wait_for

WITHOUT = {"HT_CONNECT_TO_SERVER": "false"}
"""The application as it is without the SDK: no thread, no file."""


@contextmanager
def running(make: Callable[..., Host], env: dict[str, str], away: Callable[[ServerProcess], None]) -> Iterator[Site]:
    """A host whose workers have all answered since the server went `away`, and which is asked nothing any more.

    Args:
        make: makes the host; called with its environment as `env`.
        env: variables of the SDK.
        away: what happens to the server before the last requests, so that their events have to wait.
    """
    host = make(env=env)
    with (
        tempfile.TemporaryDirectory() as directory,
        ServerProcess(Path(directory), experiments=versions(1)) as server,
        Site(host, server) as site,
    ):
        host.before(site)
        load = Load(host.door(site), host.threads)
        try:
            with load:
                site.start()
                host.started(site, load.door)
                _all_answer(load, host, since=0.0, version=0 if env.items() >= WITHOUT.items() else 1)
                away(server)
                _all_answer(load, host, since=max(answer.end for answer in load.answers), version=0)
            yield site
        finally:
            load.door.close()


def _all_answer(load: Load, host: Host, since: float, version: int) -> None:
    wait_for(
        lambda: len(load.workers(since=since, version=version)) >= host.workers,
        f"all workers of {host} answer; last trouble: {load.trouble}",
    )
