"""A server that is away for a day, and the return of many hosts at once.

The clock is injected: real processes, files, locks, sockets and log lines, but `time.time` and `time.monotonic` are set
by the test, and each process takes its turn when it is told to, without threads of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hypotest import control, statedir
from hypotest.config import Config
from hypotest.instance import Instance
from hypotest.leadership import Leadership
from hypotest.post import Post
from hypotest.spool import Spool
from tests.http_host import TOKEN, Exchange, HttpHost
from tests.namespace import event
from tests.processes import Script, said, sdk_env
from tests.server_process import ServerProcess

HOSTS = 100
DOCUMENT = json.dumps({"tests": {}}).encode()
STEP = 0.25
SAFE = 30
"""Of 100 hosts in one second: those of a uniform return are about 7, at most 15 in a million runs."""

INJECTED = """
import time
clock, began = [0.0], time.time()
time.time = lambda: began + clock[0]
time.time_ns = lambda: int(time.time() * 1e9)  # what logging asks from Python 3.13 on
time.monotonic = lambda: 1000.0 + clock[0]
"""
WORKERS = 4
THREADLESS = """
import hypotest.runtime
def start(name, run):
    if name == "campaign":
        return True  # this process takes its turn when it is told to
    raise RuntimeError("no thread: the campaign polls and sends itself")
hypotest.runtime.start_thread = start
"""
A_DAY = f"""{THREADLESS}
import json
offered = 0
def turn(now, events):
    clock[0] = now
    for _ in range(events):
        hypotest.kpi_event("k", user_id="u")
        assert usual is None or variants() == usual
    hypotest.runtime.current().campaign.tick()
def variants():
    return [hypotest.experiment("button", user_id=str(n), report_event=False).variant for n in range(8)]
usual = None
turn(0.0, 0)  # it leads
turn(0.0, 0)  # and polls
assert hypotest.status().generation, hypotest.status()
usual = variants()
assert "b" in usual
children = []
for _ in range({WORKERS} - 1):
    (ask, asked), (answer, answered) = os.pipe(), os.pipe()
    def work():
        while order := os.read(ask, 32):
            turn(*json.loads(order))
            os.write(answered, b"x")
    children.append((asked, answer, child(work)))
def pass_time(seconds, step, events):
    global offered
    end = clock[0] + seconds
    while clock[0] < end:
        turn(clock[0] + step, events)
        for asked, answer, _ in children:
            os.write(asked, json.dumps([clock[0], events]).encode().ljust(32))
            os.read(answer, 1)
        offered += events * {WORKERS}
def report(word):
    say(word, json.dumps(hypotest.status().to_dict() | {{"offered": offered}}))
    sys.stdin.readline()
report("idle")
pass_time(2 * 3600, 60, 0)
report("begins")
pass_time(86_400, 90, 3)
report("over")
for _ in range(10):
    pass_time(60, 20, 0)
report("returned")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def hours(lines: list[str]) -> Counter[str]:
    """How many of the lines of the log were written in each hour of the injected clock."""
    return Counter(line[:13] for line in lines)


def test_a_day_without_the_server(server: ServerProcess, tmp_path: Path) -> None:
    """The spool fills to its cap, then new events are refused by count; the log tells each hour what waits and what was
    refused, in less than a line a minute for all workers; and what was accepted arrives, each once."""
    env = sdk_env(server, tmp_path / "state", max_spool_bytes=1 << 20, pull_interval=30, pull_jitter=5, send_interval=1)

    def told(script: Script, word: str) -> tuple[dict[str, object], int]:
        script.wait_for(word, 300)
        return json.loads(said(script.output(), word)), len(script.lines)

    def logged(script: Script, begin: int, end: int) -> list[str]:
        return [line for line in script.lines[begin:end] if " hypotest[" in line]

    with Script(A_DAY, env, first=INJECTED) as script:
        _, at = told(script, "idle")
        script.tell()
        _, idle = told(script, "begins")
        assert logged(script, at, idle) == []
        server.stop()
        script.tell()
        over, end = told(script, "over")
        lines = logged(script, idle, end)
        server.restart()
        began = time.monotonic()
        script.tell()
        after, _ = told(script, "returned")
        took = time.monotonic() - began
    refused = over["refused"]["spool_full"]
    assert over["spool_bytes"] <= (1 << 20) + WORKERS * 4096
    assert over["accepted"] + refused == over["offered"] == 960 * 3 * WORKERS
    assert min(over["accepted"], refused) > 1000
    assert over["dropped"] == {}
    assert 24 <= len(hours(lines)) <= 25
    assert max(hours(lines).values()) <= 60, hours(lines)
    told_of = [line for line in lines if "events wait in" in line]
    assert len(hours(told_of)) >= 24
    assert "refused so far: spool_full " in told_of[-1]
    assert (after["delivered"], after["pending"], after["last_error"]) == (over["accepted"], 0, "")
    assert server.query("SELECT count(*), count(DISTINCT event_id) FROM events") == [(over["accepted"],) * 2]
    batches = after["sends"] - over["sends"]
    assert batches <= over["accepted"] / 1000 + 2 * WORKERS
    print(
        f"a day: {len(lines)} lines of the log, {max(hours(lines).values())} in the worst hour;"
        f" {over['accepted']:,} events kept, {refused:,} refused; sent in {batches} batches in {took:.1f} s"
    )


