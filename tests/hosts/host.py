"""One host in one mode: how it is started, asked, stopped; and the place in which it runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from hypotest import control
from hypotest.control import ControlPage
from hypotest.statedir import StateDir, namespace_of
from tests.hosts.doors import Door, LineDoor
from tests.processes import sdk_env
from tests.server_process import ServerProcess, wait_for

INTERVAL = 0.5
"""Seconds between two polls of the settings."""
_SETTLED = 3.0
"""Seconds without a change: celery looks for what it has to replace each 0.8 s."""


class Host:
    """One host in one mode. A subclass says how it is started, and what is usual there.

    Attributes:
        name: of the host. mode: what is special about this one.
        workers: processes that answer at a time. threads: that ask.
        early: whether the application uses the SDK while it is loaded.
        lone: whether nobody starts its processes anew but the operator: then the harness does.
        mortal: whether all of it ends when one of its processes is killed.
        orphans: whether workers outlive a killed main process by the host's own doing: then the operator ends them.
        env: further variables. trials: what happens to it, in order, each with the proof as its argument.
        stop_signal, statuses: how an orderly stop is asked for, and what the main process may return then.
        stop_group: whether each process is told, for hosts whose processes do not tell one another.
        stops_at_rest: whether the load ends before the stop, for hosts that hang if it comes at a bad moment.
        grace: seconds that an orderly stop may take by the host's own settings.
        unnoticed: seconds for which the host itself may not see that a worker of it was killed.
        usual: a regular expression of what the host itself prints at an orderly stop and sounds like a complaint.
    """

    name = ""
    workers = 2
    threads = 4
    stop_signal = signal.SIGTERM
    stop_group = False
    statuses: tuple[int, ...] = (0,)
    stops_at_rest = False
    mortal = False
    orphans = False
    grace = 40.0
    unnoticed = 0.0
    usual = r"(?!)"

    def __init__(
        self,
        mode: str,
        *options: str,
        early: bool = False,
        lone: bool = False,
        env: Mapping[str, str] | None = None,
        trials: Sequence[Callable[..., None]] = (),
        **differences: object,
    ) -> None:
        """`options` go to the command line; `differences` are values of other attributes."""
        self.mode = mode
        self.options = options
        self.early = early
        self.lone = lone
        self.env = dict(env or {})
        self.trials = tuple(trials)
        for name, value in differences.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.name}, {self.mode}"

    def command(self, site: Site) -> Sequence[str]:
        """The command line; a program's name without a directory is one of this interpreter's."""
        raise AssertionError(f"{type(self).__name__} does not say how it is started")

    def door(self, site: Site) -> Door:
        """How to ask it; called once."""
        raise AssertionError(f"{type(self).__name__} does not say how it is asked")

    def started(self, site: Site, door: Door) -> None:
        """Called after each start."""

    def ask_to_stop(self, site: Site) -> None:
        """Asks for an orderly stop."""
        for pid in site.processes() if self.stop_group else [site.process.pid]:
            os.kill(pid, self.stop_signal)

    def before(self, site: Site) -> None:
        """Called once, before the first start: for what the host needs beside itself."""


class LineHost(Host):
    """A host whose main process reads what is to be done from its standard input."""

    def door(self, site: Site) -> Door:
        return LineDoor(site.answers, patience=1.0)

    def started(self, site: Site, door: Door) -> None:
        assert isinstance(door, LineDoor)
        assert site.process.stdin is not None
        door.write_to(site.process.stdin)


class Site:
    """The place in which a host runs, and whatever it starts: all of it ends with the context.

    Attributes:
        home: a directory with a short path, since the path of a socket has at most 107 bytes.
        state: the state directory. env: of the host. log: what it printed, over all its starts.
    """

    def __init__(self, host: Host, server: ServerProcess) -> None:
        self.host = host
        self.server = server
        self.home = Path(tempfile.mkdtemp(prefix="ht-"))
        self.state = self.home / "state"
        self.env = sdk_env(server, self.state, pull_interval=INTERVAL) | {
            "HOME": str(self.home),
            "HOSTS_ANSWERS": str(self.answers),
        }
        if host.early:
            self.env["HOSTS_EARLY"] = "1"
        self.env |= host.env
        self._log = self.home / "host.log"
        self._starts: list[subprocess.Popen[bytes]] = []
        self._beside: list[subprocess.Popen[bytes]] = []

    @property
    def socket(self) -> Path:
        """Where a host that serves HTTP listens."""
        return self.home / "http"

    @property
    def answers(self) -> Path:
        """Where hosts without HTTP answer."""
        return self.home / "answers"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The host's main process, as started last."""
        return self._starts[-1]

    def __enter__(self) -> Site:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._have_stacks_printed()
            print(f"--- {self.host} printed:\n{self.log()}")
        for pid in self.processes():
            _kill(pid)
        for process in self._starts + self._beside:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _have_stacks_printed(self) -> None:
        """Ends what is left so that faulthandler writes its stacks into the log."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.processes(), "all of them have ended", 2)

    def start(self) -> None:
        """Starts the host, or starts it again."""
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                _resolved(self.host.command(self)),
                bufsize=0,  # what a dead process did not read is not written again when its pipe is closed
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=self.env,
                start_new_session=True,
            )
        self._starts.append(process)

    def run_beside(self, command: Sequence[str], **more: object) -> subprocess.Popen[bytes]:
        """Starts what the host needs, without the mark by which the host's own processes are known."""
        env = {name: value for name, value in self.env.items() if name != "HT_STATE_DIR"}
        process = subprocess.Popen(
            _resolved(command),
            cwd=self.home,
            env=env,
            start_new_session=True,
            **more,  # type: ignore[call-overload]
        )
        self._beside.append(process)
        return process

    def stop(self) -> float:
        """Asks for an orderly stop; returns the seconds until the last process of it was gone."""
        began = time.monotonic()
        self.host.ask_to_stop(self)
        status = self.process.wait(self.host.grace)
        assert status in self.host.statuses, f"ended with status {status}"
        wait_for(lambda: not self.processes(), "no process outlives the host", self.host.grace)
        return time.monotonic() - began

    def settle(self) -> None:
        """Waits until no process begins or ends any more, nobody being asked."""
        seen, since = set(self.processes()), time.monotonic()

        def settled() -> bool:
            nonlocal seen, since
            now = set(self.processes())
            if now != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > _SETTLED

        wait_for(settled, "processes neither begin nor end")

    def end_what_is_left(self) -> None:
        """Stops a host of which a process was killed, as systemd does: each other one is told, and ends in order."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.host.stop_signal)
        self.process.wait(self.host.grace)
        wait_for(lambda: not self.processes(), "no process outlives the host", self.host.grace)

    def page(self) -> ControlPage:
        """The control page of the state directory."""
        state = StateDir(str(self.state), namespace_of(self.server.url, self.server.token))
        page: ControlPage = wait_for(lambda: control.open_existing(state.path), "a control page")
        return page

    def processes(self) -> list[int]:
        """Every living process of the host: whoever inherited our state directory, however it was forked."""
        mark = f"HT_STATE_DIR={self.state}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in _environ(pid)]

    def log(self, since: int = 0) -> str:
        """What the host printed, from byte `since` on."""
        return self._log.read_bytes()[since:].decode(errors="replace") if self._log.exists() else ""

    def log_size(self) -> int:
        return self._log.stat().st_size

    def complaints(self, since: int) -> list[str]:
        """Lines since then that make an operator look twice."""
        bad = re.compile(r"traceback|exception|error|warning|critical|killed", re.IGNORECASE)
        usual = re.compile(self.host.usual)
        return [line for line in self.log(since).splitlines() if bad.search(line) and not usual.search(line)]


def _resolved(command: Sequence[str]) -> list[str]:
    beside = Path(sys.executable).parent / command[0]  # or command[0] itself, if that is a whole path
    return [str(beside) if beside.exists() else command[0], *command[1:]]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
