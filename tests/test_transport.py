"""HTTP: what is asked of a server, and what its answers mean."""

from __future__ import annotations

import contextlib
import gc
import gzip
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from hypotest import transport
from hypotest.config import Config
from hypotest.errors import PayloadRejected, PayloadTooLarge, ServerAway, TransportError, Unauthorized
from hypotest.transport import HttpTransport
from tests.http_host import TOKEN, Exchange, HttpHost, fails
from tests.namespace import run_python

pytestmark = pytest.mark.usefixtures("no_proxy")


def test_fetching(host: HttpHost, client: HttpTransport) -> None:
    """Settings are asked for with the token, and come with their ETag."""
    host.answer = lambda exchange: exchange.reply(body=b'{"tests":{}}', ETag='"7"')
    assert client.fetch_settings(None) == (b'{"tests":{}}', '"7"')
    (asked,) = host.asked
    assert (asked.method, asked.path) == ("GET", "/v1/all_series_tests")
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert "If-None-Match" not in asked.headers
    assert asked.headers["User-Agent"].startswith("hypotest-python3-sdk/2.")


def test_unchanged_settings(host: HttpHost, client: HttpTransport) -> None:
    """With an ETag the request is conditional, and 304 is None; a 304 that nobody asked for is no answer."""
    host.answer = lambda exchange: exchange.reply(304, b"")
    assert client.fetch_settings('"7"') is None
    assert host.asked[0].headers["If-None-Match"] == '"7"'
    fails(client, send=False)


def test_sending(host: HttpHost, client: HttpTransport) -> None:
    """Events go as JSON with their key; any 2xx with a JSON body acknowledges them."""
    for status in (200, 201, 202):
        host.answer = lambda exchange, status=status: exchange.reply(status, b'{"ok":1}')
        client.send_events(b'{"events":[1]}', "the-key")
    asked = host.asked[0]
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/events", b'{"events":[1]}')
    assert asked.headers["Idempotency-Key"] == "the-key"
    assert asked.headers["Content-Type"] == "application/json"


class Held:
    """What a caller's frame holds: a batch, say."""


def sends_in_vain(client: HttpTransport) -> weakref.ref[Held]:
    held = Held()
    with contextlib.suppress(TransportError):
        client.send_events(b'{"events":[]}', "key")
        pytest.fail("it was acknowledged")
    return weakref.ref(held)


def hangs_up(exchange: Exchange) -> None:
    exchange.hang_up()


def breaks_off(exchange: Exchange) -> None:
    exchange.reply(body=b"{", Content_Length=1000)
    exchange.hang_up()


def says_nothing(exchange: Exchange) -> None:
    exchange.server.ending.wait()


def refuses(exchange: Exchange) -> None:
    exchange.reply(503)


@pytest.mark.parametrize("answer", [None, hangs_up, breaks_off, says_nothing, refuses])
def test_a_failure_keeps_nothing_of_its_callers(answer: Callable[[Exchange], None] | None) -> None:
    """A batch, and the locks on its segments, are given back at once, also where the host has no collector."""
    gc.disable()
    try:
        with HttpHost(answer) as host:
            client = HttpTransport(Config(token=TOKEN, server_url=host.url, connection_timeout=0.1))
            if answer is not None:
                assert sends_in_vain(client)() is None
        assert sends_in_vain(client)() is None  # nobody there any more
    finally:
        gc.enable()


def test_a_path_before_ours(host: HttpHost) -> None:
    """A server may live below a path."""
    HttpTransport(Config(token=TOKEN, server_url=f"{host.url}/hypo/test")).send_events(b"{}", "k")
    assert host.asked[0].path == "/hypo/test/v1/events"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PayloadRejected),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, TransportError),
        (405, TransportError),
        (408, TransportError),
        (409, TransportError),
        (413, PayloadTooLarge),
        (415, TransportError),
        (422, PayloadRejected),
        (429, ServerAway),
        (500, TransportError),
        (503, ServerAway),
    ],
)
def test_statuses(host: HttpHost, client: HttpTransport, status: int, kind: type[TransportError]) -> None:
    """Each status means what the protocol says, for both calls, and the message has it and what the server said."""
    host.answer = lambda exchange: exchange.reply(status, b'{"error":\n"because"}')
    for send in (True, False):
        error = fails(client, kind, send=send)
        assert f"HTTP {status}" in str(error)
        assert "because" in str(error)


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"", b"{", b"\xff"])
def test_what_is_not_json_acknowledges_nothing(host: HttpHost, client: HttpTransport, body: bytes) -> None:
    """A captive portal answers 200 with HTML: that is no acknowledgement."""
    host.answer = lambda exchange: exchange.reply(200, body)
    fails(client)