ALONE = f"""{THREADLESS}
for line in sys.stdin:
    until_then = clock[0] + float(line)
    while clock[0] < until_then:
        clock[0] += 1
        hypotest.kpi_event("k", user_id="u")
        hypotest.runtime.current().campaign.tick()
    say("passed", clock[0])
"""
"""A process that lets as many seconds pass as it is told."""


def through(host: HttpHost, tmp_path: Path, *times: tuple[float, Callable[[Exchange], None]]) -> list[str]:
    """What a process logs of the server that answers so, for so many seconds each."""
    env = sdk_env(None, tmp_path / "state", token=TOKEN, server_url=host.url, pull_interval=30, pull_jitter=5)
    with Script(ALONE, env, first=INJECTED) as script:
        passed = 0.0
        for seconds, host.answer in times:
            script.tell(str(seconds))
            passed += seconds
            script.wait_for(f"passed {passed}")
    return [line.split("] ", 1)[1] for line in script.lines if " hypotest[" in line and " serve" in line]


def good(exchange: Exchange) -> None:
    exchange.reply(body=DOCUMENT)


def bad(exchange: Exchange) -> None:
    exchange.reply(503)


def test_an_outage_that_shows_in_many_ways(host: HttpHost, tmp_path: Path) -> None:
    """Polls and sends that fail each in its way, with an id of the request in the answer, are as quiet as one cause."""
    ids = itertools.count()

    def worse(exchange: Exchange) -> None:
        exchange.reply(503 if exchange.command == "GET" else 500, b"upstream: request %d" % next(ids))

    lines = through(host, tmp_path, (3600, worse), (120, good))
    assert next(ids) > 200
    assert 20 < len(lines) <= 3600 / 90 + 3, lines
    assert [line for line in lines if "serves again" in line] == lines[-1:]


def test_the_last_line_says_how_it_is(host: HttpHost, tmp_path: Path) -> None:
    """However soon after another outage: whoever read that the server does not serve reads that it does."""
    times = [(52.0, bad), (42.0, good), (7.0, bad), (60.0, good)]
    lines = through(host, tmp_path, *times)
    assert sum("does not serve" in line for line in lines) >= 2, lines
    assert "serves again" in lines[-1], lines


def test_an_outage_ends_with_an_answer(host: HttpHost, tmp_path: Path) -> None:
    """Settings that are refused after it are another thing: the outage lasted as long as it did."""

    def refused(exchange: Exchange) -> None:
        exchange.reply(body=b"[]" if exchange.command == "GET" else DOCUMENT)

    lines = through(host, tmp_path, (60.0, bad), (600.0, refused), (120.0, good))
    (again,) = (line for line in lines if "serves again" in line)
    assert 30 < float(again.split()[-2]) < 200, again


def test_workers_at_the_cap_speak_with_one_voice(server: ServerProcess, tmp_path: Path) -> None:
    """Eight workers without settings that are refused at once, in an outage: each of the three things is said once."""
    server.stop()
    source = """
def worker():
    for n in range(3000):
        hypotest.kpi_event("k", user_id="u", tags={"t": "x" * 1000})
        hypotest.experiment(f"e{n % 5}", user_id="u")
    assert hypotest.status().refused["spool_full"] > 0, hypotest.status()
hypotest.status()
until(lambda: hypotest.status().last_error, "the leader says so")
join(*[child(worker) for _ in range(8)])
"""
    with Script(source, sdk_env(server, tmp_path / "state", max_spool_bytes=1 << 20)) as script:
        lines = [line for line in script.result().splitlines() if " hypotest[" in line]
    said = Counter(line.split("] ")[1].split(":")[0] for line in lines if " INFO" not in line)
    assert said.keys() == {"'e0'", "event refused", server.url.partition(":")[0]}, lines
    assert max(said.values()) <= 2, lines  # two look at the same moment, now and then


