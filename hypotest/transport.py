"""HTTP: the two endpoints, and what their answers mean. The seam for other transports is `Transport`.

Acknowledged is a 2xx with a JSON body, and nothing else: a captive portal answers 200 with HTML. No redirect is
followed, since the token would go with it. Foreign errors become `TransportError`s here and nowhere else.
"""

from __future__ import annotations

import html
import http.client
import io
import json
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import orjson
import requests

# Not as attributes of requests and urllib3: once an import of those has failed half-way, they would never be there.
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NewConnectionError

from hypotest.config import SDK_TYPE, VERSION, Config
from hypotest.errors import PayloadRejected, PayloadTooLarge, ServerAway, TransportError, Unauthorized

_SETTINGS_PATH = "/v1/all_series_tests"
_EVENTS_PATH = "/v1/events"
_MAX_SETTINGS = 64 << 20
_MAX_REPLY = 1 << 20
_MAX_RETRY_AFTER = 3600.0
_READ_TIMEOUT_FACTOR = 5
_WHOLE_FACTOR = 2
_CHUNK = 64 << 10
_GZIP_FROM = 1024
_GZIP = zlib.MAX_WBITS | 16  # zlib's name for the format
_MAX_SHOWN = 200
_MAX_BODY_SEARCHED = 8192  # over the longest token


class Transport(Protocol):
    """What poller and sender need of a server."""

    def fetch_settings(self, etag: str | None) -> tuple[bytes, str | None] | None:
        """The settings document and its ETag; None if it is still the one of `etag`.

        Raises:
            TransportError: there is no answer, or not such a one.
        """

    def send_events(self, body: bytes, key: str) -> None:
        """Delivers a body of events; returns when the server has acknowledged it.

        Raises:
            TransportError: it did not; PayloadTooLarge and PayloadRejected say that the body is at fault.
        """


class _BearerToken(AuthBase):
    # As `auth`, not as a header: requests would replace a header by an entry of ~/.netrc for the same host.
    def __init__(self, token: str) -> None:
        self._value = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """No redirect is a target: even one that is not followed would have its body read, whatever its size."""