def test_no_content_acknowledges_nothing(host: HttpHost, client: HttpTransport) -> None:
    """204 has no JSON."""
    host.answer = lambda exchange: exchange.reply(204, b"", Content_Length=None)
    fails(client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(host: HttpHost, client: HttpTransport, status: int) -> None:
    """The token is never sent on to where a redirect points, on the same host or another."""
    with HttpHost() as other:
        for where in (f"{other.url}/v1/events", "/elsewhere"):
            host.answer = lambda exchange, where=where: exchange.reply(status, b"", Location=where)
            fails(client)
            fails(client, send=False)
        assert other.asked == []
    assert {asked.path for asked in host.asked} == {"/v1/events", "/v1/all_series_tests"}


def test_the_body_of_a_redirect_is_bounded(
    host: HttpHost, client: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the body of a redirect read beyond the cap."""
    monkeypatch.setattr(transport, "_MAX_REPLY", 1000)
    host.answer = lambda exchange: exchange.reply(302, b"x" * 100_000, Location="/elsewhere")
    assert "over 1000 bytes" in str(fails(client))


def test_a_truncated_answer(host: HttpHost, client: HttpTransport) -> None:
    """An answer that ends early is none, whichever way its length was told."""

    def by_length(exchange: Exchange) -> None:
        exchange.reply(body=b'{"tests":{}}', Content_Length=1000)
        exchange.hang_up()

    def by_chunks(exchange: Exchange) -> None:
        exchange.reply(body=b'c\r\n{"tests":{}}\r\n', Content_Length=None, Transfer_Encoding="chunked")
        exchange.hang_up()

    def by_gzip(exchange: Exchange) -> None:
        exchange.reply(body=gzip.compress(b'{"tests":{}}')[:-9], Content_Encoding="gzip")

    for host.answer in (by_length, by_chunks, by_gzip):
        fails(client, send=False)
        fails(client)


def test_chunked_and_packed_answers(host: HttpHost, client: HttpTransport) -> None:
    """Chunked and gzip answers are understood."""
    body = b'{"tests":' + b" " * 100_000 + b"{}}"
    packed = gzip.compress(body)
    host.answer = lambda exchange: exchange.reply(body=packed, Content_Encoding="gzip")
    assert client.fetch_settings(None) == (body, None)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (packed[:5], packed[5:])) + b"0\r\n\r\n"
    host.answer = lambda exchange: exchange.reply(
        body=chunks, Content_Length=None, Transfer_Encoding="chunked", Content_Encoding="gzip"
    )
    assert client.fetch_settings(None) == (body, None)
    assert host.asked[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_encodings_not_asked_for(host: HttpHost, client: HttpTransport, encoding: str) -> None:
    """An encoding that was not offered is refused, above all a nested one."""
    host.answer = lambda exchange: exchange.reply(body=b"{}", Content_Encoding=encoding)
    fails(client)


def test_the_size_is_capped(host: HttpHost, client: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer over the cap is refused, packed or not, and a bomb is not unpacked beyond it."""
    for name in ("_MAX_REPLY", "_MAX_SETTINGS"):
        monkeypatch.setattr(transport, name, 100_000)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    unpacked = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, **more: Any) -> None:
            self.inner = real(**more)

        def decompress(self, data: bytes, limit: int) -> bytes:
            unpacked.append(self.inner.decompress(data, limit))
            self.unused_data = self.inner.unused_data
            return unpacked[-1]

    monkeypatch.setattr(transport.zlib, "decompressobj", Watched)
    for headers, body in (({}, b" " * 100_001), ({"Content_Encoding": "gzip"}, bomb)):
        host.answer = lambda exchange, body=body, headers=headers: exchange.reply(body=body, **headers)
        assert "over 100000 bytes" in str(fails(client))
        assert "over 100000 bytes" in str(fails(client, send=False))
    assert sum(map(len, unpacked)) == 2 * 100_001


def test_garbage_for_gzip(host: HttpHost, client: HttpTransport) -> None:
    """What says it is gzip and is not is no answer, nor what goes on behind it, which no cap would hold."""
    for body in (b"{}", gzip.compress(b'{"tests":{}}') + bytes(1 << 20)):
        host.answer = lambda exchange, body=body: exchange.reply(body=body, Content_Encoding="gzip")
        assert "gzip" in str(fails(client))


def test_an_import_that_failed_half_way() -> None:
    """A process whose disk or descriptors failed while it loaded requests can load the transport when they are back."""
    run_python("""
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == "requests.models":
            sys.meta_path.remove(self)
            raise ImportError(name)
sys.meta_path.insert(0, Once())
try:
    import hypotest.transport
except ImportError:
    import hypotest.transport
else:
    raise AssertionError
""")
