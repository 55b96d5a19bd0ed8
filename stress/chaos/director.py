"""Starts processes, and kills, stops, restarts and starves them at random."""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypotest import control, statedir
from stress.chaos.history import EXPERIMENTS
from tests.processes import sdk_env
from tests.server_process import ServerProcess

_WRITERS = ("prefork", "prefork", "uwsgi", "plain", "plain", "short", "threads", "middle")
_PAUSE = 0.5
_PR_SET_CHILD_SUBREAPER = 36
_LOOPS = 14  # that write, on the average
DISK = 64 << 20
_CAPS = (6 << 20, 32 << 20, 512 << 20, 512 << 20)
_HUNG = 30.0
_END = 60.0
TOKEN = "chaos-token"


class Place:
    """The directories of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.histories = root / "histories"
        self.disk = root / "disk"
        self.state = self.disk / "state"
        self.log = root / "writers.log"
        for directory in (self.histories, self.disk):
            directory.mkdir()


class Director:
    """One run. Orphans of what it kills become children of this process, so that none is forgotten.

    Attributes:
        kills: by kind. done: what else was done, by kind.
        trouble: what should not have been, in words.
    """

    def __init__(self, place: Place, server: ServerProcess, proxy_port: int, seed: int, rate: float) -> None:
        self._place = place
        self._server = server
        self._url = f"http://127.0.0.1:{proxy_port}"
        self._seed = seed
        self._rate = rate
        self._rng = random.Random(seed)
        self._slots: dict[int, subprocess.Popen[bytes]] = {}
        self._agent: subprocess.Popen[bytes] | None = None
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._started = self._version = 0
        self._stopped: dict[int, float] = {}
        self._page: control.ControlPage | None = None
        self.kills: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.trouble: list[str] = []
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        weights: dict[Callable[[], None], float] = {
            self._kill_worker: 5,
            self._kill_process: 2,
            self._kill_leader: 3,
            self._kill_server: 0.4,
            self._kill_agent: 0.5,
            self._stop_process: 1,
            self._stop_leader: 0.5,
            self._stop_server: 0.3,
            self._change_settings: 1.5,
            self._fill_disk: 0.6,
            self._start_agent: 0.7,
        }
        self._deeds, self._weights = list(weights), list(weights.values())

    def settings(self) -> dict[str, object]:
        """A new version of the experiments, which every answer shows."""
        self._version += 1
        return {name: {"variants": {"control": 0, f"v{self._version}": 1}} for name in EXPERIMENTS}

    def env(self) -> dict[str, str]:
        """The environment of a writer."""
        return sdk_env(
            None,
            self._place.state,
            token=TOKEN,
            server_url=self._url,
            connection_timeout=0.2,
            max_spool_bytes=self._rng.choice(_CAPS),
        )

    def run(self, seconds: float, each: Callable[[float], None], every: float) -> None:
        """Acts at random for so many seconds."""
        began = time.monotonic()
        tell_at = began + every
        for slot in range(len(_WRITERS)):
            self._start(slot)
        next_deed = began + 1
        while (now := time.monotonic()) < began + seconds:
            self._catch_up(now)
            for slot, process in self._slots.items():
                if process.poll() is not None:
                    self._start(slot)
            self._orphans()
            if now >= next_deed:
                next_deed = max(now, next_deed + self._rng.expovariate(1 / _PAUSE))
                self._rng.choices(self._deeds, self._weights)[0]()
            if now >= tell_at:
                tell_at += every
                self._look_for_hung()
                each(now - began)
            time.sleep(0.02)

    def end(self) -> None:
        """Lets everything that is stopped go on, and ends the writers in order."""
        while self._later:
            heapq.heappop(self._later)[2]()
        processes = [*self._slots.values(), *([self._agent] if self._agent else [])]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _END
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.trouble.append(f"{process.args!r} does not end")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGABRT)
        while orphans := self._orphans():
            late = time.monotonic() > deadline
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            if late:
                self.trouble.append(f"{len(orphans)} orphans do not end")
                deadline += 1
            time.sleep(0.05)
        for process in processes:
            process.kill()
            process.wait()

    def drain(self) -> None:
        """What is pending goes to the server."""
        done = subprocess.run(
            [sys.executable, "-m", "hypotest", "drain", "--timeout", "120"],
            env=self.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            self.trouble.append(f"hypotest drain: {done.returncode}: {done.stdout}")

    def status(self) -> dict[str, object]:
        """As the command line tells it."""
        output = subprocess.run(
            [sys.executable, "-m", "hypotest", "status", "--json"], env=self.env(), stdout=subprocess.PIPE, check=True
        ).stdout
        found: dict[str, object] = json.loads(output)
        return found

    def page(self) -> control.ControlPage | None:
        """The control page of the writers."""
        if self._page is None:
            namespace = statedir.namespace_of(self._url, TOKEN)
            self._page = control.open_existing(str(self._place.state / "v1" / namespace))
        return self._page

    def _start(self, slot: int) -> None:
        self._started += 1
        kind = _WRITERS[slot]
        with self._place.log.open("ab") as log:
            self._slots[slot] = subprocess.Popen(
                [
                    sys.executable,
                    "-X",
                    "faulthandler",
                    "-W",
                    "ignore::DeprecationWarning",
                    "-m",
                    "stress.chaos.writer",
                    kind,
                    str(self._place.histories),
                    f"{self._seed}.{self._started}",
                    str(self._rate / _LOOPS),
                ],
                env=self.env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), act))

    def _catch_up(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()

    def _living(self) -> dict[int, subprocess.Popen[bytes]]:
        """The pids of all writers, with the process that was started for each."""
        return {
            pid: process
            for process in self._slots.values()
            if process.poll() is None
            for pid in (process.pid, *_children(process.pid))
        }

    def _orphans(self) -> list[int]:
        """The pids of forked processes whose parent was killed; those that have ended are laid to rest."""
        found = []
        for pid in _children(os.getpid(), deep=False):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) not in (pid, os.getpgid(0)) and os.waitpid(pid, os.WNOHANG)[0] == 0:
                    found.append(pid)
        return found

    def _kill(self, pid: int, kind: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[kind] += 1

    def _kill_worker(self) -> None:
        workers = [pid for pid, process in self._living().items() if pid != process.pid]
        if workers:
            self._kill(self._rng.choice(workers), "forked worker")

    def _kill_process(self) -> None:
        slot = self._rng.randrange(len(_WRITERS))
        self._kill(self._slots[slot].pid, "parent or plain process")

    def _leader(self) -> int:
        page = self.page()
        pid = page.words[control.LEADER_PID] if page else 0
        ours = set(self._living()) | ({self._agent.pid} if self._agent and self._agent.poll() is None else set())
        return pid if pid in ours else 0

    def _kill_leader(self) -> None:
        if pid := self._leader():
            self._kill(pid, "leader")

    def _kill_server(self) -> None:
        if self._server.running and self._server.pid not in self._stopped:
            self._server.kill()
            self.kills["server"] += 1
            self._after(self._rng.uniform(0, 2), self._restart_server)

    def _restart_server(self) -> None:
        try:
            self._server.restart()
            self.done["server restarted"] += 1
        except AssertionError as error:
            self.trouble.append(f"the server does not start: {error}")
            self._after(1, self._restart_server)

    def _kill_agent(self) -> None:
        if self._agent is not None and self._agent.poll() is None:
            self._kill(self._agent.pid, "agent")

    def _start_agent(self) -> None:
        if self._agent is None or self._agent.poll() is not None:
            with self._place.log.open("ab") as log:
                self._agent = subprocess.Popen(
                    [sys.executable, "-m", "hypotest", "agent"],
                    env=self.env(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.done["agent started"] += 1

    def _stop(self, pid: int, kind: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic()
            self.done[f"{kind} stopped"] += 1
            self._after(self._rng.uniform(0.05, 2.5), lambda: self._continue(pid))

    def _continue(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self._stopped.pop(pid, None)

    def _stop_process(self) -> None:
        living = list(self._living())
        if living:
            self._stop(self._rng.choice(living), "process")

    def _stop_leader(self) -> None:
        if pid := self._leader():
            self._stop(pid, "leader")

    def _stop_server(self) -> None:
        if self._server.running:
            self._stop(self._server.pid, "server")

    def _change_settings(self) -> None:
        self._server.write_experiments(json.dumps(self.settings()))
        self.done["settings changed"] += 1

    def _fill_disk(self) -> None:
        ballast = self._place.disk / "ballast"
        if ballast.exists() or not os.path.ismount(self._place.disk):
            return
        disk = os.statvfs(self._place.disk)
        left = self._rng.choice((0, 0, 1 << 20, 4 << 20))
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for _ in range(max(0, disk.f_bavail * disk.f_frsize - left) // 65536 + 2):
                file.write(bytes(65536))
        self.done["disk filled"] += 1
        self._after(self._rng.uniform(0.3, 3), lambda: ballast.unlink(missing_ok=True))

    def _look_for_hung(self) -> None:
        """A writer that lives, is not stopped, and writes nothing down."""
        now = time.time()
        silent = {
            int(file.name.partition("-")[0], 16): idle
            for file in os.scandir(self._place.histories)
            if _HUNG < (idle := now - file.stat().st_mtime) < _HUNG * 3
        }
        for pid in silent.keys() & {*self._living(), *self._orphans()}:
            # Of a process that had the same number before, the file is older than this one.
            if pid not in self._stopped and silent[pid] < _age(pid):
                self.trouble.append(f"process {pid} has written nothing down for {_HUNG:g} s")
                os.kill(pid, signal.SIGABRT)


def _age(pid: int) -> float:
    """Seconds since a process began; 0 if it is gone."""
    try:
        stat, uptime = Path(f"/proc/{pid}/stat").read_text(), Path("/proc/uptime").read_text()
    except OSError:
        return 0.0
    return float(uptime.split()[0]) - int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def _children(pid: int, *, deep: bool = True) -> list[int]:
    try:
        found = [int(word) for task in os.listdir(f"/proc/{pid}/task") for word in _words(f"/proc/{pid}/task/{task}")]
    except OSError:
        return []
    if not deep:
        return found
    return found + [grandchild for child in found for grandchild in _children(child)]


def _words(task: str) -> list[str]:
    try:
        return Path(f"{task}/children").read_text().split()
    except OSError:
        return []