class _UntilDeadline(io.RawIOBase):
    """What a socket receives, up to a deadline: the timeout of the socket itself begins anew with each byte."""

    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        self._raw = raw
        self._seconds = seconds
        self.again()

    def again(self) -> None:
        """Lets the time begin again."""
        self._deadline = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the answer drips in too slowly")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head has a deadline, and whose body another, with all that may stand between its chunks."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self._bytes = _UntilDeadline(self.fp.detach(), _WHOLE_FACTOR * (sock.gettimeout() or 0.0))
        self.fp = io.BufferedReader(self._bytes)

    def begin(self) -> None:
        super().begin()
        self._bytes.again()


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        _set_response_class(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        manager = super().proxy_manager_for(*args, **more)
        _set_response_class(manager)
        return manager


def _set_response_class(manager: Any) -> None:
    """Makes the connections of a pool manager, to whatever kind of proxy, answer with a `_Response`."""
    classes = dict(manager.pool_classes_by_scheme)
    for scheme, pool in classes.items():
        if pool.ConnectionCls.response_class is not _Response:  # it may be the manager of an earlier request
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": _Response})
            classes[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = classes


class HttpTransport:
    """The HypoTest server over HTTPS, or over HTTP where the host is loopback or the user allows it.

    TLS is always verified; proxies and certificate bundles come from the environment as `requests` has them, but for
    HTTP to loopback: a proxy would carry the token over the network in the clear.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._gzip = False
        self._timeout = (config.connection_timeout, config.connection_timeout * _READ_TIMEOUT_FACTOR)
        self._session = _Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter())
        self._session.auth = _BearerToken(config.token or "")
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # none is kept or sent
        self._session.trust_env = config.server_url.startswith("https:") or not _is_loopback(config.server_url)
        self._prepared: dict[str, requests.PreparedRequest] = {}
        self._session.headers.update(
            {
                "User-Agent": f"hypotest-{SDK_TYPE}-sdk/{VERSION}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            },
        )

    def fetch_settings(self, etag: str | None) -> tuple[bytes, str | None] | None:
        """See Transport."""
        headers = {"If-None-Match": etag} if etag else {}
        status, body, reply = self._call("GET", _SETTINGS_PATH, _MAX_SETTINGS, headers=headers)
        if status == requests.codes.not_modified:
            if etag is None:
                raise TransportError("HTTP 304 to a request that has nothing to compare with")
            return None
        return body, reply.get("ETag")

    def send_events(self, body: bytes, key: str) -> None:
        """See Transport."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._gzip and len(body) >= _GZIP_FROM:
            headers["Content-Encoding"] = "gzip"
            packer = zlib.compressobj(level=1, wbits=_GZIP)
            body = packer.compress(body) + packer.flush()
        _, reply, _ = self._call("POST", _EVENTS_PATH, _MAX_REPLY, headers=headers, data=body)
        try:
            orjson.loads(reply)
        except orjson.JSONDecodeError as error:
            raise TransportError("the answer is not JSON: is there a proxy or a portal in between?") from error

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _call(
        self,
        method: str,
        path: str,
        cap: int,
        *,
        headers: dict[str, str],
        data: bytes | None = None,
    ) -> tuple[int, bytes, requests.structures.CaseInsensitiveDict[str]]:
        url, trouble, outer = self._config.server_url, "", sys.exc_info()[1]
        kind = TransportError
        if not (url.startswith("https:") or self._config.allow_http or _is_loopback(url)):
            raise TransportError(f"{url} is not https; allow_http=True or HT_ALLOW_HTTP=true permits it all the same")
        try:
            request = self._prepare(method, url + path)
            request.headers.update(headers)
            if data is not None:
                request.prepare_body(data, None)
            settings = self._session.merge_environment_settings(request.url, {}, True, None, None)
            with self._session.send(
                request,
                timeout=self._timeout,
                allow_redirects=False,
                **settings,
            ) as response:
                body = self._read(response, cap)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            # The class and the cause only: the whole text of a requests error runs over three lines.
            chain = _chain(error, outer)
            trouble = self._shown(_cause(chain[-1]))
            if isinstance(error, requests.ConnectTimeout):
                kind, trouble = ServerAway, f"no connection within {self._timeout[0]:g} s"
            elif any(isinstance(each, NewConnectionError) for each in chain):
                kind = ServerAway
            elif isinstance(chain[-1], TimeoutError):
                trouble = f"connected, and then {trouble}"
            _clear_frames(chain)
            del chain  # a cycle: they know this frame
        if trouble:  # out here without a context: a reporter that shows locals would find the token in its frames
            raise kind(f"no answer: {trouble}")
        self._gzip = _accepts_gzip(response.headers.get("Accept-Encoding", ""))
        moved = f" to {response.headers['Location']}" if response.is_redirect else ""
        said = f"{response.reason}{moved}: {body[:_MAX_BODY_SEARCHED].decode('utf-8', 'replace')}"
        _raise_for_status(response, f"HTTP {response.status_code} {self._shown(said)}")
        return response.status_code, body, response.headers

    def _prepare(self, method: str, url: str) -> requests.PreparedRequest:
        """A request without its body. Kept: to prepare one takes requests a third of the time of sending it."""
        kept = self._prepared.get(url)
        if kept is None:
            kept = self._prepared[url] = self._session.prepare_request(requests.Request(method, url))
        return kept.copy()

    def _read(self, response: requests.Response, cap: int) -> bytes:
        """The body, unpacked, at most `cap` bytes.

        Not by `iter_content`: it unpacks a chunk without a bound, and waits for a chunk to be full.
        """
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise TransportError(f"the answer has the encoding {self._shown(encoding)}, which was not asked for")
        unpacker = zlib.decompressobj(wbits=_GZIP) if encoding == "gzip" else None
        read = getattr(response.raw, "read1", response.raw.read)
        body = bytearray()
        while part := read(_CHUNK, decode_content=False):
            try:
                body += part if unpacker is None else unpacker.decompress(part, cap + 1 - len(body))
            except zlib.error as error:
                raise TransportError("the answer is not the gzip it says it is") from error
            if unpacker is not None and unpacker.unused_data:
                raise TransportError("the answer goes on behind its gzip")
            if len(body) > cap:
                raise TransportError(f"the answer is over {cap} bytes")
        if unpacker is not None and body and not unpacker.eof:
            raise TransportError("the answer ends in the middle")
        return bytes(body)

    def _shown(self, text: str) -> str:
        """`text` for a log line: one short line without the token, which a server may well quote."""
        token = self._config.token or "\0"
        for form in (token, json.dumps(token)[1:-1], html.escape(token), quote(token), quote(token, safe="")):
            text = text.replace(form, "***")
        return "".join(mark if mark.isprintable() else " " for mark in text[:_MAX_SHOWN])


def _accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding, here that of a response (RFC 7694), has gzip and does not exclude it by q=0."""
    for item in header.lower().split(","):
        name, _, parameter = item.partition(";")
        if name.strip() == "gzip":
            return parameter.replace(" ", "").rstrip("0.") != "q="
    return False


def _raise_for_status(response: requests.Response, message: str) -> None:
    status = response.status_code
    if 200 <= status < 300 or status == requests.codes.not_modified:  # noqa: PLR2004
        return
    retry_after = _retry_after(response.headers.get("Retry-After"))
    if status in (401, 403):
        raise Unauthorized(message, retry_after)
    if status == requests.codes.request_entity_too_large:
        raise PayloadTooLarge(message, retry_after)
    if status in (400, 422):
        raise PayloadRejected(message, retry_after)
    away = status in (requests.codes.too_many_requests, requests.codes.service_unavailable)
    raise (ServerAway if away else TransportError)(message, retry_after)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, in either of its forms (RFC 9110, 10.2.3), at most an hour."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _inner(error: BaseException) -> BaseException | None:
    inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
    if not isinstance(inner, BaseException):
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return inner


def _chain(error: BaseException, outer: BaseException | None) -> list[BaseException]:
    """An error of a library and those inside it; not `outer`, which the host was handling when it called."""
    chain = [error]
    while (inner := _inner(chain[-1])) is not None and all(inner is not known for known in (outer, *chain)):
        chain.append(inner)
    return chain


def _cause(error: BaseException) -> str:
    """An error in one short line."""
    text = str(error)
    last = text.rpartition(": ")[2]
    return f"{type(error).__name__}: {last if last and last.count('[') == last.count(']') else text}"


def _clear_frames(errors: Iterable[BaseException]) -> None:
    """Empties the frames that library errors came through.

    Hazard: urllib3 keeps errors in locals of the very frames that they hold. That cycle would hold our callers' frames
    too, with the batch of half a MiB that was to be sent and the locks on its segments, until a collection of garbage,
    which the host may have switched off.
    """
    for error in errors:
        traceback.clear_frames(error.__traceback__)
