from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.server.sample import visit
from tests.server_process import ServerProcess, clean_env, wait_for

if TYPE_CHECKING:
    from pathlib import Path


def test_killed_and_restarted(tmp_path: Path) -> None:
    """SIGKILL under load loses nothing that was acknowledged, and a resend after it counts once."""
    with ServerProcess(tmp_path) as server:
        acknowledged: list[dict[str, Any]] = []
        unanswered: list[dict[str, Any]] = []

        def send() -> None:
            while not unanswered:
                events = [visit() for _ in range(50)]
                try:
                    server.post(events).raise_for_status()
                except requests.RequestException:
                    unanswered.extend(events)
                else:
                    acknowledged.extend(events)

        for _ in range(3):
            unanswered.clear()
            threads = [threading.Thread(target=send) for _ in range(3)]
            enough = len(acknowledged) + 500
            for thread in threads:
                thread.start()
            wait_for(partial(_is_longer, acknowledged, enough), "events are acknowledged")
            server.kill()
            for thread in threads:
                thread.join()
            kept = server.event_ids()
            assert {event["event_id"] for event in acknowledged} <= set(kept)
            assert len(kept) == len(set(kept))
            server.restart()
            answer = server.post(acknowledged[-50:] + unanswered[:50]).json()
            assert answer["duplicates"] >= 50
            acknowledged.extend(unanswered[:50])
        assert server.query("PRAGMA integrity_check") == [("ok",)]


def _is_longer(items: list[Any], length: int) -> bool:
    return len(items) > length


