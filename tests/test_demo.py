"""`hypotest demo`: its exit status is the truth, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypotest.demo import run
from hypotest.demo.ledger import Ledger, Verdict
from hypotest.demo.processes import Child, Clock, DemoFailed, environment
from hypotest.demo.visitors import TRUE_RATES, Visitors
from hypotest.health import Status
from hypotest.server.experiments import load
from tests.server_process import DEADLINE, clean_env, wait_for

LIMIT = 60.0


def demo_env(tmp_path: Path) -> dict[str, str]:
    """An environment full of settings of the user's, none of which the demo may follow."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    return clean_env() | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HT_TOKEN": "the-user-s-own",
        "HT_SERVER_URL": "http://127.0.0.1:9",
        "HT_STATE_DIR": str(home / "state"),
        "HT_CONNECT_TO_SERVER": "false",
        "HT_LEADER": "off",
        "GUNICORN_CMD_ARGS": "--workers 1 --bind 127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
    }


def start(env: dict[str, str]) -> subprocess.Popen[str]:
    # A handler of ours becomes the default in a child. An ignored SIGINT, as of a job in the background, would stay.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "hypotest", "demo"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def expect_nothing_left(env: dict[str, str]) -> None:
    assert list(Path(env["TMPDIR"]).iterdir()) == []
    assert list(Path(env["HOME"]).iterdir()) == []
    wait_for(lambda: not _processes_in(env["TMPDIR"]), "no process of the demo is left", 5)


def _processes_in(directory: str) -> list[str]:
    """The pids of processes whose environment names that temporary directory; the demo's children inherit it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            told = path.read_bytes()
        except OSError:
            continue
        if f"HOME={directory}/".encode() in told or f"TMPDIR={directory}".encode() in told:
            found.append(path.parent.name)
    return found


def test_the_demo_loses_nothing_counts_nothing_twice_and_cleans_up(tmp_path: Path) -> None:
    """Through the kills of a worker and of the server, each event is counted once, and nothing stays behind."""
    env = demo_env(tmp_path)
    started = time.monotonic()
    process = start(env)
    told, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, told + errors
    assert time.monotonic() - started < LIMIT
    assert errors == ""
    for step in (
        "SIGKILL      to worker",
        "took over after",
        "server       killed",
        "is back",
        "each of the 4 workers",
    ):
        assert step in told
    accounts = re.search(
        r"^accepted ([\d,]+)  delivered ([\d,]+)  duplicates 0  lost 0  leaders (\d+)  polls (\d+)$", told, re.MULTILINE
    )
    assert accounts is not None, told
    assert accounts[1] == accounts[2]
    assert int(accounts[3]) >= 2
    rows = re.findall(r"^buy_button +\w+ +(\d+) +(\d+) +([\d.]+)% +\d+%$", told, re.MULTILINE)
    assert len(rows) == 3
    assert sum(int(visitors) for visitors, _, _ in rows) == 2000
    assert all(rate == f"{100 * int(done) / int(visitors):.1f}" for visitors, done, rate in rows)
    expect_nothing_left(env)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(number: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end the demo with all of its processes and files."""
    env = demo_env(tmp_path)
    process = start(env)
    try:
        assert process.stdout is not None
        while "begin to come" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130, errors
        assert errors == ""
        expect_nothing_left(env)
    finally:
        process.kill()
        process.communicate()


def test_a_demo_that_cannot_start_says_why_and_cleans_up(tmp_path: Path) -> None:
    """What a child printed before it failed is shown, and nothing stays behind."""
    env = demo_env(tmp_path)
    broken = tmp_path / "broken" / "gunicorn"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "__main__.py").write_text("raise SystemExit('gunicorn is broken here')")
    env["PYTHONPATH"] = os.pathsep.join([str(broken.parent), env["PYTHONPATH"]])
    process = start(env)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "the application ended with status 1" in errors
    assert "gunicorn is broken here" in errors
    assert "Traceback" not in errors
    expect_nothing_left(env)


def test_the_experiments_of_the_demo_and_of_the_example_have_the_same_variants() -> None:
    """Demo and example have the variants for which the demo's visitors have a true rate."""
    example = Path(__file__).parent.parent / "examples" / "flask_gunicorn" / "experiments.yaml"
    for settings in (load(example.read_text()), load(json.dumps(run.experiments("True")), is_json=True)):
        variants = {name: set(test["variants_distribution"]) for name, test in settings.tests.items()}
        assert variants == {name: set(rates) for name, rates in TRUE_RATES.items()}


# --- the accounts: what the demo would say if something were wrong


def acknowledged(*request_ids: str) -> Ledger:
    ledger = Ledger()
    for request_id in request_ids:
        ledger.send(request_id)
        ledger.acknowledge(request_id, [("visit", "x")])
    return ledger


