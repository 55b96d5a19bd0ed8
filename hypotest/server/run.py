"""Running the server: the command line of `hypotest serve`, the socket, signals and log lines."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from hypotest.errors import ConfigError, HypotestError
from hypotest.log import escaped
from hypotest.server.app import DEFAULT_MAX_BODY, create_app
from hypotest.server.experiments import ExperimentsError
from hypotest.server.store import Store
from hypotest.server.watch import ExperimentsFile

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from starlette.types import ASGIApp

DESCRIPTION = "Serve experiments, collect events, count results. For development, tests and small installations."
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_DB = "hypotest.db"
DEFAULT_TOKEN = "dev-token"  # noqa: S105 - a public default, refused beyond loopback
MAX_PORT = 65535
BACKLOG = 512
GRACE = 5  # seconds a request may take to finish after SIGTERM

_log = logging.getLogger("hypotest.server")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `hypotest serve`."""
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (%(default)s)")
    # A file that stays, and in sight: events that vanish with a restart would surprise more than a file does.
    parser.add_argument("--db", type=Path, default=Path(DEFAULT_DB), metavar="FILE", help="SQLite (%(default)s)")
    parser.add_argument("--experiments", type=Path, metavar="FILE", help="YAML or JSON; reloaded when it changes")
    parser.add_argument(
        "--token",
        action="append",
        metavar="TOKEN",
        help=f"a client's token, repeatable; else HT_TOKEN, else {DEFAULT_TOKEN!r} (on loopback only)",
    )
    parser.add_argument(
        "--max-body", type=int, default=DEFAULT_MAX_BODY, metavar="BYTES", help="of a request (%(default)s)"
    )
    parser.add_argument("--access-log", action="store_true", help="a log line for each request")


def main(namespace: argparse.Namespace) -> int:
    """Runs `hypotest serve` until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 stopped by a signal, 1 failed, 2 cannot start as told.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        return serve(
            namespace.host,
            namespace.port,
            db=namespace.db,
            experiments=namespace.experiments,
            tokens=namespace.token or (),
            max_body=namespace.max_body,
            access_log=namespace.access_log,
        )
    except (HypotestError, ExperimentsError) as error:
        print(f"hypotest serve: {escaped(str(error))}", file=sys.stderr)  # noqa: T201
        return 2


def serve(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    db: Path | str = DEFAULT_DB,
    experiments: Path | str | None = None,
    tokens: Sequence[str] = (),
    max_body: int = DEFAULT_MAX_BODY,
    access_log: bool = False,
) -> int:
    """Serves until SIGTERM or SIGINT, and prints `listening on URL` to stdout once connections are accepted.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        db: the SQLite file; created if missing.
        experiments: the experiments file; None serves no experiments.
        tokens: clients' tokens; empty takes `HT_TOKEN`, else `dev-token`, which only loopback may use.
        max_body: bytes a request body may have.
        access_log: whether each request is logged.

    Returns:
        0 stopped by a signal, 1 failed.

    Raises:
        ConfigError: no usable token, address or experiments file.
        StorageError: the database cannot be used.
    """
    if max_body < 1:
        raise ConfigError(f"--max-body {max_body} lets nothing in")
    tokens = _tokens(tokens, host)
    watched = ExperimentsFile(None if experiments is None else Path(experiments))
    try:
        watched.start()
    except ExperimentsError as error:
        raise ConfigError(f"{experiments}: {error}") from None
    listener = _listen(host, port)
    with listener:
        app = create_app(Store(Path(db)), watched, tokens, max_body)
        server = _Server(app, _url(listener), access_log=access_log)
        return server.run_until_signal(listener)


class _Server(uvicorn.Server):
    """uvicorn that says where it listens, and exits with 0 on a signal instead of dying of it."""

    def __init__(self, app: ASGIApp, url: str, *, access_log: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="info" if access_log else "warning",
                access_log=access_log,
                lifespan="on",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"listening on {self._url}", flush=True)  # noqa: T201

    def run_until_signal(self, listener: socket.socket) -> int:
        # uvicorn raises the signals it caught once more after its shutdown, for handlers installed before its own.
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            asyncio.run(self.serve([listener]))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 0 if self.started else 1

    def _stop(self, _number: int, _frame: object) -> None:
        self.should_exit = True


def _tokens(given: Sequence[str], host: str) -> list[str]:
    tokens = list(given)
    if not tokens and os.environ.get("HT_TOKEN"):
        tokens = [os.environ["HT_TOKEN"]]
    if not tokens:
        if not _is_loopback(host):
            raise ConfigError(f"{host} can be reached by others: give a --token, or set HT_TOKEN")
        tokens = [DEFAULT_TOKEN]
        print(f"no token given: clients use HT_TOKEN={DEFAULT_TOKEN}", flush=True)  # noqa: T201
    if DEFAULT_TOKEN in tokens and not _is_loopback(host):
        raise ConfigError(f"{host} can be reached by others, who know the token {DEFAULT_TOKEN}: give another one")
    for token in tokens:
        if not token or not all("!" <= character <= "~" for character in token):
            raise ConfigError("a token is made of printable ASCII characters without spaces")
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:  # getaddrinfo would cut it down to 16 bits
        raise ConfigError(f"can't listen on {host}:{port}: a port is 0 to {MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Not `create_server`: asyncio sets TCP_NODELAY only where the protocol is spelled out, and without it
        # every answer on a kept connection waits 40 ms for a delayed ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:  # the latter for names that can be none
        raise ConfigError(f"can't listen on {host}:{port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {host}:{port}: {error.args[-1]}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
