"""HTTP: time, trust and the token."""

from __future__ import annotations

import email.utils
import html
import json
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from hypotest import transport
from hypotest.config import Config
from hypotest.errors import ServerAway, TransportError
from hypotest.transport import HttpTransport
from tests.http_host import TOKEN, Exchange, HttpHost, fails

pytestmark = pytest.mark.usefixtures("no_proxy")


def client_of(url: str, **more: object) -> HttpTransport:
    return HttpTransport(Config(token=TOKEN, server_url=url, **more))


def brief(url: str, **more: object) -> HttpTransport:
    """For what must fail, by whatever comes first."""
    return client_of(url, connection_timeout=0.05, **more)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: x\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n", b" "),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "between chunks": (CHUNKED + b"1;", b"x"),
    "after the chunks": (CHUNKED + b"0\r\nX: ", b"x"),
}


@pytest.mark.parametrize("part", DRIPS)
def test_a_slow_drip(host: HttpHost, client: HttpTransport, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A server that sends a byte now and then, in whichever part of its answer, cannot hold the leader for ever."""
    begin, more = DRIPS[part]

    def drip(exchange: Exchange) -> None:
        exchange.wfile.write(begin)
        for _ in range(500):
            if host.ending.wait(0.02):
                break
            exchange.wfile.write(more)
        exchange.hang_up()

    host.answer = drip
    monkeypatch.setattr(transport, "_WHOLE_FACTOR", 0.05)
    assert "drips" in str(fails(client))
    assert "drips" in str(fails(client, send=False))


def test_no_answer_at_all(host: HttpHost) -> None:
    """A server that accepts and says nothing is given up after the timeout."""
    host.answer = lambda _: host.ending.wait()  # type: ignore[assignment,return-value]
    assert "no answer" in str(fails(brief(host.url)))


@pytest.mark.parametrize("send", [True, False])
def test_an_error_of_the_hosts_is_neither_told_nor_touched(send: bool) -> None:
    """A request within a handler: what the host was handling is no cause of ours, and keeps its frames."""
    told = []

    def order(card: str) -> None:
        raise KeyError("of the host's")

    def handle(url: str) -> None:
        try:
            order("4111")
        except KeyError:
            told.append(str(fails(client_of(url), send=send)))
            raise

    with HttpHost(lambda exchange: exchange.hang_up()) as rude, pytest.raises(KeyError) as caught:
        handle(rude.url)
    assert told[0].startswith("no answer")
    assert "KeyError" not in told[0]
    assert caught.traceback[-1].locals == {"card": "4111"}


def test_nobody_there() -> None:
    """A refused connection, a name that does not resolve, and a server that hangs up are each one short line."""
    with socket.socket() as unused:  # held, and nobody listens
        unused.bind(("127.0.0.1", 0))
        assert "refused" in str(fails(client_of(f"http://127.0.0.1:{unused.getsockname()[1]}"), ServerAway))
    fails(client_of("https://no-such-host.invalid"), ServerAway)
    with HttpHost(lambda exchange: exchange.hang_up()) as rude:
        fails(client_of(rude.url))


def test_no_tls_there(host: HttpHost) -> None:
    """A server that does not speak TLS is no server."""
    fails(client_of(host.url.replace("http:", "https:")))


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("999999", 3600, 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after(host: HttpHost, client: HttpTransport, header: str, low: float, high: float) -> None:
    """Both forms of Retry-After are understood, up to an hour."""
    host.answer = lambda exchange: exchange.reply(503, Retry_After=header)
    found = fails(client, ServerAway).retry_after
    assert found is not None
    assert low <= found <= high


def test_retry_after_a_date_to_come(host: HttpHost, client: HttpTransport) -> None:
    """The time left until then counts."""
    header = email.utils.formatdate(time.time() + 1000, usegmt=True)
    host.answer = lambda exchange: exchange.reply(503, Retry_After=header)
    found = fails(client, ServerAway).retry_after
    assert found is not None
    assert 900 <= found <= 1001


@pytest.mark.parametrize("header", ["soon", "-1", "1.5e3", "\xb2", "nan", "", "Wed, 99 Foo", "9" * 400])
def test_a_bad_retry_after_is_none(host: HttpHost, client: HttpTransport, header: str) -> None:
    """What is neither a number of seconds nor a date says nothing, or at most an hour."""
    host.answer = lambda exchange: exchange.reply(429, Retry_After=header)
    assert fails(client, ServerAway).retry_after in (None, 3600.0)


def test_gzip_only_when_advertised(host: HttpHost, client: HttpTransport) -> None:
    """Bodies are packed once an answer said that the server takes gzip, and no more when one does not."""
    body = b'{"events":[' + b" " * 5000 + b"]}"
    answers = ((None, False), ("gzip", False), ("x, GZIP;q=0.5", True), ("gzip;q=0", True), (None, False))
    for advertised, packed in answers:  # an answer counts for the next request
        host.answer = lambda exchange, said=advertised: exchange.reply(Accept_Encoding=said)
        client.send_events(body, "k")
        asked = host.asked[-1]
        assert ("Content-Encoding" in asked.headers) is packed
        assert asked.body == body
    host.answer = lambda exchange: exchange.reply(Accept_Encoding="gzip")
    for _ in range(2):
        client.send_events(b"{}", "small")
        assert "Content-Encoding" not in host.asked[-1].headers


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1", "http://localhost.example", "http://127.0.0.1.example", "http://127.1", "http://0.0.0.0"],
)
def test_no_plain_http_to_others(url: str) -> None:
    """Without TLS the token goes to loopback only."""
    assert "allow_http" in str(fails(brief(url)))


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_plain_http_to_loopback(host: HttpHost, name: str) -> None:
    """To loopback, by name or address, it may."""
    client_of(host.url.replace("127.0.0.1", name)).send_events(b"{}", "k")
    assert len(host.asked) == 1


def test_plain_http_where_it_is_allowed() -> None:
    """The user may say so explicitly: then it is tried."""
    assert "allow_http" not in str(fails(brief("http://no-such-host.invalid", allow_http=True), ServerAway))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpHost]:
    with HttpHost() as running:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, running.url.replace("://", "://user:passw0rd@"))
        yield running


def test_loopback_does_not_go_through_a_proxy(host: HttpHost, proxy: HttpHost) -> None:
    """Plain HTTP to loopback goes there, not with its token over the network to a proxy."""
    client_of(host.url).send_events(b"{}", "k")
    assert (len(host.asked), proxy.asked) == (1, [])


def test_a_proxy_of_the_environment_is_used(proxy: HttpHost) -> None:
    """Other hosts are reached through the proxy, whose password is in no message."""
    client_of("http://hypotest.example", allow_http=True).send_events(b"{}", "k")
    assert proxy.asked[0].path == "http://hypotest.example/v1/events"
    proxy.answer = lambda exchange: exchange.hang_up()
    for url in ("https://hypotest.example", "http://hypotest.example"):
        assert "passw0rd" not in str(fails(client_of(url, allow_http=True)))


def test_netrc_does_not_replace_the_token(proxy: HttpHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of ~/.netrc for the server's host is not used."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine hypotest.example login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    client_of("http://hypotest.example", allow_http=True).send_events(b"{}", "k")
    assert proxy.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_server_that_quotes_the_token(host: HttpHost, client: HttpTransport) -> None:
    """What the server says goes to log and disk: the token is taken out of it."""
    for place in (0, 150, 195):
        host.answer = lambda exchange, place=place: exchange.reply(401, b"x" * place + TOKEN.encode() + b" is unknown")
        with pytest.raises(TransportError) as caught:
            client.send_events(b"{}", "k")
        assert "top-" not in str(caught.value)


@pytest.mark.parametrize(
    "encode", [str, html.escape, quote, partial(quote, safe=""), lambda text: json.dumps(text)[1:-1]]
)
def test_a_server_that_quotes_the_token_encoded(host: HttpHost, encode: Callable[[str], str]) -> None:
    """Nor is it shown as it stands in JSON, HTML or a URL."""
    token = 'to&p/s%e"cret<'
    host.answer = lambda exchange: exchange.reply(401, f"who is {encode(token)}?".encode())
    client = HttpTransport(Config(token=token, server_url=host.url))
    with pytest.raises(TransportError, match=r"who is \*\*\*\?"):
        client.send_events(b"{}", "k")


def test_a_traceback_with_locals_has_no_token(host: HttpHost) -> None:
    """A reporter of errors that shows local variables finds no token in those of our errors."""
    host.answer = lambda exchange: exchange.reply(500)
    with socket.socket() as unused:  # held, and nobody listens
        unused.bind(("127.0.0.1", 0))
        for url in (f"http://127.0.0.1:{unused.getsockname()[1]}", host.url):
            client = client_of(url)
            for call in (lambda client=client: client.fetch_settings(None), lambda c=client: c.send_events(b"{}", "k")):
                with pytest.raises(TransportError) as caught:
                    call()
                shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
                assert TOKEN not in "".join(shown.format())


def test_no_cookie_is_kept(host: HttpHost, client: HttpTransport) -> None:
    """A server cannot make us remember or send anything by cookies."""
    for number in range(3):
        host.answer = lambda exchange, n=number: exchange.reply(Set_Cookie=f"c{n}={'x' * 3000}; Max-Age=9999")
        client.send_events(b"{}", "k")
    assert not any("Cookie" in asked.headers for asked in host.asked)
    assert not client._session.cookies


@pytest.mark.parametrize("etag", ['"a\r\n b"', '"\xff"', "x" * 60_000, '"\x1b[31m"', ""])
def test_an_odd_etag(host: HttpHost, client: HttpTransport, etag: str) -> None:
    """No ETag that a server gives keeps the next poll from being made."""
    host.answer = lambda exchange: exchange.reply(body=b'{"tests":{}}', ETag=etag)
    for _ in range(2):
        fetched = client.fetch_settings(client.fetch_settings(None)[1])  # type: ignore[index]
        assert fetched is not None
    assert len(host.asked) == 4


def test_a_status_line_of_any_kind(host: HttpHost, client: HttpTransport) -> None:
    """A long or odd status line does not make a long or odd message."""

    def odd(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 500 " + b"\x1b[31m\xff" * 2000 + b"\r\nContent-Length: 0\r\n\r\n")

    host.answer = odd
    fails(client)
    host.answer = lambda exchange: exchange.wfile.write(b"garbage\r\n\r\n") and exchange.hang_up()
    fails(client)
