"""The hooks for hosts make earlier what would happen anyway, and never disturb: real gunicorn, celery and uWSGI."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from hypotest import control
from hypotest.client import Client
from hypotest.config import Config
from hypotest.control import HEARTBEAT, LEADER_PID
from hypotest.publisher import Publisher
from tests.processes import run, sdk_env
from tests.server_process import ServerProcess, wait_for

REPORT = """
import json, os, threading, time
from hypotest import runtime

def report(what, **more):
    client = runtime._here.built.get(runtime._CURRENT) if runtime._here.guard.alive else None
    more["pid"], more["generation"] = os.getpid(), client.reader.generation if client and client.reader else 0
    more["threads"] = sorted(t.name for t in threading.enumerate() if t.name.startswith("hypotest"))
    with open(os.environ["REPORT"], "a") as reports:
        reports.write(json.dumps({"what": what, **more}) + "\\n")

def timed(what, function, *args, **kwargs):
    begin, worked = time.perf_counter(), time.thread_time()
    function(*args, **kwargs)
    report(what, ms=1000 * (time.perf_counter() - begin), cpu=1000 * (time.thread_time() - worked))
"""
WSGI = """
import hypotest
from reports import report

def application(environ, start_response):
    hypotest.kpi_event("request", user_id="u")
    report("request")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""
GUNICORN = """
from hypotest.integrations import gunicorn as hooks
from reports import report, timed

def post_fork(server, worker):
    timed("post_fork", hooks.post_fork, server, worker)
def post_worker_init(worker):
    timed("post_worker_init", hooks.post_worker_init, worker)
def worker_exit(server, worker):
    timed("worker_exit", hooks.worker_exit, server, worker)
"""
CELERY = """
import os
import celery
from celery import signals
import hypotest
import hypotest.integrations.celery as hooks
from reports import report, timed

app = celery.Celery("tasks", broker="filesystem://")
app.conf.worker_enable_remote_control = False
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "stage", "control_folder": "control", "processed_folder": "done"}

@app.task
def work():
    hypotest.kpi_event("task", user_id="u")
    report("task")

if os.environ.get("HOOKS"):
    for name in ("_on_worker_init", "_on_start", "_on_end"):
        def timing(what=name, hook=getattr(hooks, name), **more):
            timed(what, hook, **more)
        setattr(hooks, name, timing)
    hooks.connect()
    hooks.connect()

@signals.worker_ready.connect(weak=False)
def ready(**more):
    report("ready")
"""
UWSGI = """
import os
import uwsgi
own_spooler = lambda arguments: -2
if "spooler" in os.environ.get("OWN", ""):
    uwsgi.spooler = own_spooler
if "before" in os.environ.get("OWN", ""):
    uwsgi.post_fork_hook = lambda: report("own post_fork_hook")
    uwsgi.atexit = lambda: report("own atexit")
from reports import report, timed
import hypotest.integrations
begin, end = hypotest.integrations.worker_starts, hypotest.integrations.worker_ends
hypotest.integrations.worker_starts = lambda: timed("start", begin)
hypotest.integrations.worker_ends = lambda: timed("end", end)
if os.environ.get("HOOKS"):
    import hypotest.integrations.uwsgi
if "spooler" in os.environ.get("OWN", ""):
    assert uwsgi.spooler is own_spooler
if "after" in os.environ.get("OWN", ""):
    import uwsgidecorators
    uwsgidecorators.postfork(lambda: report("own postfork"))
"""


