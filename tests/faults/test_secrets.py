"""The token, the salt and the ids of people, searched for after a run of everything; and who may read what it left."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.http_host import Asked, Exchange, HttpHost
from tests.processes import Script, run, said, sdk_env
from tests.server_process import ServerProcess, wait_for

TOKEN, SALT = "tok-9b1f6c2e77d0", "salt-5d20c1e4a9b3"
USER, VISITOR = "user-ann@example.com", "visitor-3f2a"
SETTINGS = json.dumps(
    {
        "tests": {
            name: {
                "test_id": number,
                "test_state": "running",
                "test_active": True,
                "condition_to_enter_test": condition,
                "variants_distribution": {"control": 0.5, "b": 0.5},
                "tag_names": ["country"],
            }
            for number, (name, condition) in enumerate(
                [("button", "True"), ("germans", 'country == "DE" and user_id != "x"'), ("broken", "import os")]
            )
        }
    }
).encode()


@dataclass
class Remains:
    """What a run of everything left behind."""

    directory: Path
    asked: list[Asked] = field(default_factory=list)
    elsewhere: list[Asked] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)

    def files(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file()]


APPLICATION = """
import gc
os.umask(0)
assert hypotest.wait_until_ready(20)
def visit():
    for i in range(20):
        hypotest.experiment("button", visitor_id=f"{VISITOR}-{i}")
        hypotest.experiment("germans", user_id=f"{USER}-{i}", tags={"country": "DE"})
    for name in ("germans", "broken", "unknown"):
        hypotest.experiment(name, user_id=USER, override="no such")
        hypotest.experiment(name, user_id=USER, visitor_id=VISITOR)
    hypotest.kpi_event("purchase", user_id=USER, value="nothing")
    hypotest.kpi_event("poison", visitor_id=VISITOR)
    hypotest.match_user_visitor(USER, VISITOR, context="login")
visit()
assert hypotest.flush(20), hypotest.status()
join(child(visit), child(visit))
hypotest.config(pull_interval=0.2)
hypotest.config(token="two words", hash_ids="", server_url="nowhere")
visit()
say("status", hypotest.status(), hypotest.status().to_dict())
say("ready")
sys.stdin.readline()
for thing in gc.get_objects():
    if str(type(thing).__module__).startswith("hypotest") or isinstance(thing, Exception):
        say("repr", repr(thing))
