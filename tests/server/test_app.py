from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.server.sample import goal, visit
from tests.server_process import EXPERIMENTS, wait_for

if TYPE_CHECKING:
    from tests.server_process import ServerProcess

LIMIT = 200_000


def post(server: ServerProcess, body: bytes, **headers: str) -> requests.Response:
    return server.request("POST", "/v1/events", data=body, headers=headers)


def batch(*events: dict[str, Any]) -> bytes:
    return json.dumps({"events": events}).encode()


def said(response: requests.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Accept-Encoding"] == "gzip"
    return response.status_code, response.json()["error"]


# --- settings


def test_settings(server: ServerProcess) -> None:
    """The settings are the experiments of the file, with a strong ETag."""
    response = server.request("GET", "/v1/all_series_tests")
    assert response.status_code == 200
    assert list(response.json()["tests"]) == list(EXPERIMENTS)
    assert response.headers["ETag"].startswith('"')
    assert response.headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_not_modified(server: ServerProcess, form: str) -> None:
    """Settings that the client has are a 304 without a body, and a poll all the same."""
    etag = server.request("GET", "/v1/all_series_tests").headers["ETag"]
    response = server.request("GET", "/v1/all_series_tests", headers={"If-None-Match": form.format(etag)})
    assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", etag)
    since_start = server.accounts()["since_start"]
    assert (since_start["polls"], since_start["not_modified"]) == (2, 1)


def test_modified(server: ServerProcess) -> None:
    """Settings that the client does not have are sent whole."""
    response = server.request("GET", "/v1/all_series_tests", headers={"If-None-Match": '"old"'})
    assert response.status_code == 200


# --- events


def test_resend(server: ServerProcess) -> None:
    """A resent batch counts once, and the answer says so."""
    events = [visit(), visit(), goal()]
    assert server.post(events).json() == {"accepted": 3, "duplicates": 0}
    assert server.post(events).json() == {"accepted": 0, "duplicates": 3}
    accounts = server.accounts()
    assert (accounts["events"], accounts["duplicates"], accounts["without_id"]) == (3, 3, 0)
    assert accounts["by_type"] == {"visit": 2, "goal": 1, "match_user_visitor": 0}
    assert accounts["since_start"]["event_posts"] == 2


def test_many_senders_of_the_same(server: ServerProcess) -> None:
    """Eight threads that send the same batches at the same time store each event once."""
    batches = [[visit() for _ in range(100)] for _ in range(10)]
    accepted: list[int] = []

    def send(start: int) -> None:
        for number in range(len(batches)):
            events = batches[(start + number) % len(batches)]
            accepted.append(server.post(events).json()["accepted"])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accounts = server.accounts()
    assert (len(accepted), sum(accepted)) == (80, 1000)
    assert (accounts["events"], accounts["duplicates"]) == (1000, 7000)


def test_tokens_do_not_meet(server: ServerProcess) -> None:
    """A token sees its own events, results and counts only."""
    other = server.tokens[1]
    before = server.accounts(other)
    event = visit()
    assert server.post([event]).json()["accepted"] == 1
    assert server.accounts(other)["events"] == before["events"]
    assert server.post([event], token=other).json()["accepted"] == 1
    assert server.accounts()["duplicates"] == 0


def test_gzip(server: ServerProcess) -> None:
    """A gzip body is accepted, in one member or several."""
    body = batch(visit(), visit())
    for packed in (gzip.compress(body, mtime=0), gzip.compress(body[:40], mtime=0) + gzip.compress(body[40:], mtime=0)):
        assert post(server, packed, **{"Content-Encoding": "gzip"}).status_code == 200
    assert server.accounts()["events"] == 2


def test_gzip_bomb(server: ServerProcess) -> None:
    """A body that unfolds beyond the limit is a 413, and not unfolded."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(b" " * (1 << 20)) for _ in range(180)]) + packer.flush()
    assert len(bomb) < LIMIT
    answer = said(post(server, bomb, **{"Content-Encoding": "gzip"}))
    assert answer == (413, f"the body is over {LIMIT} bytes when decompressed: send smaller batches")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_limit(server: ServerProcess, encoding: str) -> None:
    """A body of the limit passes, one byte more does not."""
    fits = batch(visit()).ljust(LIMIT)
    pack = gzip.compress if encoding == "gzip" else bytes
    assert post(server, pack(fits), **{"Content-Encoding": encoding}).status_code == 200
    assert said(post(server, pack(fits + b" "), **{"Content-Encoding": encoding}))[0] == 413


def test_much_too_large(server: ServerProcess) -> None:
    """A client that sends a body far over the limit reads the 413, not a reset connection."""
    with requests.Session() as session:
        headers = {"Authorization": f"Bearer {server.token}"}
        for _ in range(3):
            response = session.post(f"{server.url}/v1/events", data=b" " * 20_000_000, headers=headers, timeout=20)
            assert said(response) == (413, f"the body is over {LIMIT} bytes: send smaller batches")
    assert server.accounts()["since_start"]["refused"] == {"413": 3}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"not gzip", "the body is not gzip: "),
        (gzip.compress(b'{"events": []}', mtime=0)[:-6], "the gzip body ends too early"),
        (gzip.compress(b'{"events": []}', mtime=0) + b"trailing", "the body is not gzip: "),
    ],
)
def test_bad_gzip(server: ServerProcess, body: bytes, error: str) -> None:
    """What is said to be gzip and is not is a 400."""
    status, message = said(post(server, body, **{"Content-Encoding": "gzip"}))
    assert status == 400
    assert message.startswith(error)


def test_other_encoding(server: ServerProcess) -> None:
    """An encoding that we don't know is a 415 that advertises gzip."""
    answer = said(post(server, b"x", **{"Content-Encoding": "br"}))
    assert answer == (415, "Content-Encoding 'br' is not understood: send gzip or none")


def test_not_json(server: ServerProcess) -> None:
    """A body that is not JSON is a 400."""
    status, message = said(post(server, b"hello"))
    assert (status, message[:26]) == (400, "the body is not JSON: unex"[:26])


def test_not_a_batch(server: ServerProcess) -> None:
    """JSON of another form is a 400."""
    assert said(post(server, b"[]")) == (400, 'the body is not {"events": [...]}')


def test_invalid_event(server: ServerProcess) -> None:
    """One invalid event is a 422 that names it, and nothing of its batch is stored."""
    bad = visit() | {"time": "yesterday"}
    response = server.post([visit(), visit(), bad])
    assert said(response)[0] == 422
    assert response.json() == {
        "error": "events[2].time: 'yesterday' is not a time of the form 2024-12-31 23:59:59.123456",
        "index": 2,
        "field": "time",
        "event_id": bad["event_id"],
    }
    assert server.accounts()["events"] == 0


# --- tokens, routes


@pytest.mark.parametrize("path", ["/v1/all_series_tests", "/v1/results", "/v1/accounts"])
@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, "send Authorization: Bearer TOKEN"),
        ("Basic dXNlcjpwYXNz", "send Authorization: Bearer TOKEN"),
        ("Bearer ", "send Authorization: Bearer TOKEN"),
        ("Bearer wrong", "this token is not known here"),
        ("Bearer \xfc", "this token is not known here"),
    ],
)
def test_unauthorized(server: ServerProcess, path: str, header: str | None, error: str) -> None:
    """Without a known token there is a 401 that says which of the two it is."""
    headers = {} if header is None else {"Authorization": header}
    response = requests.get(server.url + path, headers=headers, timeout=20)
    assert said(response) == (401, error)
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_unauthorized_events(server: ServerProcess) -> None:
    """A large batch with a wrong token gets its 401, and nothing is stored."""
    answer = said(server.request("POST", "/v1/events", token="wrong", data=b" " * 5_000_000))
    assert answer == (401, "this token is not known here")


