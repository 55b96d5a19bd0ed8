"""How the suite runs, and what several of its modules need: a server that answers as it is told, and a client of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypotest.config import Config
from hypotest.transport import HttpTransport
from tests.http_host import TOKEN, HttpHost

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each core: most tests wait for processes that start."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine's own comes in between."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def host() -> Iterator[HttpHost]:
    with HttpHost() as running:
        yield running


@pytest.fixture
def client(host: HttpHost) -> Iterator[HttpTransport]:
    with_token = HttpTransport(Config(token=TOKEN, server_url=host.url, connection_timeout=2.0))
    yield with_token
    with_token.close()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user may enter, and nobody but root change; pytest's own is closed to others."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