visit()
assert not hypotest.flush(0.5), hypotest.status()
"""
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("status", "--ready"),
    ("check",),
    ("explain", "button", "--user-id", "somebody"),
    ("drain", "--timeout", "0.5"),
    ("drain", TOKEN),
    ("drain", f"--tokn={TOKEN}"),
    ("status", "--token", f"{TOKEN} {TOKEN}"),
)


def answer(exchange: Exchange) -> None:
    """Good answers but for one kind of event."""
    if exchange.asked.method == "GET":
        exchange.reply(body=SETTINGS)
    else:
        exchange.reply(422 if b"poison" in exchange.asked.body else 200)


def command_lines(remains: Remains, *pids: int) -> None:
    remains.commands += [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]


@pytest.fixture(scope="module")
def remains(tmp_path_factory: pytest.TempPathFactory) -> Remains:
    """An application with a leader and forked workers, an agent, every command; a server that quotes and redirects."""
    left = Remains(tmp_path_factory.mktemp("everything"))
    before = os.umask(0)
    try:
        with HttpHost(answer) as host, HttpHost() as other:
            _run_everything(left, host, other)
            left.asked, left.elsewhere = host.asked, other.asked
    finally:
        os.umask(before)
    return left


def _run_everything(left: Remains, host: HttpHost, other: HttpHost) -> None:
    work = left.directory / "work"
    for name in ("work", "home", "temporary"):
        (left.directory / name).mkdir(mode=0o700)
    env = sdk_env(None, left.directory / "state", token=TOKEN, server_url=host.url, hash_ids=SALT, log_level="DEBUG")
    env |= {"HOME": str(left.directory / "home"), "TMPDIR": str(left.directory / "temporary"), "PWD": str(work)}
    source = f"os.chdir({str(work)!r})\nUSER, VISITOR = {USER!r}, {VISITOR!r}\n{APPLICATION}"

    def quote(exchange: Exchange) -> None:
        sent = exchange.asked.headers["Authorization"]
        kinds = (401, 500, 302, 307)
        body = f"{sent} {json.dumps(sent)} is unknown, {TOKEN}".encode()
        exchange.reply(kinds[len(host.asked) % 4], body, Location=f"{other.url}/v1/events", X_Sent=sent)

    agent = [sys.executable, "-m", "hypotest", "agent"]
    log_file = left.directory / "temporary" / "agent.log"
    with Script(source, env) as script, log_file.open("wb") as output:
        script.wait_for("ready", 60)
        process = subprocess.Popen(agent, env=env, cwd=work, stdout=output, stderr=output)
        try:
            wait_for(lambda: b"campaigns" in log_file.read_bytes(), "the agent runs")
            command_lines(left, script.pid, process.pid)
            host.answer = quote
            script.tell()
            script.result(60)
            wait_for(lambda: b"does not serve" in log_file.read_bytes(), "the agent leads, and is refused")
            left.output += [_output_of(command, env, work) for command in COMMANDS]
        finally:
            process.kill()
            process.wait()
        left.output += [script.output(), log_file.read_text()]
    log_file.chmod(0o600)


def _output_of(command: tuple[str, ...], env: dict[str, str], work: Path) -> str:
    whole = [sys.executable, "-m", "hypotest", *command]
    done = subprocess.run(whole, env=env, cwd=work, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode()


def test_everything_ran(remains: Remains) -> None:
    """The run did what it is about: all files are there, every event was sent, all kinds of trouble were told."""
    state = remains.directory / "state"
    for pattern in ("control", "leader.lock", "settings-*.snap", "spool/*.seg", "quarantine/rejected-*.jsonl"):
        assert list(state.glob(f"v1/*/{pattern}")), pattern
    said = "\n".join(remains.output)
    for word in ("leader: pid", "experiment 'broken'", "config() ignores", "Bearer ***", "repr <"):
        assert word in said, word
    assert re.search(r"does not serve, .*: HTTP (401|500|302|307) ", said)
    assert len(remains.output) == len(COMMANDS) + 2
    assert len(remains.asked) > 10


@pytest.mark.parametrize("secret", [TOKEN, SALT])
def test_a_secret_is_nowhere(remains: Remains, secret: str) -> None:
    """Not in a file, a log line, an output, a repr, a command line; at the server in its own header only."""
    assert len(remains.files()) >= 6
    for path in remains.files():
        assert secret.encode() not in path.read_bytes(), path
        assert secret not in str(path)
    for text in remains.output:
        assert secret not in text
    for line in remains.commands:
        assert line
        assert secret.encode() not in line
    for asked in remains.asked:
        assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
        others = {name: value for name, value in asked.headers.items() if name != "Authorization"}
        assert secret not in str(others) + asked.path
        assert secret.encode() not in asked.body


def test_no_other_host_is_asked(remains: Remains) -> None:
    """A redirect leads to no request at all."""
    assert remains.elsewhere == []


@pytest.mark.parametrize("id_", [USER, VISITOR, "ann@example"])
def test_with_hash_ids_no_id_is_anywhere(remains: Remains, id_: str) -> None:
    """With a salt, the ids of people are in no file, no request and no line; the server counts by their HMAC."""
    for path in remains.files():
        assert id_.encode() not in path.read_bytes(), path
    for asked in remains.asked:
        assert id_.encode() not in asked.body
    for text in remains.output:
        assert id_ not in text
    for whole in (USER, VISITOR):
        digest = hmac.new(SALT.encode(), whole.encode(), hashlib.sha256).hexdigest()
        assert any(digest.encode() in asked.body for asked in remains.asked)


def test_modes(remains: Remains) -> None:
    """Whatever the umask, every directory that was made is 0700 and every file 0600."""
    state = remains.directory / "state"
    for path in [state, *state.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_nothing_outside_the_state_directory(remains: Remains) -> None:
    """Neither in the working directory, nor at home, nor among temporary files."""
    for name in ("work", "home", "temporary"):
        assert {path.name for path in (remains.directory / name).iterdir()} <= {"agent.log"}


@pytest.mark.parametrize("salt", ["''", "True", "['salt']"])
def test_an_unusable_salt_lets_no_id_out(salt: str, tmp_path: Path) -> None:
    """Ids are hashed under a salt that nobody knows until there is a good one, which then stays; and a line says so."""
    bad = f"hypotest.config(hash_ids={salt})"
    source = f"{bad}\nkeep('x')\nhypotest.config(hash_ids='good')\n{bad}\nkeep('y')\n"
    with ServerProcess(tmp_path) as server:
        output = run(source + "assert hypotest.flush(10)", sdk_env(server, tmp_path / "state"))
        ids = server.query("SELECT name, user_id FROM events")
    good = hmac.new(b"good", b"u", "sha256").hexdigest()
    assert {user for name, user in ids if name.startswith("y")} == {good}
    (unknown,) = {user for name, user in ids if name.startswith("x")}
    assert re.fullmatch("[0-9a-f]{64}", unknown)
    assert unknown != good
    assert "hash_ids: expected" in output


def test_hash_ids_changes_no_variant(tmp_path: Path) -> None:
    """Variants are decided by the id itself, with a salt and without."""
    source = """
assert hypotest.wait_until_ready(20)
say("variants", "".join(str(hypotest.experiment("button", visitor_id=i)) for i in range(300)))
assert hypotest.flush(20)
"""
    with ServerProcess(tmp_path) as server:
        plain = run(source, sdk_env(server, tmp_path / "plain"))
        hashed = run(source, sdk_env(server, tmp_path / "hashed", hash_ids=SALT))
        stored = {row[0] for row in server.query("SELECT visitor_id FROM events")}
    assert said(plain, "variants") == said(hashed, "variants")
    assert len(stored) == 600


def test_quarantine_is_emptied(tmp_path: Path) -> None:
    """What nothing was added to for as long as events are kept is deleted, also that of a former token."""
    keep = 'keep("kept")\nsay("state", hypotest.status().state_dir)'
    with ServerProcess(tmp_path, tokens=("present", "former")) as server:
        env = sdk_env(server, tmp_path / "state")
        former = env | {"HT_TOKEN": "former", "HT_LEADER": "off"}
        states = [Path(said(run(keep, used), "state")) for used in (env | {"HT_LEADER": "off"}, former)]
        long_ago = time.time() - 8 * 86_400
        for state in states:
            for name in ("rejected-2026-01-01.jsonl", "0-0.seg", "young"):
                path = state / "quarantine" / name
                path.write_text(USER)
                if name != "young":
                    os.utime(path, (long_ago, long_ago))
        with Script("hypotest.wait_until_ready(20)\nsys.stdin.readline()", env) as leader:
            for state in states:
                wait_for(lambda at=state: os.listdir(at / "quarantine") == ["young"], f"{state} is swept")
            leader.tell()
            leader.result()
