from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKENS = tuple(f"token-{number}" for number in range(200))
_unused = itertools.cycle(_TOKENS[1:])


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--max-body", "200000")
    with ServerProcess(tmp_path_factory.mktemp("server"), tokens=_TOKENS, options=options) as server:
        yield server


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    """A server whose default token no other test uses; its limit of a body is 200,000 bytes."""
    token = next(_unused)
    shared_server.tokens = (token, *(other for other in shared_server.tokens if other != token))
    return shared_server
