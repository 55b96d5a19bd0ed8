"""A real local server in a process of its own, for tests that need one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 20.0

EXPERIMENTS: dict[str, Any] = {
    "button": {"variants": {"control": 0.5, "b": 0.5}, "goals": ["purchase"]},
    "germans": {"variants": ["control", "b"], "condition": 'country == "DE"', "tags": ["country"]},
}


def wait_for(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Return the first true value of `condition`, asked again and again; fail after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.01)
    return value


def reserve_port() -> socket.socket:
    """A port on loopback that is ours, whether or not a server listens, until the socket is closed.

    It is bound and does not listen: clients are refused, and the kernel gives it to nobody who does not ask for it, as
    a server that is started again does.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


class ServerProcess:
    """The server as a context manager; everything it writes is in `directory`.

    Args:
        directory: an existing directory of the test's own, e.g. `tmp_path`.
        port: 0 takes a free one, which is kept until the end of the context.
        db: the SQLite file, default `directory/events.db`.
        experiments: what the experiments file says, plain or `{"tests": ...}`; None starts without a file.
        tokens: the clients' tokens; `token` is the first.
        options: further command line options.
        env: further environment variables; no HT_ variable of ours reaches the server.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        db: Path | str | None = None,
        experiments: dict[str, Any] | None = EXPERIMENTS,
        tokens: tuple[str, ...] = ("test-token",),
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.port = port
        self._reserved: socket.socket | None = None
        self.db = Path(db) if db is not None else self.directory / "events.db"
        self.tokens = tokens
        self.options = options
        self.env = env or {}
        self.experiments_file = None if experiments is None else self.directory / "experiments.json"
        if experiments is not None:
            self.write_experiments(json.dumps(experiments))
        self.log_file = self.directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:  # noqa: PYI034 - Self needs Python 3.11
        if not self.port:
            self._reserved = reserve_port()
            self.port = self._reserved.getsockname()[1]
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.running:
                self.resume()
                self.stop()
        finally:
            if self._reserved is not None:
                self._reserved.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return self.tokens[0]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> ServerProcess:
        """Start, and return once connections are accepted."""
        assert not self.running
        start_of_output = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=clean_env() | self.env,
            )

        def listening() -> re.Match[bytes] | None:
            output = self.log_file.read_bytes()[start_of_output:]
            assert self.running, output.decode()
            return re.search(rb"^listening on http://127\.0\.0\.1:(\d+)\n", output, re.MULTILINE)

        try:
            self.port = int(wait_for(listening, "the server listens")[1])
        except BaseException:
            self.kill()
            raise
        return self

    def command(self) -> list[str]:
        """Return the command line."""
        command = [sys.executable, "-m", "hypotest.server", "--port", str(self.port), "--db", str(self.db)]
        if self.experiments_file is not None:
            command += ["--experiments", str(self.experiments_file)]
        for token in self.tokens:
            command += ["--token", token]
        return [*command, *self.options]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop in order and return the exit status."""
        return self._end(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def restart(self) -> ServerProcess:
        """Start again on the same port and database, after `stop` or `kill`, or stop first."""
        if self.running:
            self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and never answered."""
        self.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]

    def log(self) -> str:
        """Return everything the server printed, over all its starts."""
        return self.log_file.read_text()

    def request(self, method: str, path: str, *, token: str | None = None, **more: Any) -> requests.Response:
        """Send one request on a connection of its own."""
        headers = {"Authorization": f"Bearer {token or self.token}", **more.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=DEADLINE, **more)

    def post(self, events: list[dict[str, Any]], *, token: str | None = None, **more: Any) -> requests.Response:
        """Post one batch of events."""
        return self.request("POST", "/v1/events", token=token, json={"events": events}, **more)

    def accounts(self, token: str | None = None) -> dict[str, Any]:
        """Return `GET /v1/accounts`."""
        return self._get("/v1/accounts", token)

    def results(self, token: str | None = None) -> dict[str, Any]:
        """Return `GET /v1/results`."""
        return self._get("/v1/results", token)

    def polls(self, token: str | None = None) -> int:
        """Count settings requests since the (last) start, those answered 304 included."""
        polls: int = self.accounts(token)["since_start"]["polls"]
        return polls

    def _get(self, path: str, token: str | None) -> dict[str, Any]:
        response = self.request("GET", path, token=token)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def event_ids(self) -> list[str | None]:
        """Return the ids in the database file, in order of arrival, whether or not the server runs."""
        return [row[0] for row in self.query("SELECT event_id FROM events ORDER BY seq")]

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the database file; its tables are described in `hypotest.server.store`."""
        with closing(sqlite3.connect(self.db)) as connection:
            return connection.execute(sql, arguments).fetchall()

    def write_experiments(self, text: str) -> None:
        """Replace the experiments file atomically with `text`, whatever it is."""
        assert self.experiments_file is not None
        new = self.experiments_file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.experiments_file)

    def set_experiments(self, experiments: dict[str, Any]) -> None:
        """Replace the experiments; returns once they are served."""
        before = self.accounts()["experiments"]["reads"]
        self.write_experiments(json.dumps(experiments))
        wait_for(lambda: self.accounts()["experiments"]["reads"] > before, "the file is read again")
        assert self.accounts()["experiments"]["error"] is None


def clean_env() -> dict[str, str]:
    """Return our environment without HT_ variables, in which the project can be imported from anywhere."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HT_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env
