"""The examples work as their READMEs say: each is started by its one command, beside a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import hypotest.demo
from tests.examples import EXAMPLES, Example, need
from tests.server_process import DEADLINE, ServerProcess, wait_for

SHOPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flask_gunicorn": ("gunicorn app:app", "/worker", {"data": {"price": "12.5"}}),
    "django_uwsgi": ("uwsgi uwsgi.ini", "/ready", {"data": {"price": "12.5"}}),
    "fastapi_uvicorn": ("uvicorn app:app", "/ready", {"json": {"price": 12.5}}),
}
NEEDS = {
    "flask_gunicorn": (("flask",), ("gunicorn",)),
    "django_uwsgi": (("django",), ("uwsgi",)),
    "fastapi_uvicorn": (("fastapi",), ("uvicorn",)),
}
READERS = 100


def test_the_example_is_the_application_of_the_demo() -> None:
    """Whoever reads the example reads what the demo runs."""
    packaged = Path(hypotest.demo.__file__).with_name("app.py")
    assert (EXAMPLES / "flask_gunicorn" / "app.py").read_text() == packaged.read_text()


def test_no_application_has_a_token_of_its_own() -> None:
    """Where the variable was forgotten nothing is sent, and the log says so: not to a server of its own choice."""
    sources = [path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".ini")]
    assert len(sources) > 10
    for path in sources:
        assert not re.search(r"dev-token|127\.0\.0\.1:8000", path.read_text()), path


@pytest.mark.parametrize("name", SHOPS)
def test_a_shop_runs_with_the_one_command_of_its_readme(name: str, tmp_path: Path) -> None:
    """Each shop is started by one command, answers, sends what happened, is ready and ends with status 0."""
    need(*NEEDS[name])
    command, ready, price = SHOPS[name]
    with Example(name, tmp_path) as shop:
        assert shop.exported() == {"HT_TOKEN": shop.server.token, "HT_SERVER_URL": shop.server.url}
        process = shop.start(command)
        _wait_for_settings(shop, process, ready)
        assert shop.ask("GET", "/", "bob", "FR")["newsletter_box"] is None
        assert shop.ask("GET", "/", "ann", "DE")["newsletter_box"] in ("top", "bottom")
        assert shop.ask("POST", "/buy", "ann", "DE", **price) == {"bought": True}
        assert shop.ask("POST", "/subscribe", "ann", "DE") == {"subscribed": True}
        results = shop.wait_for(lambda: _results(shop.server, visits=3, goals=2), "the results have the sale")
        shop.wait_for(lambda: shop.hypotest("status", "--ready").stdout == "ready\n", "hypotest says so")
        assert shop.stop(process) == 0
    button, box = results["buy_button"]["variants"], results["newsletter_box"]["variants"]
    assert sum(variant["visitors"] for variant in button.values()) == 2
    assert sum(variant["visitors"] for variant in box.values()) == 1  # ann is German, bob is not
    assert sum(variant["goals"]["purchase"]["sum"] for variant in button.values()) == 12.5
    assert sum(variant["goals"]["signup"]["converted"] for variant in box.values()) == 1


@pytest.mark.parametrize("name", SHOPS)
def test_who_buys_at_the_first_visit_is_the_same_visitor_at_the_next(name: str, tmp_path: Path) -> None:
    """Each page sets the cookie where there is none; a price that is no number is the client's error."""
    need(*NEEDS[name])
    command, ready, price = SHOPS[name]
    cookies: dict[str, str] = {}
    with Example(name, tmp_path) as shop:
        process = shop.start(command)
        _wait_for_settings(shop, process, ready)

        def ask(method: str, path: str, **more: Any) -> requests.Response:
            # No session: uWSGI closes the connection after each answer, and does not say so.
            answer = requests.request(method, shop.url + path, cookies=cookies, timeout=DEADLINE, **more)
            cookies.update(answer.cookies)
            return answer

        assert ask("POST", "/buy", **price).cookies["visitor"]
        for method, path, more in (("GET", "/", {}), ("POST", "/buy", price), ("POST", "/subscribe", {})):
            answer = ask(method, path, **more)
            assert (answer.status_code, "visitor" in answer.cookies) == (200, False), shop.log()
        (form,) = price
        wrong = ask("POST", "/buy", **{form: {"price": "abc"}})
        assert wrong.status_code in (400, 422)
        assert "price" in wrong.text
        shop.wait_for(lambda: _results(shop.server, visits=1, goals=3), "all events have arrived")
        assert shop.stop(process) == 0
        visitors = shop.server.query("SELECT visitor_id, count(*) FROM events GROUP BY 1")
    assert visitors == [(cookies["visitor"], 4)]


@pytest.fixture
def redis() -> Iterator[str]:
    """The URL of a Redis of the test's own, on a socket in a directory whose name is short enough for one."""
    need(("redis",), ("redis-server",))
    directory = Path(tempfile.mkdtemp(prefix="ht-"))
    path = directory / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(path.exists, "Redis listens")
        yield f"redis+socket://{path}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(directory)


def test_celery_runs_with_the_commands_of_its_readme(redis: str, tmp_path: Path) -> None:
    """The newsletter's mails and clicks are all in the results."""
    need(("celery",), ("celery",))
    with Example("celery", tmp_path, env={"BROKER_URL": redis}) as newsletter:
        worker = newsletter.start("celery -A tasks worker")
        newsletter.wait_for(lambda: "settings: generation 1" in newsletter.log(), "settings have arrived")
        assert newsletter.start("python send.py").wait() == 0
        goals = len(range(0, READERS, 3))
        results = newsletter.wait_for(
            lambda: _results(newsletter.server, visits=READERS + READERS // 2, goals=goals), "all events have arrived"
        )
        assert newsletter.stop(worker) == 0
    subject, time = results["mail_subject"], results["send_time"]
    assert sum(variant["users"] for variant in subject["variants"].values()) == READERS
    assert sum(variant["users"] for variant in time["variants"].values()) == READERS // 2  # the German ones
    assert sum(variant["goals"]["click"]["converted"] for variant in subject["variants"].values()) == goals


def _wait_for_settings(shop: Example, process: subprocess.Popen[bytes], path: str) -> None:
    """Waits until the page says that they have arrived."""

    def arrived() -> object:
        assert process.poll() is None, shop.log()
        answer = shop.answers(path)
        return answer and answer.get("generation", answer.get("ready"))

    shop.wait_for(arrived, "settings have arrived")


def _results(server: ServerProcess, *, visits: int, goals: int) -> dict[str, Any] | None:
    """The results, once so many events have arrived, all of them different ones."""
    by_type = server.accounts()["by_type"]
    if (by_type["visit"], by_type["goal"]) != (visits, goals):
        return None
    experiments: dict[str, Any] = server.results()["experiments"]
    return experiments