def test_restart_keeps_the_address(tmp_path: Path) -> None:
    """A restarted server has its port, its events and its count of duplicates again."""
    with ServerProcess(tmp_path) as server:
        url, event = server.url, visit()
        server.post([event, event])
        server.restart()
        assert server.url == url
        accounts = server.accounts()
        assert (accounts["events"], accounts["duplicates"]) == (1, 1)
        assert accounts["since_start"]["event_posts"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_cleanly(tmp_path: Path, number: int) -> None:
    """A signal ends it with status 0, without a traceback, with the log folded into the database file."""
    with ServerProcess(tmp_path) as server, requests.Session() as session:
        session.get(f"{server.url}/v1/health", timeout=20)  # a connection that is kept open
        server.post([visit()])
        assert server.stop(number) == 0
        assert "Traceback" not in server.log()
        assert [file.name for file in tmp_path.glob("events.db*")] == ["events.db"]
        assert len(server.event_ids()) == 1


def test_paused(tmp_path: Path) -> None:
    """A paused server accepts connections and answers when it goes on."""
    with ServerProcess(tmp_path) as server:
        server.pause()
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{server.url}/v1/health", timeout=0.3)
        server.resume()
        assert requests.get(f"{server.url}/v1/health", timeout=20).json() == {"status": "ok"}


def test_experiments_change(tmp_path: Path) -> None:
    """A changed file is served soon; a broken one leaves the last good version and says why."""
    with ServerProcess(tmp_path) as server:
        first = server.request("GET", "/v1/all_series_tests").headers["ETag"]
        server.set_experiments({"other": {"variants": ["control", "b"]}})
        second = server.request("GET", "/v1/all_series_tests", headers={"If-None-Match": first})
        assert (second.status_code, list(second.json()["tests"])) == (200, ["other"])

        server.write_experiments('{"other": {"variants":')
        error = wait_for(lambda: server.accounts()["experiments"]["error"], "the file is seen to be broken")
        assert error.startswith("line 1: ")
        assert server.request("GET", "/v1/all_series_tests").content == second.content
        assert server.log().count("is broken, the last good version stays: line 1: ") == 1


def test_experiments_in_yaml_written_in_place(tmp_path: Path) -> None:
    """A YAML file that an editor writes in place is noticed as well."""
    file = tmp_path / "mine.yaml"
    file.write_text("one: {variants: [control, b]}\n")
    with ServerProcess(tmp_path, experiments=None, options=("--experiments", str(file))) as server:
        with file.open("a") as more:
            more.write("two: {variants: [control, b]}\n")
        wait_for(lambda: server.accounts()["experiments"]["count"] == 2, "the file is read again")


def test_database_locked(tmp_path: Path) -> None:
    """While another program holds the database, posts are a 503 that may be tried again, and nothing is lost."""
    with ServerProcess(tmp_path) as server:
        event = visit()
        with closing(sqlite3.connect(server.db, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            response = server.post([event])
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            assert response.json() == {"error": "the database failed, nothing was stored: database is locked"}
            assert server.results()["experiments"]["button"]
        assert server.post([event]).json() == {"accepted": 1, "duplicates": 0}


def test_answers_while_storing(tmp_path: Path) -> None:
    """Settings are served while the writer waits for the database."""
    with ServerProcess(tmp_path) as server, closing(sqlite3.connect(server.db, isolation_level=None)) as other:
        answers: list[int] = []
        while 200 not in answers and len(answers) < 5:  # where the machine stood still meanwhile, it waited in vain
            posts = len(answers)
            other.execute("BEGIN IMMEDIATE")
            posting = threading.Thread(target=lambda: answers.append(server.post([visit()]).status_code))
            posting.start()
            wait_for(lambda posts=posts: server.accounts()["since_start"]["event_posts"] > posts, "the post arrived")
            assert server.request("GET", "/v1/all_series_tests").ok
            other.execute("ROLLBACK")
            posting.join()
        assert answers[-1] == 200, answers
        assert server.accounts()["events"] == 1


def _serve(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hypotest.server", *options]
    return subprocess.run(
        command, cwd=directory, env=clean_env(), text=True, capture_output=True, timeout=30, check=False
    )


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is one clear line and exit status 2, and makes no database."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _serve(tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experiments", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["--experiments", "bad.json"], "bad.json: line 1: "),
        (["--port", "0", "--db", "missing/events.db"], "missing/events.db cannot be used as the database"),
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others: give a --token, or set HT_TOKEN"),
        (
            ["--host", "0.0.0.0", "--token", "dev-token"],
            "by others, who know the token dev-token",
        ),
        (["--host", "a..b", "--token", "t"], "can't listen on a..b:8000: "),
        (["--experiments", "forged.json"], "forged.json: experiment 'a', \\x1b[31m\\nforged: is unknown"),
        (["--experiments", "large.json"], "large.json: Exceeds the limit (4300"),
        (["--token", "two words"], "a token is made of printable ASCII characters without spaces"),
        (["--token", ""], "a token is made of printable ASCII characters without spaces"),
        (["--max-body", "0"], "--max-body 0 lets nothing in"),
        (["--port", "70000"], "can't listen on 127.0.0.1:70000: "),
        (["--host", "no.such.host.invalid", "--token", "t"], "can't listen on no.such.host.invalid:8000: "),
    ],
)
def test_cannot_start(tmp_path: Path, options: list[str], message: str) -> None:
    """What it can't start with is one line on stderr and exit status 2."""
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "forged.json").write_text(json.dumps({"a": {"variants": ["b"], "\x1b[31m\nforged": 1}}))
    (tmp_path / "large.json").write_text('{"a": %s}' % ("9" * 5000))
    done = _serve(tmp_path, *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("hypotest serve: ")
    assert message in done.stderr


@pytest.mark.parametrize(("env", "token"), [({}, "dev-token"), ({"HT_TOKEN": "from-env"}, "from-env")])
def test_token_by_default(tmp_path: Path, env: dict[str, str], token: str) -> None:
    """Without --token the token is that of HT_TOKEN, and without that a public one, which is said."""
    with ServerProcess(tmp_path, tokens=(), env=env) as server:
        assert server.accounts(token)["events"] == 0
        assert ("no token given: clients use HT_TOKEN=dev-token" in server.log()) == (token == "dev-token")


def test_access_log(tmp_path: Path) -> None:
    """Requests are logged only on demand, and tokens never."""
    with ServerProcess(tmp_path, options=("--access-log",)) as server:
        server.accounts()
        wait_for(lambda: "GET /v1/accounts HTTP/1.1" in server.log(), "the request is logged")
        assert server.token not in server.log()
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    with ServerProcess(quiet) as server:
        server.accounts()
        server.stop()
        assert "/v1/accounts" not in server.log()


def test_database_in_the_working_directory(tmp_path: Path) -> None:
    """Without --db the events are in `hypotest.db` where it was started."""
    with ServerProcess(tmp_path, db="hypotest.db") as server:
        server.post([visit()])
        assert (tmp_path / "hypotest.db").exists()


def test_ten_thousand_experiments(tmp_path: Path) -> None:
    """Ten thousand experiments are served and reloaded."""
    many = {f"experiment_{number}": {"variants": ["control", "b"]} for number in range(10_000)}
    with ServerProcess(tmp_path, experiments=many) as server:
        assert len(server.request("GET", "/v1/all_series_tests").json()["tests"]) == 10_000
        many["one_more"] = {"variants": ["b"]}
        server.set_experiments(many)
        assert json.loads(server.request("GET", "/v1/all_series_tests").content)["tests"]["one_more"]
