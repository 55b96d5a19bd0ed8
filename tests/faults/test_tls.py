"""TLS: whom the token is shown to. A local authority, and servers with good and bad certificates."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme

from hypotest.config import Config
from hypotest.transport import HttpTransport
from tests.http_host import TOKEN, Exchange, HttpHost, fails
from tests.processes import Script, sdk_env

pytestmark = pytest.mark.usefixtures("no_proxy")

SETTINGS = b"""{"tests": {"button": {"test_id": 1, "test_state": "running", "test_active": true,
    "condition_to_enter_test": "True", "variants_distribution": {"control": 0.5, "b": 0.5}}}}"""
PATIENCE = 30.0
YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Authority:
    """A certificate authority of the test's own, and a bundle file with its certificate."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.bundle = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.bundle)

    def good(self, context: ssl.SSLContext) -> None:
        self.ca.issue_cert("localhost").configure_cert(context)

    def expired(self, context: ssl.SSLContext) -> None:
        past = YESTERDAY - timedelta(days=1)
        self.ca.issue_cert("localhost", not_before=past, not_after=YESTERDAY).configure_cert(context)

    def wrong_host(self, context: ssl.SSLContext) -> None:
        self.ca.issue_cert("sdk.hypotest.example").configure_cert(context)

    def unknown_authority(self, context: ssl.SSLContext) -> None:
        trustme.CA().issue_cert("localhost").configure_cert(context)

    def self_signed(self, context: ssl.SSLContext) -> None:
        other = trustme.CA()
        pair = self.bundle.with_name("self-signed.pem")
        pair.write_bytes(other.private_key_pem.bytes() + other.cert_pem.bytes())
        context.load_cert_chain(pair)


@contextmanager
def serving(
    configure: Callable[[ssl.SSLContext], None], answer: Callable[[Exchange], None] | None = None
) -> Iterator[HttpHost]:
    """A server behind TLS with the certificate that `configure` loads."""
    host = HttpHost(answer)
    host.socket = server_context(configure).wrap_socket(host.socket, server_side=True)
    with host:
        yield host


def server_context(configure: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    configure(context)
    return context


def url_of(host: HttpHost) -> str:
    return f"https://localhost:{host.server_address[1]}"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority that the environment says to trust."""
    made = Authority(tmp_path)
    for name in BUNDLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.bundle))
    return made


BAD = {
    "expired": "certificate has expired",
    "wrong_host": "certificate is not valid for 'localhost'",
    "unknown_authority": "unable to get local issuer certificate",
    "self_signed": "self.signed certificate",
}


def transport(host: HttpHost) -> HttpTransport:
    return HttpTransport(Config(token=TOKEN, server_url=url_of(host), connection_timeout=PATIENCE))


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("allow_http", [False, True])
def test_a_bad_certificate(authority: Authority, kind: str, allow_http: bool) -> None:
    """The token is not shown to a server without a good certificate, whatever is permitted for plain HTTP."""
    with serving(getattr(authority, kind)) as host:
        given = Config(token=TOKEN, server_url=url_of(host), connection_timeout=PATIENCE, allow_http=allow_http)
        client = HttpTransport(given)
        for send in (True, False):
            assert re.search(BAD[kind], str(fails(client, send=send)))
        assert host.asked == []


@pytest.mark.parametrize("name", ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PYTHONHTTPSVERIFY"])
@pytest.mark.parametrize("value", ["", "0", "false"])
def test_no_variable_turns_the_check_off(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """What turns the check off elsewhere does not: another bundle of authorities is all that can be said."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(name, value)
    with serving(authority.good) as host:
        fails(transport(host))
        assert host.asked == []


def test_an_authority_of_one_s_own(authority: Authority) -> None:
    """With the authority in REQUESTS_CA_BUNDLE, settings and acknowledgements are taken, and the token is shown."""
    with serving(authority.good, lambda exchange: exchange.reply(body=SETTINGS)) as host:
        client = transport(host)
        assert client.fetch_settings(None) == (SETTINGS, None)
        client.send_events(b"{}", "k")
        assert {asked.headers["Authorization"] for asked in host.asked} == {f"Bearer {TOKEN}"}


def test_a_redirect_to_plain_http(authority: Authority) -> None:
    """A server behind TLS that redirects to plain HTTP, on its own host or another, is not followed."""
    with HttpHost() as other:
        for target in (other.url, other.url.replace("127.0.0.1", "localhost")):
            with serving(authority.good, lambda exchange, to=target: exchange.reply(307, b"", Location=to)) as host:
                fails(transport(host))
        assert other.asked == []


def test_a_certificate_that_expires_and_is_renewed(authority: Authority, tmp_path: Path) -> None:
    """While the certificate is bad events wait and one line says why; with a good one they arrive."""
    source = """
keep("kept")
until(lambda: hypotest.status().last_error, "trouble is told")
say("error", hypotest.status().last_error)
assert not hypotest.wait_until_ready(0)
sys.stdin.readline()
assert hypotest.wait_until_ready(20)
assert hypotest.flush(20), hypotest.status()
"""
    current = [server_context(authority.expired)]

    def renewable(context: ssl.SSLContext) -> None:
        # A context in use is not changed: a handshake between its new certificate and the new key fails.
        def latest(connection: ssl.SSLSocket | ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
            connection.context = current[-1]

        context.sni_callback = latest

    with serving(renewable, lambda exchange: exchange.reply(body=SETTINGS)) as host:
        env = sdk_env(None, tmp_path / "state", token=TOKEN, server_url=url_of(host), connection_timeout=PATIENCE)
        with Script(source, env) as script:
            assert "certificate has expired" in script.wait_for("error")
            assert host.asked == []
            current.append(server_context(authority.good))
            script.tell()
            script.result()
        warnings = [line for line in script.lines if " WARNING" in line]
        assert len(warnings) == 1
        assert "does not serve, events are kept" in warnings[0]
        assert sum(asked.body.count(b'"goal"') for asked in host.asked) == 20
        assert TOKEN not in script.output()