def test_the_ledger_finds_what_is_lost_doubled_and_strange() -> None:
    """An acknowledged event must be there once, one of an unanswered request may be, and no other."""
    ledger = acknowledged("a", "b", "c")
    ledger.send("unanswered")
    good = [("a", "visit", "x"), ("b", "visit", "x"), ("c", "visit", "x")]
    assert ledger.compare(good) == Verdict(stored=3, lost=0, duplicates=0, strangers=0)
    assert ledger.compare([*good, ("unanswered", "visit", "x")]) == Verdict(4, 0, 0, 0)
    assert ledger.compare(good[1:]) == Verdict(2, 1, 0, 0)
    assert ledger.compare([*good, good[0], good[0]]) == Verdict(5, 0, 2, 0)
    assert ledger.compare([*good, ("z", "visit", "x")]) == Verdict(4, 0, 0, 1)
    assert ledger.compare([("a", "goal", "x"), *good[1:]]) == Verdict(3, 1, 0, 0)


@pytest.mark.parametrize(
    ("verdict", "accepted", "all_saw", "faults"),
    [
        (Verdict(9, 0, 0, 0), 9, True, 0),
        (Verdict(8, 1, 0, 0), 9, True, 2),
        (Verdict(9, 1, 1, 0), 9, True, 2),
        (Verdict(9, 0, 0, 1), 9, True, 1),
        (Verdict(9, 0, 0, 0), 9, False, 1),
        (Verdict(9, 0, 0, 0), 10, True, 1),
    ],
)
def test_the_demo_fails_on_any_fault(verdict: Verdict, accepted: int, all_saw: bool, faults: int) -> None:
    """A lost, doubled or strange event, accounts that do not fit and a worker without the change are faults."""
    outcome = run.Outcome(Status(accepted=accepted), verdict, resent=3, leaders=2, polls=9, all_saw=all_saw)
    assert len(outcome.faults()) == faults
    assert f"duplicates {verdict.duplicates}  lost {verdict.lost}" in run.accounts_line(outcome, 0)


FLAKY = """
import http.server, json, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = []
    def do_GET(self):
        self.asked.append(self.headers["X-Request-Id"])
        if len(self.asked) == 1:
            self.close_connection = True
            if "begun" in sys.argv:  # killed between the head of its answer and the body
                self.send_response(200); self.send_header("Content-Length", "45"); self.end_headers()
            return self.connection.shutdown(2)  # read, and not answered
        body = json.dumps({"buy_button": "none", "newsletter_box": None, "asked": self.asked}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
    def finish(self):
        try: super().finish()
        except OSError: pass
s = http.server.HTTPServer(("127.0.0.1", 0), H)
print(s.server_port, flush=True); s.serve_forever()
"""


@pytest.mark.parametrize("answer", ["none", "begun"])
@pytest.mark.parametrize("killed", [True, False])
def test_only_a_killed_worker_may_leave_a_request_unanswered(killed: bool, answer: str) -> None:
    """A visitor asks again where a worker was killed on purpose; any other missing answer ends the demo."""
    with subprocess.Popen(
        [sys.executable, "-c", FLAKY, answer], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            ledger = Ledger()
            visitors = Visitors(url, ledger, total=3, per_second=1000, threads=1)
            visitors.worker_was_killed = killed
            visitors.start()
            if killed:
                wait_for(lambda: visitors.check() or visitors.seen == 3, "all have been there")
                assert visitors.unanswered == 1
                repeated = [(f"visitor-{n:04}/#{int(n == 0)}", "visit", "buy_button") for n in range(3)]
                assert ledger.compare(repeated) == Verdict(3, 0, 0, 0)
                first = ("visitor-0000/#0", "visit", "buy_button")  # unanswered, and there all the same
                assert ledger.compare([*repeated, first]) == Verdict(4, 0, 0, 0)
            else:
                with pytest.raises(DemoFailed, match="a visitor failed"):
                    wait_for(visitors.check, "the failure is reported")
            visitors.stop()
        finally:
            process.kill()


def test_a_child_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ignores SIGTERM is killed, and its own children with it."""
    monkeypatch.setattr("hypotest.demo.processes._GRACE", 0.2)
    (tmp_path / "stubborn.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if pid := os.fork():\n print(pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = Child("stubborn", tmp_path, ("stubborn",), environment(tmp_path))
    child.start()
    pid = int(wait_for(lambda: child.output().strip(), "it has forked"))
    child.end()

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # the latter if it goes while it is read
            return True
        return state == "Z"  # its parent is dead: where nobody reaps orphans, it stays as a zombie

    wait_for(gone, "the grandchild is dead")


def test_no_wait_goes_beyond_the_end_of_the_demo() -> None:
    """A wait is over when the demo's time is, however long it may take by itself, and says what did not happen."""
    started = time.monotonic()
    with pytest.raises(DemoFailed, match="something"):
        Clock(0.1).wait(lambda: False, "something", 60)
    assert time.monotonic() - started < 30


def test_the_environment_of_the_children_has_nothing_of_the_user_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of the user's leads the children to another server, token or directory."""
    for name in ("HT_TOKEN", "HT_FUTURE_OPTION", "GUNICORN_CMD_ARGS", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "the user's")
    env = environment(tmp_path)
    assert "the user's" not in env.values()
    assert env["HOME"] == env["TMPDIR"] == str(tmp_path)
