"""The examples, run as their READMEs say, each in a copy with ports of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import requests
import yaml

from tests.server_process import DEADLINE, ServerProcess, clean_env, reserve_port, wait_for

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_FOREIGN = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "STATE_DIRECTORY", "BROKER_URL", "WEB_CONCURRENCY", "NOTIFY_SOCKET")
_TOKEN = "dev-token"
_DEADLINE = 4 * DEADLINE


def need(modules: Sequence[str] = (), programs: Sequence[str] = ()) -> None:
    """Skips the test if something is not installed here."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    missing += [name for name in programs if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


class Example:
    """A copy of all examples, of which one is run, at a server of its own. All of it ends with the context.

    Attributes:
        folder: the example's, in the copy.
        server: at which the copies look, with the example's experiments.
        url: where an application with HTTP listens.
        env: of whatever is started in it.
    """

    def __init__(self, name: str, directory: Path, *, experiments: str = "", env: Mapping[str, str] = {}) -> None:
        self.name = name
        self.directory = directory
        self.folder = directory / "examples" / name
        self._log_file = directory / "example.log"
        self._port = reserve_port()
        self.url = f"http://127.0.0.1:{self._port.getsockname()[1]}"
        served = yaml.safe_load((EXAMPLES / (experiments or name) / "experiments.yaml").read_text())
        self.server = ServerProcess(directory, experiments=served, tokens=(_TOKEN,))
        self._run = uuid.uuid4().hex
        self.env = {key: value for key, value in clean_env().items() if key not in _FOREIGN} | {
            "HOME": str(directory),
            "PATH": f"{directory}/bin{os.pathsep}{_path()}",
            "EXAMPLE_RUN": self._run,
            **env,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Example:  # noqa: PYI034 - Self needs Python 3.11
        self.server.__enter__()
        shutil.copytree(EXAMPLES, self.directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (self.directory / "examples").rglob("*"):
            if path.is_file():
                text = path.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", self.server.url)
                path.write_text(text.replace("8080", self.url.rpartition(":")[2]), encoding="utf-8")
        command = self.directory / "bin" / "hypotest"  # as pip would install it
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m hypotest "$@"\n')
        command.chmod(0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._port.close()
        self.server.__exit__(kind, error, trace)

    def start(self, starts_with: str) -> subprocess.Popen[bytes]:
        """Starts the command of the README that starts so, with what it exports; returns its process."""
        (line,) = self._commands(starts_with)
        words = shlex.split(line)
        env = self.env | self.exported()
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            env[name] = value
        with self._log_file.open("ab") as output:
            process = subprocess.Popen(
                words, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._processes.append(process)
        return process

    def exported(self) -> dict[str, str]:
        """The variables that the README tells to export."""
        words = [word for line in self._commands("export ") for word in shlex.split(line)[1:]]
        return dict(word.split("=", 1) for word in words)

    def _commands(self, starts_with: str) -> list[str]:
        readme = (self.folder / "README.md").read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in readme if line.startswith(f"    {starts_with}")]

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Ends it in order; nothing of it may be left, and no traceback. Returns its exit status."""
        process.send_signal(number)
        try:
            status = process.wait(2 * DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs: {self.log()}") from None
        wait_for(lambda: not self.left_over(), f"no process is left over: {self.left_over()}")
        assert "Traceback" not in self.log(), self.log()
        return status

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """As the function, with a deadline for hosts that load a framework in each of four processes."""
        try:
            return wait_for(condition, what, _DEADLINE)
        except AssertionError as error:
            raise AssertionError(f"{error}; the example says: {self.log()}") from None

    def log(self) -> str:
        """Everything that the example has printed."""
        return self._log_file.read_text(encoding="utf-8", errors="replace") if self._log_file.exists() else ""

    def left_over(self) -> list[int]:
        """The living processes that were started here, by whatever detours."""
        mark, found = f"EXAMPLE_RUN={self._run}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def ask(
        self, method: str, path: str, visitor: str = "nobody", country: str = "", **more: object
    ) -> dict[str, object]:
        """The answer of the application."""
        headers = {"X-Country": country, **more.pop("headers", {})}  # type: ignore[dict-item]
        cookies = {"visitor": visitor}
        response = requests.request(
            method,
            self.url + path,
            headers=headers,
            cookies=cookies,
            timeout=DEADLINE,
            **more,  # type: ignore[arg-type]
        )
        response.raise_for_status()
        answer: dict[str, object] = response.json()
        return answer

    def answers(self, path: str) -> dict[str, object] | None:
        """As `ask`, None while there is no good answer yet."""
        try:
            return self.ask("GET", path)
        except requests.RequestException:
            return None

    def hypotest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command with the token and the server of the READMEs."""
        env = {"HT_TOKEN": _TOKEN, "HT_SERVER_URL": self.server.url} | self.env
        return subprocess.run(
            ["hypotest", *arguments],
            executable=str(self.directory / "bin" / "hypotest"),
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
        )
