"""The events side of the leader: batches, refusals, resends, against real servers."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypotest import accounts, control, log
from hypotest.accounts import ACCEPTED
from hypotest.accounts import DELIVERED as DELIVERED_SLOT
from hypotest.config import Config
from hypotest.errors import PayloadRejected, PayloadTooLarge, ServerAway, TransportError
from hypotest.events import Encoder
from hypotest.leadership import Leadership
from hypotest.post import Post
from hypotest.sender import MAX_BYTES, MAX_EVENTS, Sender
from hypotest.spool import Spool
from hypotest.transport import HttpTransport
from tests.http_host import Exchange, HttpHost
from tests.namespace import NOTHING, Namespace, event
from tests.server_process import ServerProcess, wait_for


@pytest.fixture
def home(tmp_path: Path) -> Namespace:
    return Namespace(tmp_path)


class Picky(HttpHost):
    """A server that refuses batches over a size, and batches with certain events; and keeps what it took."""

    def __init__(self) -> None:
        super().__init__(self.judge)
        self.poison: set[int] = set()
        self.limit = 1 << 30
        self.most_refusals = 1 << 30
        self.refused_with = 422
        self.taken: list[Any] = []

    def judge(self, exchange: Exchange) -> None:
        events = json.loads(exchange.asked.body)["events"]
        if len(exchange.asked.body) > self.limit:
            exchange.reply(413)
        elif self.poison & {each["number"] for each in events}:
            exchange.reply(self.refused_with)
        else:
            self.taken += events
            exchange.reply()

    def numbers(self) -> list[int]:
        return [each["number"] for each in self.taken]

    def ids(self) -> list[str]:
        return [each["event_id"] for each in self.taken]


@pytest.fixture
def host() -> Iterator[Picky]:
    with Picky() as running:
        yield running


def sender(home: Namespace, url: str, token: str = "token") -> Sender:
    leader = home.backlog()
    leader.scan()
    return Sender(HttpTransport(Config(token=token, server_url=url)), leader)


def append(home: Namespace, *numbers: int, **more: Any) -> None:
    for number in numbers:
        home.spool.append(event(number, **more))


def counters(home: Namespace) -> list[int]:
    return accounts.add([held.counters() for held in home.spool.segments.values()])


def test_events_of_ours_at_a_real_server(home: Namespace, tmp_path: Path) -> None:
    """Every event arrives once, although a crash before settling sends some of them twice."""
    encoder = Encoder(None)
    for n in range(2500):
        home.spool.append(encoder.goal("purchase", f"user {n}", None, n, {"n": n}))
    with ServerProcess(tmp_path) as server:
        first = sender(home, server.url, server.token)
        batch = first._backlog.claim(MAX_EVENTS, MAX_BYTES)
        first._send(batch.ids, batch.payloads)  # and dies before it settles
        second = sender(home, server.url, server.token)
        while second.drain_once():
            second._backlog.scan()
        ids = server.event_ids()
        assert len(ids) == len(set(ids)) == 2500
    assert counters(home)[DELIVERED_SLOT] + home.totals()[DELIVERED_SLOT] == 2500


def test_nothing_to_send(home: Namespace, host: Picky) -> None:
    """Without events there is no request."""
    assert sender(home, host.url).drain_once() == 0
    assert host.asked == []


def test_a_batch_is_bounded(home: Namespace, host: Picky) -> None:
    """A request has at most so many events, and about so many bytes."""
    append(home, *range(MAX_EVENTS + 1))
    assert sender(home, host.url).drain_once() == MAX_EVENTS
    append(home, *range(20), pad="x" * 60_000)
    leader = sender(home, host.url)
    while leader.drain_once():
        leader._backlog.scan()
    assert max(len(asked.body) for asked in host.asked) < MAX_BYTES + 70_000
    assert len(host.taken) == len(set(host.ids())) == MAX_EVENTS + 21


def without_threads(home: Namespace, url: str) -> Leadership:
    """A leadership that has begun, of which the test makes the steps."""

    def no_thread(_name: str, _run: object) -> None:
        raise RuntimeError("the test makes the steps")

    config = Config(token="token", server_url=url)
    leadership = Leadership(Post(config, home.state, home.page, home.spool.instance, no_thread))
    leadership.begin()
    return leadership


def test_a_leader_has_signed_on_when_its_loops_start(home: Namespace) -> None:
    """Who sees settings arrive, or events leave, finds in the status who does it, and how."""
    seen = []

    def start(name: str, _run: object) -> None:
        seen.append((name, home.page.words[control.LEADER_PID], home.page.text(control.LEADER_CONFIG)[:1]))

    leadership = Leadership(Post(Config(token="token"), home.state, home.page, home.spool.instance, start))
    assert seen == []
    leadership.begin()
    assert seen == [(name, os.getpid(), "{") for name in ("poller", "sender")]
    leadership.end()


def test_a_round_takes_what_was_there_and_not_what_comes_meanwhile(home: Namespace, host: Picky) -> None:
    """A host that makes events all the time sends them in a few large requests: else each would hold the last few."""

    def one_more(exchange: Exchange) -> None:
        append(home, len(host.asked))
        host.judge(exchange)

    append(home, *range(2 * MAX_EVENTS + 10))
    host.answer = one_more
    leadership = without_threads(home, host.url)
    leadership.work()
    leadership.end()
    leadership.dismiss()
    posts = [len(json.loads(asked.body)["events"]) for asked in host.asked if asked.method == "POST"]
    assert posts[:2] == [MAX_EVENTS, MAX_EVENTS]
    assert len(posts) == 3


def test_a_batch_too_large_is_split(home: Namespace, host: Picky, caplog: pytest.LogCaptureFixture) -> None:
    """After 413 the same events go in smaller batches, in order and each once."""
    append(home, *range(100))
    host.limit = 2000
    assert sender(home, host.url).drain_once() == 100
    assert host.numbers() == list(range(100))
    assert accounts.dropped(counters(home)) == {}
    assert caplog.records == []


@pytest.mark.parametrize("poison", [{0}, {50}, {99}, {3, 4, 5, 77}, set(range(0, 100, 2))], ids=len)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_poison_is_set_aside(home: Namespace, host: Picky, poison: set[int], status: int) -> None:
    """Events that are refused alone while others pass go to quarantine; all the others arrive, each once."""
    append(home, *range(100))
    host.poison, host.refused_with = poison, status
    assert sender(home, host.url).drain_once() == 100
    assert sorted(host.numbers()) == [number for number in range(100) if number not in poison]
    kept = [line for path in Path(home.state.quarantine).iterdir() for line in path.read_text().splitlines()]
    assert {json.loads(line)["event"]["number"] for line in kept} == poison
    found = counters(home)
    assert accounts.dropped(found) == {"rejected": len(poison)}
    assert (found[ACCEPTED], found[DELIVERED_SLOT], accounts.pending(found)) == (100, 100 - len(poison), 0)


@pytest.mark.parametrize(("status", "kind"), [(400, PayloadRejected), (413, PayloadTooLarge), (422, PayloadRejected)])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_all_refused(home: Namespace, host: Picky, status: int, kind: type[TransportError], count: int) -> None:
    """If nothing passes, the fault is not the events': all are kept, none is set aside, and the caller is told."""
    append(home, *range(count))
    host.poison, host.refused_with = set(range(count)), status
    with pytest.raises(kind):
        sender(home, host.url).drain_once()
    assert os.listdir(home.state.quarantine) == []
    assert accounts.pending(counters(home)) == count
    host.poison = set()
    assert sender(home, host.url).drain_once() == count
    assert host.numbers() == list(range(count))