def test_scheme_in_any_case(server: ServerProcess) -> None:
    """The scheme's case does not matter."""
    headers = {"Authorization": f"bearer {server.token}"}
    assert requests.get(f"{server.url}/v1/accounts", headers=headers, timeout=20).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/events/", "/v1/nothing"])
def test_not_found(server: ServerProcess, path: str) -> None:
    """An unknown path is a 404 in JSON, and never a redirect."""
    assert said(server.request("GET", path, allow_redirects=False)) == (404, f"there is nothing at {path}")


def test_method_not_allowed(server: ServerProcess) -> None:
    """A wrong method is a 405 in JSON that names the right one."""
    response = server.request("GET", "/v1/events")
    assert said(response) == (405, "GET is not for /v1/events")
    assert response.headers["Allow"] == "POST"


def test_health(server: ServerProcess) -> None:
    """Health needs no token."""
    assert requests.get(f"{server.url}/v1/health", timeout=20).json() == {"status": "ok"}


def test_results(server: ServerProcess) -> None:
    """Results are counted over everything that was acknowledged."""
    server.post([visit("b", visitor="v1"), visit("control", visitor="v2"), goal(visitor="v1", value=3)])
    variants = server.results()["experiments"]["button"]["variants"]
    assert [variants[name]["people"] for name in ("control", "b")] == [1, 1]
    assert variants["b"]["goals"]["purchase"] == {"converted": 1, "rate": 1.0, "count": 1, "sum": 3.0, "no_value": 0}


def test_agents(server: ServerProcess) -> None:
    """Clients are counted by what they call themselves, up to a number of names."""
    for number in range(60):
        server.request("GET", "/v1/all_series_tests", headers={"User-Agent": f"client/{number}"})
    agents = server.accounts()["since_start"]["agents"]
    assert agents["client/0"] == 1
    assert len(agents) == 51
    assert sum(agents.values()) == 61


def test_client_that_hangs_up(server: ServerProcess) -> None:
    """A connection that breaks in the middle of a body stores nothing and leaves no traceback."""
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port)), 20) as connection:
            head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + batch(visit())[:100])
    wait_for(lambda: server.accounts()["since_start"]["event_posts"] == 3, "the posts are seen")
    assert server.accounts()["events"] == 0
    assert "Traceback" not in server.log()


def test_no_delay_between_requests(server: ServerProcess) -> None:
    """Answers on a kept connection don't wait 40 ms for a delayed ACK: then none of them could be quicker."""
    took = []
    with requests.Session() as session:
        for _ in range(51):
            start = time.perf_counter()
            assert session.get(f"{server.url}/v1/health", timeout=20).content
            took.append(time.perf_counter() - start)
    assert sorted(took)[5] < 0.04
