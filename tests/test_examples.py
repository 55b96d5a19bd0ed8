"""The examples work as their README says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import requests

import hypotest.demo
from tests.server_process import DEADLINE, ServerProcess, clean_env, wait_for

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_example_is_the_application_of_the_demo() -> None:
    packaged = Path(hypotest.demo.__file__).with_name("app.py")
    assert (EXAMPLES / "flask_gunicorn" / "app.py").read_text() == packaged.read_text()


def test_flask_gunicorn_runs_with_the_one_command_of_its_readme(tmp_path: Path) -> None:
    directory = EXAMPLES / "flask_gunicorn"
    assert "    gunicorn app:app\n" in (directory / "README.md").read_text()
    with ServerProcess(tmp_path, experiments=None, options=("--experiments", str(directory / "experiments.yaml"))) as (
        server
    ):
        env = clean_env() | {
            "HOME": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HT_STATE_DIR": str(tmp_path / "state"),
            "HT_TOKEN": server.token,
            "HT_SERVER_URL": server.url,
            "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:0",
        }
        env.pop("XDG_RUNTIME_DIR", None)
        log = tmp_path / "gunicorn.log"
        with log.open("wb") as output:
            gunicorn = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "app:app"],
                cwd=directory,
                env=env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            found = wait_for(lambda: re.search(r"Listening at: (http://\S+)", log.read_text()), "gunicorn listens")
            visit_and_buy(found[1])
            results = wait_for(lambda: _with_a_sale(server), "the results have the sale")
        finally:
            gunicorn.send_signal(signal.SIGTERM)
            try:
                gunicorn.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                os.killpg(gunicorn.pid, signal.SIGKILL)
                gunicorn.wait()
    button, box = results["buy_button"]["variants"], results["newsletter_box"]["variants"]
    assert sum(variant["visitors"] for variant in button.values()) == 2
    assert sum(variant["visitors"] for variant in box.values()) == 1  # ann is German, bob is not
    assert sum(variant["goals"]["purchase"]["sum"] for variant in button.values()) == 12.5
    assert sum(variant["goals"]["signup"]["converted"] for variant in box.values()) == 1


def visit_and_buy(url: str) -> None:
    def ask(method: str, path: str, who: str, country: str, **more: object) -> dict[str, object]:
        response = requests.request(
            method,
            url + path,
            headers={"X-Country": country},
            cookies={"visitor": who},
            timeout=DEADLINE,
            **more,  # type: ignore[arg-type]
        )
        response.raise_for_status()
        answer: dict[str, object] = response.json()
        return answer

    wait_for(lambda: ask("GET", "/worker", "nobody", "")["generation"], "settings have arrived")
    assert ask("GET", "/", "bob", "FR")["newsletter_box"] is None
    assert ask("GET", "/", "ann", "DE")["newsletter_box"] in ("top", "bottom")
    assert ask("POST", "/buy", "ann", "DE", data={"price": "12.5"}) == {"bought": True}
    assert ask("POST", "/subscribe", "ann", "DE") == {"subscribed": True}


def _with_a_sale(server: ServerProcess) -> dict[str, dict[str, dict[str, dict[str, object]]]] | None:
    by_type = server.accounts()["by_type"]
    if (by_type["visit"], by_type["goal"]) != (3, 2):
        return None
    experiments: dict[str, dict[str, dict[str, dict[str, object]]]] = server.results()["experiments"]
    return experiments