class Fleet:
    """Leaders of many hosts, each with a state directory of its own, at one server, under a clock that is injected.

    Attributes:
        now: the clock, s.
        asked: when which hosts asked, by method.
    """

    def __init__(self, root: Path, server: HttpHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.asked: dict[str, list[float]] = {"GET": [], "POST": []}
        self.answer: Callable[[Exchange], None] = lambda exchange: exchange.reply(503)
        self._root = root
        self._server = server
        server.answer = self._record
        clock = SimpleNamespace(
            monotonic=lambda: 1000.0 + self.now,
            time=lambda: 1.7e9 + self.now,
            gmtime=time.gmtime,
            strftime=time.strftime,
        )
        for module in ("leadership", "poller"):
            monkeypatch.setattr(f"hypotest.{module}.time", clock)
        self._leaders: list[Leadership] = []
        self.pages: list[control.ControlPage] = []

    def _record(self, exchange: Exchange) -> None:
        self.asked[exchange.command].append(self.now)
        self.answer(exchange)

    def start(self) -> None:
        """All hosts start, or start again, at this moment, with an event each."""
        self.stop()
        self.asked = {"GET": [], "POST": []}
        for number in range(HOSTS):
            state = statedir.prepare(f"{self._root}/{number}", "0" * 32)
            spool = Spool(state.spool, 1 << 30, lambda: 0)
            spool.append(event(number))
            spool.close()
            page = control.open_control(state.path)
            config = Config(token="token", server_url=self._server.url)
            self.pages.append(page)
            self._leaders.append(Leadership(Post(config, state, page, Instance(), _no_thread)))
            self._leaders[-1].begin()

    def stop(self) -> None:
        """All hosts stop."""
        for leader in self._leaders:
            leader.end()
            leader.dismiss()
        self._leaders, self.pages = [], []

    def run(self, seconds: float) -> None:
        """Lets so much time pass."""
        end = self.now + seconds
        while self.now < end:
            for leader in self._leaders:
                leader.tick()
                leader.work()
            self.now += STEP

    def busiest(self, method: str, begin: float, end: float) -> int:
        """The most requests in any second of a time, in which every host has asked once at least."""
        seconds = Counter(int(at) for at in self.asked[method] if begin <= at < end)
        assert sum(seconds.values()) >= HOSTS, (method, seconds)
        return max(seconds.values())


def _no_thread(_name: str, _run: Callable[[], None]) -> None:
    raise RuntimeError("no thread: the test is the clock")


def serves(exchange: Exchange) -> None:
    exchange.reply(200, DOCUMENT, ETag='"1"')


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    seed = int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    print(f"seed {seed}")
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path, stack.enter_context(HttpHost()), monkeypatch)
        stack.callback(fleet.stop)
        yield fleet


def test_hosts_that_return_from_an_outage_do_not_come_together(fleet: Fleet) -> None:
    """Hosts that all began in an outage, at one moment, come back spread over their interval."""
    fleet.start()
    fleet.run(70)
    returned, fleet.answer = fleet.now, serves
    fleet.run(65)
    assert fleet.busiest("GET", returned, fleet.now) < SAFE
    assert fleet.busiest("POST", returned, fleet.now) < SAFE


def test_hosts_that_are_told_to_come_back_do_not_come_together(fleet: Fleet) -> None:
    """A server that answers Retry-After to all hosts at once is left alone for so long, by flush() as well, and then
    sees them one after the other."""
    fleet.answer = lambda exchange: exchange.reply(503, Retry_After=60)
    fleet.start()
    fleet.run(1)
    assert fleet.asked == {"GET": [0.0] * HOSTS, "POST": [0.0] * HOSTS}
    fleet.answer = serves
    fleet.run(58)
    for page in fleet.pages:
        page.kick()
    fleet.run(3)
    for page in fleet.pages:
        page.kick()
    fleet.run(60)
    for method in ("GET", "POST"):
        assert min(at for at in fleet.asked[method] if at) >= 60, method
        assert fleet.busiest(method, 60, fleet.now) < SAFE


def test_hosts_that_start_together_do_not_stay_together(fleet: Fleet) -> None:
    """Hosts that start at one moment without settings ask at once, and from the second time on one after the other."""
    fleet.answer = serves
    fleet.start()
    fleet.run(36)
    assert fleet.asked["GET"][:HOSTS] == [0.0] * HOSTS
    assert fleet.busiest("GET", 1, fleet.now) < SAFE // 2  # 3 are uniform, 20 is what the jitter alone does


def test_hosts_that_start_together_with_settings_do_not_ask_together(fleet: Fleet) -> None:
    """Hosts that are started at one moment with the settings of their last run ask within the jitter, 5 s."""
    fleet.answer = serves
    fleet.start()
    fleet.run(1)
    fleet.start()
    began = fleet.now
    fleet.run(6)
    assert fleet.busiest("GET", began, began + 5.5) <= 2 * SAFE


def test_settings_that_are_older_than_the_interval_are_asked_for_at_once(fleet: Fleet) -> None:
    """A host whose leaders all end sooner than the jitter would never ask otherwise."""
    fleet.answer = serves
    fleet.start()
    fleet.run(1)
    for page in fleet.pages:
        page.words[control.SETTINGS_TIME] -= 60
    fleet.start()
    began = fleet.now
    fleet.run(1)
    assert fleet.asked["GET"][:HOSTS] == [began] * HOSTS
