"""The demo's child processes: a server and a gunicorn, in a temporary directory, with an environment of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import hypotest
from hypotest.demo import gunicorn_conf
from hypotest.errors import HypotestError

T = TypeVar("T")

_POLL = 0.02
_GRACE = 6.0
_TAIL = 12
_FOREIGN = ("HT_", "XDG_", "FLASK_", "GUNICORN_", "WEB_CONCURRENCY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_")


class DemoFailed(HypotestError):
    """Something of the demo did not happen in time, or not as it should."""

    status = 1


class Clock:
    """The demo's time: no wait goes beyond its end."""

    def __init__(self, limit: float) -> None:
        """Starts; ends after `limit` seconds."""
        self._started = time.monotonic()
        self._limit = limit

    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def wait(self, condition: Callable[[], T | None], what: str, seconds: float = 20.0, poll: float = _POLL) -> T:
        """The first true value of `condition`.

        Raises:
            DemoFailed: there was none in time.
        """
        deadline = min(self.passed() + seconds, self._limit)
        while not (value := condition()):
            if self.passed() >= deadline:
                raise DemoFailed(f"{what}: not within {seconds:g} s (the demo may take {self._limit:g} s in all)")
            time.sleep(poll)
        return value


class Child:
    """One child process and its children; what it prints is in a file."""

    def __init__(self, name: str, directory: Path, arguments: Sequence[str], env: dict[str, str]) -> None:
        """Starts nothing yet."""
        self.name = name
        self._directory = directory
        self._arguments = arguments
        self._env = env
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, in a session of its own: Ctrl-C is the demo's, which ends its children in order."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=self._env,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises DemoFailed if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise DemoFailed(f"the {self.name} ended with status {self._process.returncode}:\n{self.tail()}")

    def output(self) -> str:
        """What it printed so far, over all its starts."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def tail(self) -> str:
        """The last lines of that."""
        return "\n".join(f"    {line}" for line in self.output().splitlines()[-_TAIL:])

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it and its children; within a bounded time."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
                return  # in order, and gunicorn's workers before it
        # It hangs, or had ended before its children: the whole group, which is ours alone by its session.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Server(Child):
    """`hypotest serve`, on a free port that it keeps over restarts."""

    def __init__(self, directory: Path, env: dict[str, str], experiments: Path, db: Path) -> None:
        """Starts nothing yet."""
        self.port = 0
        self._files = ("--experiments", str(experiments), "--db", str(db))
        super().__init__("server", directory, (), env)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start_and_wait(self, clock: Clock) -> None:
        """Starts it; returns when it accepts connections."""
        seen = len(self.output())
        self._arguments = ("hypotest", "serve", "--port", str(self.port), *self._files)
        self.start()

        def listening() -> re.Match[str] | None:
            self.check()
            return re.search(r"^listening on http://127\.0\.0\.1:(\d+)$", self.output()[seen:], re.MULTILINE)

        self.port = int(clock.wait(listening, "the server starts")[1])


class Application(Child):
    """gunicorn with the example application."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        """Starts nothing yet."""
        self._workers = directory / gunicorn_conf.WORKERS
        self._address = directory / gunicorn_conf.ADDRESS
        self.url = ""
        arguments = ("gunicorn", "--config", f"python:{gunicorn_conf.__name__}", "hypotest.demo.app:app")
        super().__init__("application", directory, arguments, env)

    def start_and_wait(self, clock: Clock, env: dict[str, str]) -> None:
        """Starts it, with that in its environment, too; returns when all workers are there."""
        self._env = {**self._env, **env}
        self._workers.mkdir()
        self.start()

        def complete() -> bool:
            self.check()
            return self._address.exists() and len(self.pids()) == gunicorn_conf.workers

        clock.wait(complete, "gunicorn starts")
        self.url = self._address.read_text(encoding="ascii")

    def pids(self) -> set[int]:
        """Today's workers."""
        return {int(path.name) for path in self._workers.iterdir()}


def environment(directory: Path) -> dict[str, str]:
    """The environment of the children: nothing of the user's settings gets in, no file gets out of `directory`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    env |= {"HOME": str(directory), "TMPDIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    root = str(Path(hypotest.__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env
