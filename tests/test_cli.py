"""The commands, each run as a process of its own, against a real server where one is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypotest import report, statedir
from hypotest.health import Status
from tests.server_process import DEADLINE, ServerProcess, clean_env, wait_for

TOKEN = f"s3cret-{uuid.uuid4().hex}"  # a fallback directory that an earlier run left is of another
NOBODY = 65534
COMMANDS = ("serve", "status", "drain", "agent", "explain", "check", "demo")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    directory = tmp_path / "server"
    directory.mkdir()
    with ServerProcess(directory, tokens=(TOKEN,)) as process:
        yield process


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment that names no server, no token and no state directory."""
    home = tmp_path / "home"
    home.mkdir()
    return {k: v for k, v in clean_env().items() if k not in ("XDG_STATE_HOME", "STATE_DIRECTORY")} | {
        "HOME": str(home)
    }


@pytest.fixture
def env(server: ServerProcess, bare: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return bare | {
        "HT_TOKEN": TOKEN,
        "HT_SERVER_URL": server.url,
        "HT_STATE_DIR": str(tmp_path / "state"),
        "HT_PULL_INTERVAL": "0.3",
        "HT_PULL_JITTER": "0",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hypotest", *arguments]


def completed(env: dict[str, str], ran: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(ran, check=False, env=env, capture_output=True, text=True, timeout=2 * DEADLINE)


def hypotest(env: dict[str, str], *arguments: str, status: int = 0) -> str:
    """Run a command; return what it printed on stdout, or on stderr if it is meant to fail."""
    done = completed(env, command(*arguments))
    assert done.returncode == status, done
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if status and done.stderr:
        assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr or done.stdout


def application(env: dict[str, str], source: str) -> None:
    subprocess.run([sys.executable, "-c", f"import hypotest\n{source}"], env=env, check=True, timeout=2 * DEADLINE)


def leave_pending(env: dict[str, str], count: int, label: str = "e") -> None:
    """Let a process that never campaigns accept events, and end."""
    source = f"for i in range({count}): hypotest.kpi_event(f'{label}-{{i}}', user_id='u')"
    application(env | {"HT_LEADER": "off"}, source)


@contextlib.contextmanager
def agent(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command("agent"), env=env, stdout=output, stderr=output)
    try:
        wait_for(lambda: "hypotest status" not in _ready(env), "the agent leads and has settings")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _ready(env: dict[str, str]) -> str:
    done = completed(env, command("status", "--ready"))
    return "hypotest status" if done.returncode else done.stdout


def as_json(env: dict[str, str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(hypotest(env, "status", "--json"))
    return found


# --- the command line itself


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, bare: dict[str, str]) -> None:
    """The help of each command shows how it is called, and what its exit status means."""
    told = hypotest(bare, name, "--help")
    assert f"usage: hypotest {name}" in told
    assert "Exit status: 0" in told
    assert "; 2 " in told.replace("\n", " ")


def test_help_lists_all_commands_and_imports_neither_requests_nor_starlette(bare: dict[str, str]) -> None:
    """The help names all commands, and imports none of the packages that only some of them need."""
    probe = (
        "import sys\nfrom hypotest.cli import main\ntry:\n main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('requests', 'starlette', 'uvicorn', 'flask', 'filelock') if m in sys.modules])"
    )
    done = completed(bare, [sys.executable, "-c", probe])
    assert all(f"\n    {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]", done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required: COMMAND"),
        (("stats",), "invalid choice"),
        (("status", f"--tokn={TOKEN}"), "unknown option --tokn"),
        (("drain", "--tok", TOKEN), "unknown option --tok"),
        (("status", "--token", f"{TOKEN} {TOKEN}"), "no space"),
        (("drain", "--timeout", "soon"), "number of seconds"),
        (("status", "--server-url", "ftp://x"), "expected https://"),
        (("explain",), "NAME"),
        (("explain", "x", "--tag", "country"), "NAME=VALUE"),
        (("serve", f"--tokn={TOKEN}"), "unknown option --tokn"),
        (("status",), "no token: set HT_TOKEN"),
        (("drain",), "no token"),
        (("agent",), "no token"),
        (("check",), "no token"),
        (("explain", "x"), "no token"),
    ],
)
def test_a_misuse_is_one_line_on_stderr_and_exit_status_2(
    arguments: tuple[str, ...], said: str, bare: dict[str, str]
) -> None:
    """A misuse is told in one line, which never shows a token, and ends with status 2."""
    assert said in hypotest(bare, *arguments, status=2)


def test_a_bad_variable_of_the_environment_is_named_and_the_default_holds(env: dict[str, str]) -> None:
    """A variable with a bad value is named, and the command goes on with the default."""
    assert "HT_SEND_INTERVAL is not used" in hypotest(env | {"HT_SEND_INTERVAL": "often"}, "status")


def test_serve_and_demo_without_their_extra_say_what_to_install(bare: dict[str, str]) -> None:
    """A command whose packages are not installed names the extra that brings them, in one line."""
    probe = (
        "import sys\nclass Missing:\n"
        " def find_spec(self, name, path=None, target=None):\n"
        "  if name in ('uvicorn', 'flask'): raise ModuleNotFoundError(name)\n"
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('uvicorn', 'flask') else found(name, package)\n"
        "from hypotest.cli import main\nsys.exit(main([sys.argv[1]]))"
    )
    for name, extra in (("serve", "server"), ("demo", "demo")):
        done = completed(bare, [sys.executable, "-c", probe, name])
        assert done.returncode == 2
        assert f"pip install 'hypotest-python3-sdk[{extra}]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(env: dict[str, str]) -> None:
    """Whoever reads may go away: the command fails, and says nothing about it."""
    process = subprocess.Popen(
        command("status", "--json"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(DEADLINE) == 1
    process.stderr.close()


def test_the_module_is_the_command(bare: dict[str, str]) -> None:
    """`python -m hypotest` is the same as `hypotest`."""
    assert hypotest(bare, "--version").startswith("hypotest 2.")


# --- status


def test_status_where_nothing_has_run_says_where_it_looked_and_makes_nothing(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Where nothing has run, the status names the directory that it looked in, and no file or directory is made."""
    told = hypotest(env, "status")
    assert "nothing has run here" in told
    assert env["HT_STATE_DIR"] in told
    assert as_json(env)["connected"] is False
    assert "nothing has run here" in hypotest(env, "status", "--ready", status=1)
    assert not Path(env["HT_STATE_DIR"]).exists()
    assert list((tmp_path / "home").iterdir()) == []


def test_status_changes_no_file(env: dict[str, str]) -> None:
    """To look at the state, with or without `--ready`, leaves every file as it was."""
    leave_pending(env, 3)
    before = _tree(Path(env["HT_STATE_DIR"]))
    hypotest(env, "status")
    hypotest(env, "status", "--ready", status=1)
    assert _tree(Path(env["HT_STATE_DIR"])) == before


def _tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _waiting_here(env: dict[str, str]) -> list[int]:
    """How many events wait in each neighbour of this state directory: those in /var/tmp may be of a test beside."""
    neighbours = as_json(env)["neighbours"]
    assert isinstance(neighbours, list)
    return [other["pending"] for other in neighbours if other["path"].startswith(env["HT_STATE_DIR"])]


def test_status_tells_what_is_pending_and_that_nobody_leads(env: dict[str, str]) -> None:
    """Events that nobody delivers yet are in the accounts, and the status says that there never was a leader."""
    leave_pending(env, 7)
    told = hypotest(env, "status")
    assert "7 accepted = 0 delivered + 7 pending + 0 dropped" in told
    assert "NOT READY" in told
    assert "NONE; there never was one" in told
    assert "NOT READY" in hypotest(env, "status", "--ready", status=1)


def test_ready_needs_settings_and_a_leader_that_moves(env: dict[str, str], tmp_path: Path) -> None:
    """A host is ready with settings and a leader at work, and is not while that one is stopped, or once it is dead."""
    with agent(env, tmp_path / "agent.log") as process:
        wait_for(lambda: _ready(env) == "ready\n", "it is ready")
        told = hypotest(env, "status")
        assert "generation 1, confirmed by the server" in told
        # Each look is one at a heartbeat, which a busy machine may hold up for a moment.
        wait_for(lambda: f"pid {process.pid}, alive" in hypotest(env, "status"), "it is seen alive")
        wait_for(lambda: as_json(env)["leader_alive"], "it is seen alive")
        found = as_json(env)
        assert (found["leader_pid"], found["ready"]) == (process.pid, True)
        process.send_signal(signal.SIGSTOP)
        assert "NOT READY, nobody leads" in hypotest(env, "status", "--ready", status=1)
        assert f"pid {process.pid} DOES NOT MOVE" in hypotest(env, "status")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: _ready(env) == "ready\n", "it moves again")
        process.kill()
        process.wait()
        assert "NOT READY" in hypotest(env, "status", "--ready", status=1)


def test_status_shows_the_last_error_of_the_leader(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Why the leader does not reach the server is in the status, until it does."""
    with agent(env, tmp_path / "agent.log"):
        server.kill()
        wait_for(lambda: "ConnectionRefusedError" in str(as_json(env)["last_error"]), "the leader notices")
        wait_for(lambda: "trouble with the server" in hypotest(env, "status"), "its heart is seen to beat")
        told = hypotest(env, "status")
        assert "last error  no answer: ConnectionRefusedError" in told
        server.start()
        wait_for(lambda: as_json(env)["last_error"] == "", "the trouble is over")


def test_status_names_other_namespaces_with_waiting_events(env: dict[str, str]) -> None:
    """Events that wait in another namespace are told separately, with the command that delivers them."""
    leave_pending(env, 2)
    leave_pending(env | {"HT_TOKEN": "the-token-before"}, 5)
    told = hypotest(env, "status")
    assert "elsewhere   5 events of another server, token or state directory wait in " in told
    assert f"HT_TOKEN=THEIR_TOKEN hypotest drain --server-url THEIR_SERVER --state-dir {env['HT_STATE_DIR']}\n" in (
        told + "\n"
    )
    assert "2 accepted" in told
    assert _waiting_here(env) == [5]


def test_status_names_the_server_of_a_neighbour_and_the_command_that_drains_it(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """A neighbour's server is named where it is known, and the command that is shown delivers what waits for it."""
    with agent(env, tmp_path / "agent.log"):
        pass
    leave_pending(env, 3)
    there = env["HT_SERVER_URL"]
    told = hypotest(env, "status", "--server-url", "https://new.example")
    command_line = f"hypotest drain --server-url {there} --state-dir {env['HT_STATE_DIR']}"
    assert f"3 events for {there} wait in " in told
    # Those in /var/tmp may be of a test beside this one.
    assert any(line.endswith(f"to deliver them: HT_TOKEN=THEIR_TOKEN {command_line}") for line in told.splitlines())
    assert hypotest(env, *command_line.split()[1:]).startswith("3 events were pending, none")
    assert server.accounts()["events"] == 3


def test_status_is_no_alarm_where_nothing_is_at_work(env: dict[str, str]) -> None:
    """A host that is not ready because nothing runs or waits there is idle, and its status says so."""
    leave_pending(env, 1)
    hypotest(env, "drain")
    idle = "idle: nobody leads here, and nothing is pending"
    told = hypotest(env, "status")
    assert idle in told
    assert "NONE; the last one, leader 1 since the state directory was made, signed off" in told
    assert hypotest(env, "status", "--ready", status=1).startswith(idle)


def test_status_says_that_a_leader_ended_without_signing_off(env: dict[str, str], server: ServerProcess) -> None:
    """A leader that ended without its exit handlers is told from one that signed off."""
    application(
        env,
        "import os, time\nwhile not (hypotest.status().leader_pid and hypotest.status().ready): time.sleep(0.01)\n"
        "os._exit(0)",
    )
    assert server.polls()
    told = hypotest(env, "status")
    assert "it ended without signing off (killed, or an end without exit handlers), or it is stopped" in told
    assert "NOT READY, nobody leads" in told


# --- state directories that the SDK does not use


def refused(env: dict[str, str], reason: str) -> None:
    """Every command that looks says why it cannot, in one line, and fails."""
    looks = ("status",), ("status", "--ready"), ("status", "--json"), ("drain",), ("explain", "button"), ("agent",)
    for arguments in looks:
        told = hypotest(env, *arguments, status=2)
        assert reason in told
        assert env["HT_STATE_DIR"] in told


@pytest.fixture
def no_fallback(env: dict[str, str]) -> None:
    """Nothing of this server and token is in the directory that is used where none other can be."""
    *_, fallback = statedir.candidates("/x", {})
    assert not Path(statedir.StateDir(fallback, statedir.namespace_of(env["HT_SERVER_URL"], TOKEN)).path).exists()


@pytest.mark.usefixtures("no_fallback")
def test_a_state_directory_that_the_sdk_would_not_use_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    """Each command names the directory and what is wrong with it; the events in it are there once that is put right."""
    leave_pending(env, 3)
    state = Path(env["HT_STATE_DIR"])
    state.chmod(0o777)
    refused(env, "can be written by others (mode 777)")
    state.chmod(0o700)
    (tmp_path / "link").symlink_to(state)
    refused(env | {"HT_STATE_DIR": str(tmp_path / "link")}, "is a symbolic link")
    (tmp_path / "file").write_text("")
    refused(env | {"HT_STATE_DIR": str(tmp_path / "file")}, "is not a directory")
    refused(env | {"HT_STATE_DIR": str(tmp_path / "file" / "below")}, "Not a directory")
    assert "3 events were pending" in hypotest(env, "drain")


def test_a_damaged_control_page_is_told_and_the_agent_makes_it_anew(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """A damaged or missing control page is named by who looks; the agent makes a new one, and loses no event."""
    leave_pending(env, 3)
    (page,) = Path(env["HT_STATE_DIR"]).rglob("control")
    page.write_text("damaged")
    assert f"{page} is damaged" in hypotest(env, "drain", status=2)
    assert f"{page} is damaged" in hypotest(env, "status", status=2)
    page.unlink()
    assert f"{page} is missing" in hypotest(env, "drain", status=2)
    with agent(env, tmp_path / "agent.log"):
        wait_for(lambda: server.accounts()["events"] == 3, "the agent delivers")


@pytest.fixture
def misled(env: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose state directory is a file, so that the application works in another one."""
    (tmp_path / "file").write_text("")
    yield env | {"HT_STATE_DIR": str(tmp_path / "file")}
    *_, fallback = statedir.candidates("/x", {})
    namespace = statedir.namespace_of(env["HT_SERVER_URL"], TOKEN)
    shutil.rmtree(statedir.StateDir(fallback, namespace).path)


def test_commands_look_where_the_application_works(misled: dict[str, str], tmp_path: Path) -> None:
    """Where the directory that was named cannot be used, status and drain find the one that the application took."""
    leave_pending(misled, 3)
    told = hypotest(misled, "status")
    assert "3 accepted" in told
    assert f"passed over {tmp_path}/file is not a directory" in told
    assert as_json(misled)["passed_over"] == {f"{tmp_path}/file": f"{tmp_path}/file is not a directory"}
    assert "is not a directory" in hypotest(misled, "agent", status=2)
    drained, passed = hypotest(misled, "drain").splitlines()[:2]
    assert "3 events were pending, none of them is left" in drained
    assert passed == f"passed over: {tmp_path}/file is not a directory"


def test_the_agent_ends_when_its_state_directory_cannot_be_used_any_more(env: dict[str, str], tmp_path: Path) -> None:
    """The agent does not go on in another directory than the one named: it ends with status 2 and says why."""
    state, log = Path(env["HT_STATE_DIR"]), tmp_path / "agent.log"
    with agent(env, log) as process:
        state.rename(tmp_path / "gone")
        state.write_text("")
        assert process.wait(DEADLINE) == 2
    assert f"hypotest agent: the state directory cannot be used: {state} is not a directory" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_options_beat_the_environment(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Token, server and state directory that are given as options hold, whatever the environment says."""
    leave_pending(env, 4)
    wrong = env | {"HT_TOKEN": "another", "HT_SERVER_URL": "https://else.example", "HT_STATE_DIR": str(tmp_path / "x")}
    given = ("--token", TOKEN, "--server-url", server.url, "--state-dir", env["HT_STATE_DIR"])
    assert "4 accepted" in hypotest(wrong, "status", *given)


def test_status_as_text_says_what_is_stale_refused_and_dropped() -> None:
    """The text says that settings are stale, what was refused and why, and how many events were dropped."""
    status = Status(
        connected=True,
        ready=True,
        leader_pid=7,
        leaders=2,
        generation=3,
        settings_age=500.0,
        accepted=1500,
        delivered=1496,
        refused={"spool_full": 10, "disk": 2},
        dropped={"age": 3},
        pending=1,
        spool_bytes=5 << 20,
        leader_config={"pull_interval": 30.0, "pull_jitter": 5.0, "max_spool_bytes": 512 << 20},
    )
    told = report.status_text(status, [], alive=True)
    assert "1,500 accepted = 1,496 delivered + 1 pending + 3 dropped" in told
    assert "12: spool_full 10, disk 2" in told
    assert "confirmed by the server 8 min ago (STALE)" in told
    assert "spool       5 MiB\n" in told


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (119, "119 s"), (7100, "118 min"), (1e6, "12 days")])
def test_an_age_has_the_unit_people_use(seconds: float, said: str) -> None:
    """A duration is told in the unit that people use for one of its length."""
    assert report.age(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1 << 30, "1 GiB")])
def test_a_size_has_three_digits(count: int, said: str) -> None:
    """A size is told in the unit in which three digits are enough."""
    assert report.size(count) == said


@pytest.mark.parametrize(
    ("fields", "passed", "said"),
    [
        ({}, (), "ready"),
        ({"refusing": "disk"}, (), "ready, but EVENTS ARE REFUSED: disk"),
        ({}, ("/x is a symbolic link",), "ready, but the directory that was named is passed over"),
        ({"last_error": "HTTP 500"}, (), "ready, but trouble with the server: see the last error"),
        (
            {"ready": False, "last_error": "HTTP 401"},
            (),
            "NOT READY: there are no settings yet, every answer is control: ",
        ),
    ],
)
def test_the_verdict_names_the_trouble(fields: dict[str, Any], passed: tuple[str, ...], said: str) -> None:
    """What an operator has to know stands in the one line that says whether all is well."""
    status = Status(**({"connected": True, "ready": True, "leader_pid": 7} | fields))
    assert report.verdict(status, alive=True, passed=passed).startswith(said)


# --- drain


def test_drain_where_there_is_no_state_fails_and_makes_nothing(env: dict[str, str]) -> None:
    """A mistyped token, server or directory is no success: drain fails, makes nothing, tells what waits elsewhere."""
    told = hypotest(env, "drain", status=2)
    assert f"no state of {env['HT_SERVER_URL']} and this token in {env['HT_STATE_DIR']}" in told
    assert not Path(env["HT_STATE_DIR"]).exists()
    leave_pending(env, 4)
    for mistyped in (("--token", "mistyped"), ("--server-url", "https://mistyped.example")):
        told = hypotest(env, "drain", *mistyped, status=2)
        assert "no state of " in told
        waiting = re.search(r"([\d,]+) events of other servers, tokens or state directories wait in ", told)
        assert waiting is not None, told
        assert int(waiting[1].replace(",", "")) >= 4, "what other tests left in /var/tmp counts, too"
    assert "no state of " in hypotest(env, "drain", "--state-dir", env["HT_STATE_DIR"] + "x", status=2)


def test_drain_says_that_events_wait_elsewhere(env: dict[str, str]) -> None:
    """To have delivered everything of one token does not hide what waits for another."""
    leave_pending(env, 2)
    leave_pending(env | {"HT_TOKEN": "the-token-before"}, 5)
    drained, elsewhere = hypotest(env, "drain").splitlines()
    assert "2 events were pending, none of them is left" in drained
    waiting, _, where = elsewhere.partition(" events of other servers, tokens or state directories wait in ")
    assert int(waiting.replace(",", "")) >= 5  # those in /var/tmp may be of a test beside this one
    assert env["HT_STATE_DIR"] in where
    assert hypotest(env, "drain").splitlines()[0] == "nothing is pending"


def test_drain_leads_itself_whatever_ht_leader_says(env: dict[str, str], server: ServerProcess) -> None:
    """Where nobody leads, drain does, also under HT_LEADER=off, and delivers each event once."""
    leave_pending(env, 300)
    assert "300 events were pending, none of them is left" in hypotest(env | {"HT_LEADER": "off"}, "drain")
    assert server.accounts()["events"] == 300
    assert len(set(server.event_ids())) == 300
    assert "nothing is pending" in hypotest(env, "drain")


def test_drain_kicks_a_live_leader(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Where somebody leads, drain has it send at once, and takes nothing over."""
    with agent(env | {"HT_SEND_INTERVAL": "3600"}, tmp_path / "agent.log") as process:
        leave_pending(env, 50)
        assert "none of them is left" in hypotest(env, "drain")
        assert as_json(env)["leader_pid"] == process.pid
        assert as_json(env)["leaders"] == 1
    assert server.accounts()["events"] == 50


def test_drain_tells_how_many_are_left_and_why(env: dict[str, str], server: ServerProcess) -> None:
    """What cannot be delivered in time is counted, with the reason, and is not lost."""
    leave_pending(env, 20)
    server.kill()
    told = hypotest(env, "drain", "--timeout", "10", status=1)
    assert "20 of 20 events are left after 10 s: no answer: ConnectionRefusedError" in told
    server.start()
    hypotest(env, "drain")
    assert server.accounts()["events"] == 20


def test_drain_says_that_the_leader_is_stopped(env: dict[str, str], tmp_path: Path) -> None:
    """A leader that is stopped keeps its lock, and drain names it as the reason."""
    with agent(env, tmp_path / "agent.log") as process:
        process.send_signal(signal.SIGSTOP)
        leave_pending(env, 5)
        told = hypotest(env, "drain", "--timeout", "1", status=1)
        assert f"5 of 5 events are left after 1 s: the leader (pid {process.pid}) holds its lock" in told


def test_drain_empties_the_namespace_of_an_old_token(env: dict[str, str], server: ServerProcess) -> None:
    """Events of a token that was replaced are delivered under it, as soon as the server accepts it once more."""
    old = "rotated-away"
    leave_pending(env | {"HT_TOKEN": old}, 6)
    told = hypotest(env, "drain", "--token", old, "--timeout", "10", status=1)
    assert "6 of 6" in told
    assert "401" in told
    server.tokens = (TOKEN, old)
    server.restart()
    assert "6 events were pending" in hypotest(env, "drain", "--token", old)
    assert server.accounts(old)["events"] == 6
    assert server.accounts()["events"] == 0


# --- agent


def test_the_agent_delivers_what_workers_accept_and_ends_well(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """The agent delivers for workers that never lead, and ends with status 0 when it is told to."""
    log = tmp_path / "agent.log"
    for number in (signal.SIGTERM, signal.SIGINT):
        with agent(env | {"HT_LEADER": "off", "HT_SEND_INTERVAL": "0.1"}, log) as process:
            before = server.accounts()["events"]
            leave_pending(env, 30)
            wait_for(lambda before=before: server.accounts()["events"] == before + 30, "the agent delivers")
            process.send_signal(number)
            assert process.wait(DEADLINE) == 0
        told = log.read_text()
        assert told.count("agent: pid ") == 2
        assert "Traceback" not in told
        assert TOKEN not in told


def test_the_agent_moves_on_when_its_state_directory_is_deleted(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """Where the state directory disappears, the agent makes it anew, and leads and delivers in it."""
    state = Path(env["HT_STATE_DIR"])
    with agent(env | {"HT_SEND_INTERVAL": "0.1"}, tmp_path / "agent.log"):
        state.rename(tmp_path / "gone")
        wait_for(lambda: _ready(env) == "ready\n", "the agent leads in a new directory")
        leave_pending(env, 3)
        wait_for(lambda: server.accounts()["events"] == 3, "and delivers")


def test_drain_agent_and_check_do_not_connect_where_it_is_forbidden(env: dict[str, str]) -> None:
    """Under HT_CONNECT_TO_SERVER=false the commands that need the server say so, and make nothing."""
    offline = env | {"HT_CONNECT_TO_SERVER": "false"}
    for name in ("drain", "agent", "check"):
        assert "HT_CONNECT_TO_SERVER is false" in hypotest(offline, name, status=2)
    assert not Path(env["HT_STATE_DIR"]).exists()


# --- explain


@pytest.fixture
def informed(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a host that has settings from its last run; server and leader are gone."""
    with agent(env, tmp_path / "agent.log"):
        pass
    return env | {"HT_SERVER_URL": env["HT_SERVER_URL"]}


def test_explain_tells_condition_hash_threshold_and_variant(informed: dict[str, str], server: ServerProcess) -> None:
    """Each step of a decision is shown, without the server, from the settings that the host has."""
    server.kill()
    told = hypotest(informed, "explain", "button", "--user-id", "u1")
    assert "condition   True  ->  True" in told
    assert "hash        937582890 of 4294967296, as a share 0.2182" in told
    assert "control      0.5    hashes below 2147913145  <- the hash" in told
    assert "decided by  hash\nvariant     control\nevent       visit, variant control\n" in told
    assert re.search(r"settings generation 1, from \d+ s ago", told)
    told = hypotest(informed, "explain", "button", "--user-id", "u1", "--override", "b")
    assert "decided by  override\nvariant     b\n" in told
    assert "decided by  no id" in hypotest(informed, "explain", "button")
    assert "both user_id and visitor_id" in hypotest(
        informed, "explain", "button", "--user-id", "u1", "--visitor-id", "v1"
    )


def test_explain_agrees_with_the_application_for_every_kind_of_tag(
    env: dict[str, str], server: ServerProcess, tmp_path: Path
) -> None:
    """A tag given on the command line has the type that the application's own would have."""
    names = ["n", "flag", "nothing", "text", "digits", "broken", "nan"]
    condition = (
        "n == 5 and flag is not None and flag == True and nothing is None and text == 'x y'"
        " and digits == '5' and broken == '[1' and nan == 'NaN'"
    )
    server.set_experiments({"typed": {"variants": {"b": 1.0}, "condition": condition, "tags": names}})
    tags = ["n=5", "flag=true", "nothing=null", "text=x y", 'digits="5"', "broken=[1", "nan=NaN"]
    with agent(env, tmp_path / "agent.log"):
        pass
    given = [word for tag in tags for word in ("--tag", tag)]
    told = hypotest(env, "explain", "typed", "--user-id", "u", *given)
    assert "->  True" in told
    assert "decided by  hash\nvariant     b\n" in told
    told = hypotest(env, "explain", "typed", "--user-id", "u", *given, "--tag", "n=6")
    assert "->  False" in told
    assert "decided by  condition\nvariant     control\nevent       none: the condition keeps" in told
    told = hypotest(env, "explain", "typed", "--user-id", "u")
    assert "error: condition_to_enter_experiment failed" in told
    assert "ht_sdk_error" in told


def test_explain_leaves_no_event_and_no_trace(informed: dict[str, str], server: ServerProcess) -> None:
    """To explain a decision is no exposure: no event, no file and no request comes of it."""
    before = _tree(Path(informed["HT_STATE_DIR"])), server.polls()
    hypotest(informed, "explain", "button", "--user-id", "u1")
    assert (_tree(Path(informed["HT_STATE_DIR"])), server.polls()) == before
    assert server.accounts()["events"] == 0


def test_explain_of_an_unknown_experiment_lists_near_names(informed: dict[str, str]) -> None:
    """A name that no experiment has is answered with those near it, or with all there are."""
    assert "no experiment is called 'buttn'; near it: button" in hypotest(informed, "explain", "buttn", status=1)
    assert "there are button, germans" in hypotest(informed, "explain", "zzz", status=1)


def test_explain_without_settings_says_so(env: dict[str, str]) -> None:
    """Without settings nothing can be explained, and the command says whether anything has run at all."""
    assert "nothing has run here" in hypotest(env, "explain", "button", "--user-id", "u", status=1)
    leave_pending(env, 1)
    assert "no settings have arrived yet" in hypotest(env, "explain", "button", "--user-id", "u", status=1)


# --- check


def test_check_passes_good_settings(env: dict[str, str]) -> None:
    """Settings that are all accepted give status 0, and no state is made to check them."""
    assert hypotest(env, "check").startswith("2 experiments: all accepted")
    assert not Path(env["HT_STATE_DIR"]).exists()


def test_check_lists_every_condition_and_field_it_would_not_accept(env: dict[str, str], tmp_path: Path) -> None:
    """Every fault of every experiment is listed by its field; a mere doubt is a note; what is fine is not mentioned."""
    good = {
        "test_id": 1,
        "test_state": "running",
        "test_active": True,
        "variants_distribution": {"control": 0.5, "b": 0.5},
        "condition_to_enter_test": "True",
    }
    tests = {
        "fine": good,
        "evil": good | {"condition_to_enter_test": "__import__('os').system('id')"},
        "shares": good | {"variants_distribution": {"control": "half"}, "test_active": "yes"},
        "doubtful": good | {"variants_distribution": {"control": 0.9, "b": 0.9}},
    }
    with _canned(tmp_path, json.dumps({"tests": tests})) as url:
        told = hypotest(env | {"HT_SERVER_URL": url}, "check", status=1)
    assert "experiment 'evil', condition_to_enter_test: " in told
    assert "experiment 'shares', variants_distribution: " in told
    assert "experiment 'shares', test_active: " in told
    assert "note: experiment 'doubtful', variants_distribution: the shares add up to 1.8" in told
    assert "4 experiments: 2 that version 2 does not accept" in told
    assert "'fine'" not in told


@contextlib.contextmanager
def _canned(directory: Path, body: str) -> Iterator[str]:
    """A server that gives one answer: ours refuses to serve what `check` is made to find."""
    source = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        " def do_GET(self):\n"
        "  body = open(sys.argv[1], 'rb').read()\n"
        "  self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n"
        "  self.wfile.write(body)\n"
        " def log_message(self, *args): pass\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()\n"
    )
    answer = directory / "answer"
    answer.write_text(body)
    with subprocess.Popen([sys.executable, "-c", source, str(answer)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def test_check_that_cannot_fetch_exits_with_2(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Settings that cannot be had are told from settings that are not accepted, by status 2."""
    assert "401" in hypotest(env | {"HT_TOKEN": "wrong"}, "check", status=2)
    with _canned(tmp_path, "<html>Please log in</html>") as url:
        assert "not JSON" in hypotest(env | {"HT_SERVER_URL": url}, "check", status=2)
    server.kill()
    assert "ConnectionRefusedError" in hypotest(env, "check", status=2)


# --- serve


def test_serve_is_the_server(bare: dict[str, str], tmp_path: Path) -> None:
    """`hypotest serve` says where it listens, and ends with status 0 at SIGTERM."""
    ran = command("serve", "--port", "0", "--db", str(tmp_path / "e.db"))
    process = subprocess.Popen(
        ran, env=bare | {"HT_TOKEN": TOKEN}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
@pytest.mark.usefixtures("no_fallback")
def test_another_user_than_the_application_s_is_told_so_and_no_directory_is_made(
    env: dict[str, str], shared: Path
) -> None:
    """A command of another user than the application's says whose the directory is, and takes no other instead."""
    leave_pending(env, 1)
    state = Path(env["HT_STATE_DIR"])
    for path in [state, *state.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    refused(env, f"{state} belongs to user {NOBODY} (")
    refused(env, "not to 0 (root)")
    below = shared / "closed" / "state"
    state.chmod(0o700)
    below.parent.mkdir(mode=0o700)
    refused_to_nobody = f"{below.parent} belongs to user 0 (root), we are {NOBODY} ("
    source = (  # the imports first: the interpreter may be where only its owner can read
        "import os, sys, hypotest.leadership, hypotest.commands\nfrom hypotest.cli import main\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\nsys.exit(main(sys.argv[1:]))"
    )
    for arguments in (("status",), ("status", "--ready"), ("status", "--json"), ("drain",), ("agent",)):
        done = completed(env | {"HT_STATE_DIR": str(below)}, [sys.executable, "-c", source, *arguments])
        assert done.returncode == 2, done
        assert len(done.stderr.splitlines()) == 1, done
        assert refused_to_nobody in done.stderr


def test_a_neighbour_that_has_a_leader_is_no_alarm(env: dict[str, str], server: ServerProcess, tmp_path: Path) -> None:
    """Two applications on one host: what waits for the other's leader to send it is that one's affair."""
    theirs = env | {"HT_TOKEN": "another"}
    leave_pending(theirs, 3)
    assert _waiting_here(env) == [3]
    with (tmp_path / "agent.log").open("wb") as log:
        leads = subprocess.Popen(command("agent"), env=theirs, stdout=log, stderr=log)
    try:  # its token is unknown to the server: they go on waiting
        wait_for(lambda: "does not serve" in (tmp_path / "agent.log").read_text(), "it leads")
        wait_for(lambda: _waiting_here(env) == [], "its heart is seen to beat")
    finally:
        leads.kill()
        leads.wait()


@pytest.mark.parametrize("arguments", ["status", "check"])
def test_a_process_without_stdout(env: dict[str, str], arguments: str) -> None:
    """Nobody reads, and nobody is shown a traceback."""
    script = ["sh", "-c", f'"$0" -m hypotest {arguments} >&-', sys.executable]
    done = completed(env, script)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(informed: dict[str, str], encoding: str) -> None:
    """A name of the application's own language, on a terminal that has no letters for it."""
    env = informed | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command("explain", "größe→"), check=False, env=env, capture_output=True, timeout=2 * DEADLINE)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_an_error_of_the_system_is_one_line(env: dict[str, str]) -> None:
    """An output that cannot be written, as on a full disk, is one line and status 2."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("status", "--json"),
            check=False,
            env={name: value for name, value in env.items() if name != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("hypotest status: No space left on device")
    assert "Traceback" not in done.stderr