class Host:
    """A server in a directory of its own, with what its processes report."""

    def __init__(self, server: ServerProcess | None, directory: Path, **options: object) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.env = sdk_env(server, self.state, **options)
        self.env["REPORT"] = str(directory / "reports")
        self.env["PYTHONPATH"] = f"{directory}{os.pathsep}{self.env['PYTHONPATH']}"
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        self.process: subprocess.Popen[bytes] | None = None
        self.deaf_at_first = False
        for folder in ("queue", "stage"):
            (directory / folder).mkdir()
        for name, text in (("reports", REPORT), ("app", WSGI), ("conf", GUNICORN), ("tasks", CELERY)):
            (directory / f"{name}.py").write_text(text)
        (directory / "uapp.py").write_text(UWSGI + WSGI)

    def start(self, *command: str) -> Host:
        with (self.directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def gunicorn(self, *options: str, hooks: bool = True, workers: int = 1) -> Host:
        conf = "python:conf" if hooks else "python:reports"
        command = (sys.executable, "-m", "gunicorn", "-c", conf, "-b", "unix:socket", f"-w{workers}", "app")
        return self.start(*command, *options)

    def celery(self, pool: str, *options: str) -> Host:
        command = (sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", pool, "-c", "2", *options)
        return self.start(*command, "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning")

    def uwsgi(self, *options: str) -> Host:
        program = shutil.which("uwsgi", path=self.env["PATH"])
        assert program
        self.deaf_at_first = True
        return self.start(
            program, "--http-socket", "socket", "--module", "uapp", "--need-app", "--die-on-term", *options
        )

    def send_task(self) -> None:
        """Has a worker of celery work. It gets the message whole: at one that is still written, kombu's worker ends."""
        subprocess.run(
            (sys.executable, "-c", "import tasks; tasks.work.delay()"), env=self.env, cwd=self.directory, check=True
        )
        for message in (self.directory / "stage").iterdir():
            message.rename(self.directory / "queue" / message.name)

    def request(self) -> None:
        """Has a worker of a server work."""
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(os.path.relpath(self.directory / "socket"))
            connection = http.client.HTTPConnection("localhost", timeout=20)
            connection.sock = connected
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"done"

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def reports(self, *kinds: str) -> list[dict[str, Any]]:
        """What was reported so far, of these kinds."""
        path = self.directory / "reports"
        lines = path.read_text().splitlines() if path.exists() else []
        return [found for found in map(json.loads, lines) if found["what"] in kinds]

    def wait_for(self, what: str, n: int = 1) -> list[dict[str, Any]]:
        """The reports of a kind, as soon as there are `n`."""

        def enough() -> list[dict[str, Any]] | None:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            found = self.reports(what)
            return found if len(found) >= n else None

        try:
            found: list[dict[str, Any]] = wait_for(enough, f"{n} times {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.output()}") from None
        return found

    def word(self, number: int) -> int:
        """A word of the control page; 0 without one."""
        page = next((control.open_existing(str(path.parent)) for path in self.state.glob("v1/*/control")), None)
        if page is None:
            return 0
        value: int = page.words[number]
        return value

    def leader(self) -> int:
        """The pid of the leader, as soon as its heart beats."""
        return int(wait_for(lambda: self.word(HEARTBEAT) and self.word(LEADER_PID), f"a leader: {self.output()}"))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it in order.

        A worker of uWSGI that is still in its post-fork hook ignores the signal, and its master waits for it: not yet.
        """
        assert self.process is not None
        for pid in _children(self.process.pid) if self.deaf_at_first else ():
            wait_for(lambda pid=pid: _catches(pid, number), f"worker {pid} is at work: {self.output()}")
        self.process.send_signal(number)
        self.process.wait(30)
        assert "Traceback" not in self.output(), self.output()

    def __enter__(self) -> Host:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _catches(pid: int, number: int) -> bool:
    told = Path(f"/proc/{pid}/status").read_text()
    return bool(int(told.partition("SigCgt:")[2].split()[0], 16) >> number - 1 & 1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def host(server: ServerProcess, tmp_path: Path) -> Iterator[Host]:
    """A host on a machine where the SDK has run before, so that there are settings to be loaded."""
    directory = tmp_path / "host"
    directory.mkdir()
    with Host(server, directory) as made:
        before = Client(Config(token=server.token, server_url=server.url, state_dir=str(made.state)))
        assert before.state is not None
        assert before.page is not None
        Publisher(before.state.path, before.page).publish({"of the last run": b"{}"})
        before.close()
        yield made


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips where a host is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def quick(reports: list[dict[str, Any]]) -> bool:
    """Whether hooks waited for nothing but the processor, which may be slow and busy."""
    return all(report["cpu"] < 500 and report["ms"] < 9000 for report in reports)


gunicorn_modes = pytest.mark.parametrize(
    ("hook", "options"),
    [
        pytest.param("post_fork", ("-k", "sync"), marks=needs("gunicorn")),
        pytest.param("post_fork", ("-k", "sync", "--preload"), marks=needs("gunicorn")),
        pytest.param("post_fork", ("-k", "gthread", "--threads", "2"), marks=needs("gunicorn")),
        pytest.param("post_worker_init", ("-k", "gevent"), marks=needs("gunicorn", "gevent")),
        pytest.param("post_worker_init", ("-k", "gevent", "--preload"), marks=needs("gunicorn", "gevent")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)


@gunicorn_modes
def test_gunicorn_workers_start_before_the_first_request(host: Host, hook: str, options: tuple[str, ...]) -> None:
    """A worker has the settings and leads before anybody asks; at its end it signs off, and the next need not wait."""
    host.gunicorn(*options)
    (begun,) = host.wait_for(hook)
    assert begun["generation"]
    assert "hypotest-campaign" in begun["threads"]
    assert host.leader() == begun["pid"]
    if hook == "post_worker_init":
        assert [report["generation"] for report in host.reports("post_fork")] == [0]
    host.request()
    host.stop()
    assert (host.word(LEADER_PID), host.word(HEARTBEAT)) == (0, 0)
    assert quick(host.reports("post_fork", "post_worker_init", "worker_exit"))
    assert len(host.reports("worker_exit")) == 1


@needs("gunicorn")
def test_gunicorn_workers_of_another_group_start_once_they_are_it(host: Host) -> None:
    """Nothing is made before a worker gives up its privileges: it would be another user's or group's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give up privileges")
    host.gunicorn("--group", "65534")
    host.wait_for("post_worker_init")
    assert [(report["generation"], report["threads"]) for report in host.reports("post_fork")] == [(0, [])]
    assert host.leader()


@needs("gunicorn")
@pytest.mark.parametrize("options", [(), ("--preload",), ("-k", "gthread")], ids=" ".join)
def test_gunicorn_without_hooks(host: Host, options: tuple[str, ...]) -> None:
    """Without hooks the first call of a worker does the same."""
    host.gunicorn(*options, hooks=False)
    wait_for((host.directory / "socket").exists, "the socket")
    assert host.word(LEADER_PID) == 0
    wait_for(lambda: _answers(host), "an answer")
    (asked,) = host.reports("request")
    assert host.leader() == asked["pid"]
    host.stop()
    assert (host.word(LEADER_PID), host.word(HEARTBEAT)) == (0, 0)


def _answers(host: Host) -> bool:
    try:
        host.request()
    except OSError:
        return False
    return True


@needs("gunicorn")
def test_gunicorn_calls_that_are_about_another_process_end_nothing(tmp_path: Path) -> None:
    """The master, which calls worker_exit for workers that are gone, goes on with its own work."""
    source = """
import types
from hypotest.integrations.gunicorn import worker_exit
hypotest.kpi_event("mine", user_id="u")
before = hypotest.runtime.current()
worker_exit(None, types.SimpleNamespace(pid=os.getpid() + 1))
assert hypotest.runtime.current() is before and not before.spool._closed
worker_exit(None, types.SimpleNamespace(pid=os.getpid()))
assert before.spool._closed
"""
    run(source, sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9"))


CELERY_POOLS = [
    pytest.param("prefork", marks=needs("celery")),
    pytest.param("solo", marks=needs("celery")),
    pytest.param("threads", marks=needs("celery")),
    pytest.param("gevent", marks=needs("celery", "gevent")),
]


@pytest.mark.parametrize("pool", CELERY_POOLS)
def test_celery_workers_start_before_the_first_task(host: Host, pool: str) -> None:
    """The processes that run tasks have the settings and a leader before any; the main process of prefork, nothing."""
    host.env["HOOKS"] = "1"
    host.celery(pool)
    (ready,) = host.wait_for("ready")
    if pool == "prefork":
        begun = host.wait_for("_on_start", 2)
        assert (ready["generation"], ready["threads"]) == (0, [])
    elif pool == "solo":
        begun = host.wait_for("_on_start")
    else:
        begun = host.reports("_on_worker_init")
    assert all(report["generation"] for report in begun)
    assert all("hypotest-campaign" in report["threads"] for report in begun)
    assert host.leader() in {report["pid"] for report in begun}
    host.send_task()
    host.wait_for("task")
    host.stop()
    assert not any(report["threads"] for report in host.reports("_on_worker_init")) or pool in ("threads", "gevent")
    assert (host.word(LEADER_PID), host.word(HEARTBEAT)) == (0, 0)
    ends = [report["pid"] for report in host.reports("_on_end")]
    assert len(ends) == len(set(ends)) == {"prefork": 3}.get(pool, 1), "each connected once"
    assert quick(host.reports("_on_worker_init", "_on_start", "_on_end"))


@needs("celery")
def test_celery_without_hooks(host: Host) -> None:
    """Without hooks the first task of a child does the same."""
    host.celery("prefork")
    host.wait_for("ready")
    assert host.word(LEADER_PID) == 0
    host.send_task()
    (worked,) = host.wait_for("task")
    assert host.leader() == worked["pid"]
    host.stop()


@needs("celery")
@pytest.mark.parametrize(
    ("pool", "beat", "starts"),
    [
        ("threads", False, True),
        ("threads", True, False),
        ("celery.concurrency.thread:TaskPool", False, True),
        ("prefork", False, False),
        ("solo", False, False),
        ("unheard.of:Pool", False, False),
    ],
)
def test_celery_main_processes_start_where_nothing_forks(tmp_path: Path, pool: str, beat: bool, starts: bool) -> None:
    """By the pool's name, where celery has not looked it up yet; not if a scheduler will be forked from it."""
    source = f"""
from celery import signals
import hypotest.integrations.celery
hypotest.integrations.celery.connect()
class Worker:
    pool_cls, options = {pool!r}, dict(beat={beat})
signals.worker_init.send(Worker())
assert (threading.active_count() > 1) is {starts}
"""
    run(source, sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9"))


uwsgi_here = pytest.mark.skipif(
    shutil.which("uwsgi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") is None,
    reason="not installed: uwsgi",
)


@uwsgi_here
@pytest.mark.parametrize(
    "options", [("--master",), ("--master", "--lazy-apps"), ("--master", "--threads", "2")], ids=" ".join
)
def test_uwsgi_workers_start_before_the_first_request(host: Host, options: tuple[str, ...]) -> None:
    """With a master a worker has the settings and leads before anybody asks; at its end it signs off."""
    host.env["HOOKS"] = "1"
    host.uwsgi(*options)
    (begun,) = host.wait_for("start")
    assert begun["generation"]
    assert "hypotest-campaign" in begun["threads"]
    assert host.leader() == begun["pid"]
    assert host.reports("request") == []
    # No request before the end: of a worker that is still closing one, uWSGI calls no exit function.
    wait_for(lambda: "WSGI app 0" in host.output(), "the application is loaded")
    host.stop()
    assert (host.word(LEADER_PID), host.word(HEARTBEAT)) == (0, 0)
    assert len(host.reports("end")) == 1
    assert quick(host.reports("start", "end"))


@uwsgi_here
@pytest.mark.parametrize("hooks", ["", "1"], ids=["without hooks", "hooks"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="no master"),
        pytest.param(("--master", "--gevent", "5", "--gevent-monkey-patch"), marks=needs("gevent"), id="gevent"),
        pytest.param(("--gevent", "5", "--gevent-monkey-patch"), marks=needs("gevent"), id="gevent, no master"),
    ],
)
def test_uwsgi_where_hooks_do_nothing(host: Host, options: tuple[str, ...], hooks: str) -> None:
    """The first request of a worker does the same, with the hooks or without."""
    first_request_starts(host, options, hooks)


@uwsgi_here
@pytest.mark.parametrize("options", [("--master",), ("--master", "--lazy-apps")], ids=" ".join)
def test_uwsgi_without_hooks(host: Host, options: tuple[str, ...]) -> None:
    """Without hooks the first request of a worker does the same."""
    first_request_starts(host, options, "")


def first_request_starts(host: Host, options: tuple[str, ...], hooks: str) -> None:
    host.env["HOOKS"] = hooks
    host.uwsgi(*options)
    wait_for(lambda: _answers(host), "an answer")
    (asked,) = host.reports("request")
    assert host.reports("start") == []
    assert host.leader() == asked["pid"]
    host.stop()


@uwsgi_here
@pytest.mark.parametrize("own", ["before", "after", "spooler"])
def test_uwsgi_functions_of_the_application_stay(host: Host, own: str) -> None:
    """Its post-fork function, its spooler and its exit function are called as before, beside ours."""
    host.env |= {"HOOKS": "1", "OWN": own}
    host.uwsgi("--master")
    host.wait_for("start")
    if own != "spooler":
        host.wait_for({"before": "own post_fork_hook", "after": "own postfork"}[own])
    host.stop()
    assert len(host.reports("end")) == 1
    assert len(host.reports("own atexit")) == (own == "before")


@uwsgi_here
def test_uwsgi_workers_sign_off_where_python_is_not_torn_down(host: Host) -> None:
    """With skip-atexit-teardown Python's exit handlers do not run; uWSGI's exit function does."""
    host.env["HOOKS"] = "1"
    host.uwsgi("--master", "--skip-atexit-teardown")
    host.leader()
    host.stop()
    assert (host.word(LEADER_PID), host.word(HEARTBEAT)) == (0, 0)


def test_uwsgi_outside_uwsgi(tmp_path: Path) -> None:
    """The import does nothing elsewhere, nor where another module has that name."""
    source = """
import types
import hypotest.integrations.uwsgi
del sys.modules["hypotest.integrations.uwsgi"]
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
import hypotest.integrations.uwsgi
assert threading.active_count() == 1
"""
    assert run(source, sdk_env(None, tmp_path / "state", token="t")) == ""
    assert not (tmp_path / "state").exists()


EVERY_HOOK = """
import types
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
sys.modules["uwsgi"].worker_id = lambda: 1
sys.modules["uwsgi"].opt = {}
from hypotest.integrations import gunicorn, celery
def hooks(worker):
    server = types.SimpleNamespace(cfg=types.SimpleNamespace(uid=os.geteuid(), gid=os.getegid()))
    gunicorn.post_fork(server, worker)
    gunicorn.post_worker_init(worker)
    celery._on_worker_init(sender=types.SimpleNamespace(pool_cls="threads", options={}))
    celery._on_start(sender="host")
    sys.modules.pop("hypotest.integrations.uwsgi", None)
    import hypotest.integrations.uwsgi
    keep("event", 1)
    sys.modules["uwsgi"].atexit()
    celery._on_end(sender="host", pid=1, exitcode=0)
    gunicorn.worker_exit(server, worker)
begin = time.monotonic()
hooks(types.SimpleNamespace(pid=os.getpid()))
say("passed", time.monotonic() - begin)
"""


@pytest.mark.parametrize("trouble", ["no token", "not connected", "no directory", "a server that hangs", "no room"])
def test_hooks_bear_with_everything(tmp_path: Path, trouble: str) -> None:
    """Whatever is missing, no hook raises and none waits."""
    env = sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9")
    first = ""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        if trouble == "no token":
            del env["HT_TOKEN"]
        elif trouble == "not connected":
            env["HT_CONNECT_TO_SERVER"] = "false"
        elif trouble == "no directory":
            first = "import os\nos.mkdir = os.makedirs = None\n"
            env["HT_STATE_DIR"] = "/dev/null/state"
        elif trouble == "a server that hangs":
            env["HT_SERVER_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        else:
            first = "import threading\ndef start(self): raise MemoryError\nthreading.Thread.start = start\n"
        output = run(EVERY_HOOK, env, first=first)
    assert "Traceback" not in output
    assert float(output.split("passed ")[1].split()[0]) < 10
    said = [line for line in output.splitlines() if "hypotest[" in line]
    if trouble == "not connected":
        assert all("switched off by connect_to_server" in line for line in said)


def test_no_token_yet_is_nothing_to_speak_of(tmp_path: Path) -> None:
    """Before the application has called config(), a starting worker does and says nothing; then it starts."""
    source = """
from hypotest.integrations import worker_starts
worker_starts()
assert threading.active_count() == 1
say("quiet")
hypotest.config(token="t")
worker_starts()
assert threading.active_count() > 1
"""
    env = sdk_env(None, tmp_path / "state", server_url="http://127.0.0.1:9", log_level="WARNING")
    assert run(source, env).splitlines()[0] == "quiet"


def test_hooks_whose_arguments_are_not_what_they_were(tmp_path: Path) -> None:
    """A host of another version, with other arguments, is not disturbed."""
    source = """
from hypotest.integrations import gunicorn, celery
gunicorn.post_fork(None, None)
gunicorn.worker_exit(None, None)
celery._on_worker_init(sender=None)
celery._on_worker_init()
celery.connect()
say("passed")
"""
    output = run(source, sdk_env(None, tmp_path / "state", token="t"))
    assert "passed" in output
    assert "the application goes on" in output
    assert "Traceback" not in output


def test_a_start_does_not_wait_for_what_a_leader_imports(tmp_path: Path) -> None:
    """requests takes its time, in a thread of ours; the host goes on meanwhile."""
    source = """
import builtins
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "requests":
            time.sleep(30)
sys.meta_path.insert(0, Slow())
from hypotest.integrations import worker_starts
def body():
    begin = time.monotonic()
    worker_starts()
    say("took", time.monotonic() - begin)
for k in range(3):
    join(child(body))
"""
    output = run(source, sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9"))
    took = sorted(float(line.split()[1]) for line in output.splitlines() if line.startswith("took"))
    assert len(took) == 3
    assert took[2] < 10, took


def test_an_end_waits_for_events_if_it_was_told_to(server: ServerProcess, tmp_path: Path) -> None:
    """With flush_events the end of a worker has delivered its events; and the worker may go on all the same."""
    source = f"""
from hypotest.integrations import worker_ends, worker_starts
worker_starts()
keep("event", 3)
worker_ends()
import requests
said = requests.get({server.url!r} + "/v1/accounts", headers=dict(Authorization="Bearer {server.token}")).json()
assert said["events"] == 3, said
worker_ends()
keep("more", 2)
worker_ends()
until(lambda: threading.active_count() == 1, "its threads end")
"""
    run(source, sdk_env(server, tmp_path / "state", flush_events="true", flush_timeout=30))
    assert server.accounts()["events"] == 5


def test_an_end_that_waits_in_vain_is_bounded(tmp_path: Path) -> None:
    """With flush_events and no server, the end waits for flush_timeout and no longer; the events stay."""
    source = """
from hypotest.integrations import worker_ends
keep("event", 3)
begin = time.monotonic()
worker_ends()
took = time.monotonic() - begin
assert 0.3 <= took < 15, took
assert hypotest.status().pending == 3
"""
    env = sdk_env(
        None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9", flush_events="true", flush_timeout=0.3
    )
    assert "not delivered yet" in run(source, env)
