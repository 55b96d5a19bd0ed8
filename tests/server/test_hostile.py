"""The local server under hostile requests: it is a tool for development, and no door either."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path


def exchange(server: ServerProcess, request: bytes) -> bytes:
    """Send bytes as they are, where a client library would tidy them up, and return the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # a server that has had enough may hang up
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    return answer


def head(server: ServerProcess, line: bytes, *more: bytes) -> bytes:
    lines = [line, b"Host: x", b"Authorization: Bearer " + server.token.encode(), b"Connection: close", *more]
    return b"\r\n".join([*lines, b"", b""])


@pytest.mark.parametrize(
    "path",
    [
        b"/../../../../etc/passwd",
        b"/v1/../../etc/passwd",
        b"/v1/%2e%2e/%2e%2e/etc/passwd",
        b"/v1/..%2f..%2fetc/passwd",
        b"//etc/passwd",
        b"/v1/all_series_tests/../../../events.db",
        b"/events.db",
        b"/experiments.json",
        b"http://127.0.0.1/etc/passwd",
    ],
)
def test_no_path_leads_to_a_file(server: ServerProcess, path: bytes) -> None:
    """There are routes and no files: every other path is a 404, however it is written."""
    answer = exchange(server, head(server, b"GET " + path + b" HTTP/1.1"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer
    assert b"content-type: application/json" in answer.lower()


@pytest.mark.parametrize("opening", [b"[", b'{"events":', b'{"events":[{"tags_name_value":'])
def test_deep_json(server: ServerProcess, opening: bytes) -> None:
    """JSON as deep as the limit of a body allows is a 400, and the server serves on."""
    response = server.request("POST", "/v1/events", data=opening * (190_000 // len(opening)))
    assert response.status_code == 400
    assert server.accounts()["events"] == 0


@pytest.mark.parametrize(
    "number", [b"1" * 100_000, b"1e999999", b"-" + b"9" * 5000, b'"' + b"x" * 150_000 + b'"'], ids=len
)
def test_huge_values(server: ServerProcess, number: bytes) -> None:
    """Numbers and texts beyond sense are stored or refused, and cost no more than their bytes."""
    event = b'{"event_type":"goal","time":"2026-01-01 00:00:00.000000","goal_name":"g","user_id":"u","goal_value":%b}'
    response = server.request("POST", "/v1/events", data=b'{"events":[' + event % number + b"]}")
    assert response.status_code in (200, 400, 422)
    assert server.results()["experiments"]


def test_head_without_end(server: ServerProcess) -> None:
    """A header that never ends is refused at some length."""
    answer = exchange(server, head(server, b"GET /v1/health HTTP/1.1", b"X: " + b"x" * 10_000_000))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert server.request("GET", "/v1/health").status_code == 200


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    """Without --host, no other address of this machine answers."""
    with ServerProcess(tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        for address in ("127.0.0.2", socket.gethostbyname(socket.gethostname())):
            if address == "127.0.0.1":
                continue
            with socket.socket() as other:
                other.settimeout(5)
                assert other.connect_ex((address, server.port)) != 0, address


def test_the_token_is_not_kept(tmp_path: Path) -> None:
    """Neither database nor log have a token, also one that is wrong; the database is its owner's alone."""
    with ServerProcess(tmp_path, tokens=("sesame-3f1d",), options=("--access-log",)) as server:
        server.accounts()
        assert server.request("GET", "/v1/accounts", token="sesame-wrong").status_code == 401
        paths = [path for path in tmp_path.iterdir() if path.name.startswith("events.db")]
        assert paths
        for path in [*paths, server.log_file]:
            assert b"sesame" not in path.read_bytes()
        assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