def test_one_poison_alone(home: Namespace, host: Picky) -> None:
    """A poison that is alone in the spool waits until something else is there to be told from."""
    append(home, 7)
    host.poison = {7}
    leader = sender(home, host.url)
    with pytest.raises(PayloadRejected):
        leader.drain_once()
    append(home, 8)
    assert leader.drain_once() == 2
    assert host.numbers() == [8]


@pytest.mark.parametrize("status", [401, 404, 409, 429, 500, 302])
def test_an_outage_keeps_everything(home: Namespace, host: Picky, status: int) -> None:
    """Whatever else the server answers, one request is made, nothing is split, and everything is kept."""
    append(home, *range(10))
    host.poison, host.refused_with = {3}, status
    with pytest.raises(TransportError):
        sender(home, host.url).drain_once()
    assert len(host.asked) == 1
    assert accounts.pending(counters(home)) == 10


def test_an_outage_in_the_middle_of_a_split(home: Namespace, host: Picky) -> None:
    """What was acknowledged before the server went away is settled as far as it is in order; the rest is resent."""
    append(home, *range(100))
    host.limit = 2000
    judge = host.judge

    def then_away(exchange: Exchange) -> None:
        judge(exchange) if len(host.taken) < 40 else exchange.reply(503)

    host.answer = then_away
    with pytest.raises(TransportError, match="503"):  # after what had passed was settled: it is time to wait
        sender(home, host.url).drain_once()
    (held,) = home.spool.segments.values()
    settled = held.counters()[accounts.DELIVERED]
    assert settled == len(host.taken) >= 40
    host.answer = judge
    assert sender(home, host.url).drain_once() == 100 - settled
    assert host.numbers() == list(range(100))


def test_a_line_too_thin_for_a_whole_batch(home: Namespace, host: Picky, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be carried in time is sent in smaller batches, until some arrive; then they grow again."""
    sizes: list[int] = []

    class Thin(HttpTransport):  # not a server that stays silent: a slow machine's good answers would be late, too
        def send_events(self, body: bytes, key: str) -> None:
            sizes.append(len(json.loads(body)["events"]))
            if sizes[-1] > 100:
                raise TransportError("no answer in time")
            super().send_events(body, key)

    monkeypatch.setattr("hypotest.sender._QUICK", 60.0)
    append(home, *range(MAX_EVENTS))
    leader = home.backlog()
    leader.scan()
    sending = Sender(Thin(Config(token="token", server_url=host.url)), leader)
    for _ in range(60):
        with contextlib.suppress(TransportError):
            sending.drain_once()
    assert sizes[:5] == [1000, 500, 250, 125, 62]
    assert len(set(host.ids())) == len(host.taken) == MAX_EVENTS
    monkeypatch.setattr(Thin, "send_events", HttpTransport.send_events)
    append(home, *range(2 * MAX_EVENTS))
    leader.scan()
    sizes = [sending.drain_once() for _ in range(5)]
    assert max(sizes) == MAX_EVENTS


def test_an_event_that_makes_the_server_fail(home: Namespace, host: Picky) -> None:
    """It stays, and so does what its process made after it; what other processes make goes out in smaller batches."""
    host.poison, host.refused_with = {500}, 500
    writers = [Spool(home.state.spool, 1 << 30, lambda: 0) for _ in range(40)]
    for number in range(800):
        writers[number // 20].append(event(number))
    for writer in writers:
        writer.close()
    leader = home.backlog(NOTHING)
    leader.scan()
    sending = Sender(HttpTransport(Config(token="token", server_url=host.url)), leader)
    for _ in range(200):
        with contextlib.suppress(TransportError):
            sending.drain_once()
    assert sorted(host.numbers()) == sorted({*range(800)} - {*range(500, 520)})


def test_a_poll_that_is_answered_ends_no_wait_of_the_sender_alone(home: Namespace, host: Picky) -> None:
    """A server that serves settings and takes no events would be asked at each poll; after an outage it is, at once."""
    leadership = without_threads(home, host.url)
    poller, sending = leadership._loops
    polls_fail = [False]

    def answer(exchange: Exchange) -> None:
        if exchange.asked.method == "GET" and not polls_fail[0]:
            exchange.reply(body=b'{"tests":{}}')
        else:
            exchange.reply(500)

    host.answer = answer
    append(home, 1)
    woken = []
    for polls_fail[0] in (False, True, False, False):
        leadership._send()
        sending._wake.clear()
        leadership._poll()
        woken.append(sending._wake.is_set())
    assert woken == [False, False, True, False]
    assert poller is not sending
    leadership.end()
    leadership.dismiss()


@pytest.mark.parametrize("status", [429, 503, None])
def test_after_an_outage_a_batch_is_whole(home: Namespace, host: Picky, status: int | None) -> None:
    """A server that is away, or asks for peace, would only get more requests from smaller ones."""
    append(home, *range(MAX_EVENTS))
    sending = sender(home, host.url if status else "http://127.0.0.1:9")
    host.answer = lambda exchange: exchange.reply(status or 200)
    for _ in range(3):
        with pytest.raises(ServerAway):
            sending.drain_once()
    host.answer = host.judge
    sending._transport = HttpTransport(Config(token="token", server_url=host.url))
    assert sending.drain_once() == MAX_EVENTS


def test_the_key_follows_from_the_ids(home: Namespace, host: Picky) -> None:
    """A resend has the same key; a batch that grew has another."""
    append(home, 1, 2)
    leader = sender(home, host.url)
    host.answer = lambda exchange: exchange.reply(503)
    for _ in range(2):
        with pytest.raises(TransportError):
            leader.drain_once()
    append(home, 3)
    host.answer = host.judge
    leader = sender(home, host.url)
    leader.drain_once()
    first, second, third = (asked.headers["Idempotency-Key"] for asked in host.asked)
    assert first == second != third
    assert host.asked[0].body == host.asked[1].body
    assert host.numbers() == [1, 2, 3]


def test_a_proxy_that_refuses_everything_is_not_flooded(home: Namespace, host: Picky) -> None:
    """Where nothing passes, a full batch costs a moderate number of requests."""
    append(home, *range(MAX_EVENTS))
    host.poison, host.refused_with = set(range(MAX_EVENTS)), 400
    with pytest.raises(PayloadRejected):
        sender(home, host.url).drain_once()
    assert len(host.asked) <= 100


def test_a_few_good_ones_are_found_in_the_end(home: Namespace, host: Picky) -> None:
    """However few pass, one of the attempts finds them, and then everything is decided."""
    append(home, *range(100))
    host.poison = set(range(100)) - {63}
    leader = sender(home, host.url)

    def attempt() -> int:
        try:
            return leader.drain_once()
        except PayloadRejected:
            return 0

    assert wait_for(attempt, "the good one is found") == 100
    assert host.numbers() == [63]
    assert accounts.dropped(counters(home)) == {"rejected": 99}


def test_packed_bodies(home: Namespace, host: Picky) -> None:
    """Once the server says so, bodies go packed, and are the same."""

    def advertises(exchange: Exchange) -> None:
        host.taken += json.loads(exchange.asked.body)["events"]
        exchange.reply(Accept_Encoding="gzip")

    host.answer = advertises
    leader = sender(home, host.url)
    for number in range(2):
        append(home, number, pad="x" * 2000)
        leader._backlog.scan()
        leader.drain_once()
    assert [asked.headers.get("Content-Encoding") for asked in host.asked] == [None, "gzip"]
    assert host.numbers() == [0, 1]
    assert int(host.asked[1].headers["Content-Length"]) < len(gzip.compress(host.asked[0].body)) + 200


def test_an_outage_that_changes_its_cause_is_news(
    home: Namespace, host: Picky, caplog: pytest.LogCaptureFixture
) -> None:
    """Each cause is said at once, and when it is tried next where that is not soon; the same one is not repeated."""

    log._last.clear()
    answers = [(500, {}), (500, {}), (401, {}), (429, {"Retry-After": "3000"})]
    append(home, 1)
    leadership = without_threads(home, host.url)
    for status, headers in answers:
        host.answer = lambda exchange, status=status, headers=headers: exchange.reply(status, b"{}", **headers)
        leadership._send()
    leadership.end()
    leadership.dismiss()
    told = [record.getMessage() for record in caplog.records if "does not serve" in record.getMessage()]
    assert [re.search(r"HTTP (\d+)", line)[1] for line in told] == ["500", "401", "429"]
    assert "next try" not in told[0]
    assert re.search(r"; next try at \d\d:\d\d:\d\d UTC;", told[1])
    assert "UTC, since the server asked for patience;" in told[2]
    assert home.page.text(control.LAST_ERROR).endswith("since the server asked for patience")
