"""What the application sees of bad input: control or nothing, one log line, no exception, and the event kept."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Script, expect_each_once, goal_counts, run, said, sdk_env
from tests.server_process import ServerProcess, wait_for

READY = "assert hypotest.wait_until_ready(10)\n"
RAISES = """class Raises:
    def __str__(self):
        raise RuntimeError("no str")
"""
FLUSH = "\nassert hypotest.flush(10), hypotest.status()\n"
REPEAT = 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def lines(output: str, level: str) -> list[str]:
    """The log lines of a level."""
    return [line for line in output.splitlines() if f" {level}" in line]


def visits(server: ServerProcess) -> list[tuple[str, str | None, str | None, str | None]]:
    """(variant, ht_sdk_error, user_id, visitor_id) of every exposure."""
    rows = server.query("SELECT variant, error, user_id, visitor_id FROM events WHERE type = 'visit' ORDER BY seq")
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def test_no_token(tmp_path: Path) -> None:
    """Without a token every answer is control, refusals are counted, and one warning says what to do."""
    source = f"""
for _ in range({REPEAT}):
    assert hypotest.experiment("button", user_id="u").is_control
    hypotest.kpi_event("k", user_id="u")
assert not hypotest.wait_until_ready(0.1)
status = hypotest.status()
assert status.refusing == "no_token" and status.refused == {{"no_token": 2 * {REPEAT}}}, status
"""
    warnings = lines(run(source, sdk_env(None, tmp_path / "state")), "WARNING")
    assert len(warnings) == 1
    assert "HT_TOKEN" in warnings[0]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("how", ["HT_SERVER_URL", "config"])
def test_a_server_url_that_cannot_be_one(tmp_path: Path, how: str) -> None:
    """The token goes nowhere, least of all to the default's server: control, refusals by count, and one error."""
    before = 'hypotest.config(server_url="127.0.0.1:8000")' if how == "config" else ""
    source = f"""{before}
for _ in range({REPEAT}):
    assert hypotest.experiment("button", user_id="u").is_control
assert not hypotest.wait_until_ready(0.1)
status = hypotest.status()
assert status.refusing == "no_server" and status.refused == {{"no_server": {REPEAT}}}, status
hypotest.config(server_url="http://127.0.0.1:9")
assert hypotest.status().refusing == ""
"""
    env = sdk_env(None, tmp_path / "state", token="token") | ({"HT_SERVER_URL": "localhost"} if not before else {})
    assert sum("no server" in line for line in lines(run(source, env), "ERROR")) == 1


@pytest.mark.parametrize("timeout", ["float('nan')", "'soon'", "[]", "-1"])
def test_odd_timeouts(server: ServerProcess, tmp_path: Path, timeout: str) -> None:
    """They count as none."""
    source = f"hypotest.flush({timeout}); hypotest.wait_until_ready({timeout})"
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert "failed" not in output
    assert ("a timeout is a number" in output) == (timeout != "-1")


def test_odd_events(server: ServerProcess, tmp_path: Path) -> None:
    """What is kept in spite of something wrong with it is said, too."""
    source = f"{READY}hypotest.kpi_event('', user_id='u'); hypotest.kpi_event('k', user_id='u', tags='de'){FLUSH}"
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert len(server.event_ids()) == 2
    assert "the name of a KPI event is a text: ''" in output
    assert "tags are a mapping: a str is left out" in output


def test_an_exit_that_nobody_waits_for(tmp_path: Path) -> None:
    """Ctrl-C while flush_events waits: the line that says what was not delivered, and no traceback."""
    env = sdk_env(None, tmp_path / "state", token="t", server_url="http://127.0.0.1:9", flush_events=True)
    env["HT_FLUSH_TIMEOUT"] = "600"
    # An ignored SIGINT, as of a job in the background, would be inherited.
    source = """
signal.signal(signal.SIGINT, signal.default_int_handler)
keep("x")
from hypotest.client import Client
flush = Client.flush
def waits(*arguments, **more):
    say("waits")
    return flush(*arguments, **more)
Client.flush = waits
"""
    with Script(source, env) as script:
        script.wait_for("waits")
        wait_for(lambda: "does not serve" in script.output(), "the leader tries")
        os.kill(script.pid, signal.SIGINT)
        output = script.result()
    assert "exit: events of this process are not delivered yet" in output
    assert "Traceback" not in output


def test_a_wrong_token(server: ServerProcess, tmp_path: Path) -> None:
    """With a token the server refuses, events are kept, the status says so, and one line in the log does."""
    env = sdk_env(server, tmp_path / "state", token="wrong-token")
    source = f"""
for _ in range({REPEAT}):
    assert hypotest.experiment("button", user_id="u").is_control
until(lambda: "401" in hypotest.status().last_error, "the error")
status = hypotest.status()
assert status.pending == {REPEAT} and not status.ready
"""
    output = run(source, env)
    assert len([line for line in lines(output, "WARNING") if "HTTP 401" in line]) == 1
    assert "wrong-token" not in output
    assert server.polls() <= 2


def test_an_unknown_experiment(server: ServerProcess, tmp_path: Path) -> None:
    """An experiment nobody defined gives control, an event that says why, and one line."""
    source = f"""{READY}
for _ in range({REPEAT}):
    assert hypotest.experiment("unheard of", user_id="u").is_control
{FLUSH}"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert visits(server) == [("control", "experiment not defined - fallback to control", "u", None)] * REPEAT
    assert len(lines(output, "WARNING")) == 1
    assert "'unheard of'" in output


def test_the_first_call_comes_before_the_settings(server: ServerProcess, tmp_path: Path) -> None:
    """The first call answers control at once and records that there were no settings; later ones have them."""
    source = f"""
assert hypotest.experiment("button", visitor_id="first").is_control
{READY}
hypotest.experiment("button", visitor_id="second")
{FLUSH}"""
    run(source, sdk_env(server, tmp_path / "state"))
    (first, second) = visits(server)
    assert first == ("control", "did not retrieved the settings in time", None, "first")
    assert second[1] is None


def test_settings_of_the_last_run_serve_at_once(server: ServerProcess, tmp_path: Path) -> None:
    """After a restart the first call has the last settings, server up or not."""
    env = sdk_env(server, tmp_path / "state")
    answer = """
answers = [hypotest.experiment("button", visitor_id=f"v{i}", report_event=False).variant for i in range(20)]
say("answer", answers)
"""
    before = run(READY + answer, env).split("answer")[1]
    server.stop()
    after = run("assert hypotest.wait_until_ready(0)\n" + answer, env).split("answer")[1]
    assert before.splitlines()[0] == after.splitlines()[0]
    assert "'b'" in before


IDS = {
    "7": ("7", None),
    "None": (None, "user_id or visitor_id must be sent"),
    "''": (None, "user_id or visitor_id must be sent"),
    "b'raw'": ("b'raw'", None),
    "Raises()": (None, "user_id or visitor_id must be sent"),
    "chr(0xD800)": ("?", "the id is not valid Unicode"),
    "'x' * 5000": ("x" * 5000, None),
}


@pytest.mark.parametrize("expression", IDS)
def test_ids_of_every_kind(server: ServerProcess, tmp_path: Path, expression: str) -> None:
    """An id that is no str becomes one; one that cannot be used gives control, an event that says so, and one line."""
    source = f"""{READY}{RAISES}
for _ in range(3):
    variant = hypotest.experiment("button", user_id={expression})
    hypotest.kpi_event("k", user_id={expression})
    hypotest.match_user_visitor({expression}, "v")
assert {IDS[expression][1] is None} or variant.is_control
{FLUSH}"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    recorded, error = IDS[expression]
    for _, found, user, _ in visits(server):
        assert (found, user or None) == (error, recorded)
    assert len(visits(server)) == goal_counts(server)["k"] == 3
    assert len(server.query("SELECT 1 FROM events WHERE type = 'match_user_visitor'")) == 3
    if error:
        assert sum(error in line for line in lines(output, "WARNING")) == 1
    else:
        assert not lines(output, "WARNING")


NAMES = {
    "7": "7",
    "None": "None",
    "['button']": "['button']",
    "b'button'": "b'button'",
    "Text('button')": "button",
    "Text('none')": "none",
    "Member.BUTTON": "button",
    "Raises()": "<Raises without a str>",
}


@pytest.mark.parametrize("expression", NAMES)
def test_names_that_are_no_str(server: ServerProcess, tmp_path: Path, expression: str) -> None:
    """A name that is no str becomes one; a str of a class of its own is what it says."""
    source = f"""{READY}{RAISES}
import enum
class Text(str):
    def __str__(self):
        return self
class Member(str, enum.Enum):
    BUTTON = "button"
for _ in range(2):
    say("answer", hypotest.experiment({expression}, user_id="u", override="b").variant)
{FLUSH}"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    name = NAMES[expression]
    assert server.query("SELECT DISTINCT name FROM events") == [(name,)]
    assert len(visits(server)) == 2
    assert said(output, "answer") == ("b" if name == "button" else "control")


TAGS = {
    "no dict": "'a string'",
    "a list": "[1, 2]",
    "bytes": "{'t': b'raw', 'kept': 1}",
    "a datetime": "{'t': datetime.datetime(2026, 1, 2), 'kept': 1}",
    "NaN": "{'t': float('nan'), 'kept': 1}",
    "lone surrogates": "{'t': chr(0xD800), chr(0xDFFF): 1, 'kept': 1}",
    "2**70": "{'t': 2**70, 'kept': 1}",
    "a cycle": "cycle",
    "keys that are no str": "{1: 2, None: 3, ('a',): 4, 'kept': 1}",
    "a str() that raises": "{'t': Raises(), 'kept': 1}",
    "deep": "deep",
    "a dict that raises": "Hostile(kept=1)",
}


@pytest.mark.parametrize("case", TAGS)
def test_tags_of_every_kind(server: ServerProcess, tmp_path: Path, case: str) -> None:
    """Whatever the tags hold, the answer comes, the event is kept and the caller's tags stay as they were."""
    source = f"""{READY}{RAISES}
import copy, datetime
class Hostile(dict):
    def items(self):
        raise RuntimeError("no items")
cycle = {{"kept": 1}}
cycle["t"] = cycle
deep = {{"kept": 1}}
for _ in range(100_000):
    deep = {{"t": deep}}
tags = {TAGS[case]}
keys = list(tags) if isinstance(tags, dict) else None
hypotest.experiment("button", visitor_id="v", tags=tags)
hypotest.experiment("germans", visitor_id="v", tags=tags)
hypotest.kpi_event("k", visitor_id="v", tags=tags)
hypotest.match_user_visitor("u", "v", tags=tags)
assert keys is None or list(tags) == keys
{FLUSH}
del deep
os._exit(0)
"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert "Traceback" not in output
    rows = server.query("SELECT type, tags FROM events ORDER BY seq")
    assert [row[0] for row in rows] == ["visit", "visit", "goal", "match_user_visitor"]
    for _, tags in rows:
        found = json.loads(tags)
        assert found["sdk_type"] == "python3"
        assert found.get("kept") == 1 or "'kept'" not in TAGS[case]


def test_an_event_over_the_limit(server: ServerProcess, tmp_path: Path) -> None:
    """10 MB of tags: the answer comes, the event is refused and counted, one line says so, and the next is kept."""
    source = f"""{READY}
for _ in range(3):
    assert hypotest.experiment("button", visitor_id="v", tags={{"t": "x" * 10_000_000}}).variant
keep("after")
assert hypotest.status().refused == {{"too_large": 3}}, hypotest.status()
{FLUSH}"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    expect_each_once(server, "after")
    assert len(lines(output, "ERROR")) == 1


def test_an_override_that_is_no_variant(server: ServerProcess, tmp_path: Path) -> None:
    """Control, an event that says so, and one line; a true variant is answered and tagged."""
    source = f"""{READY}
for _ in range({REPEAT}):
    assert hypotest.experiment("button", visitor_id="v", override="zz").is_control
assert hypotest.experiment("button", visitor_id="v", override="b").is_b
{FLUSH}"""
    output = run(source, sdk_env(server, tmp_path / "state"))
    assert visits(server)[:-1] == [("control", "override is not a variant of this experiment", None, "v")] * REPEAT
    assert len(lines(output, "WARNING")) == 1
    assert "local_override_b" in server.query("SELECT tags FROM events ORDER BY seq DESC LIMIT 1")[0][0]


def test_config_with_wrong_values(server: ServerProcess, tmp_path: Path) -> None:
    """A value that cannot be used is one warning each, and the previous one stands."""
    source = f"""
for _ in range(3):
    hypotest.config(pull_interval="soon", pull_jitter=-1, log_level="LOUD", flush_events="maybe", no_such=1,
                    server_url="ftp://x", max_spool_bytes=[], token=b"bytes-token", leader=object())
{READY}
assert hypotest.status().leader_config["pull_interval"] == 0.3
"""
    warnings = lines(run(source, sdk_env(server, tmp_path / "state")), "WARNING")
    assert len(warnings) == 9
    assert not any("bytes-token" in line for line in warnings)


def test_a_bad_environment(server: ServerProcess, tmp_path: Path) -> None:
    """A variable that cannot be used is one warning, and the default stands."""
    env = sdk_env(server, tmp_path / "state", pull_interval="soon", log_level="LOUD")
    output = run(READY + 'assert hypotest.status().leader_config["pull_interval"] == 30', env)
    assert len(lines(output, "WARNING")) == 2


def test_the_name_of_a_kpi_event_that_is_no_str(server: ServerProcess, tmp_path: Path) -> None:
    """It becomes one, and the event is kept."""
    run(f"{READY}hypotest.kpi_event(None, user_id='u'){FLUSH}", sdk_env(server, tmp_path / "state"))
    assert server.query("SELECT name FROM events") == [("None",)]


def test_two_tokens_do_not_meet(tmp_path: Path) -> None:
    """Two tokens on one host have their own leader, settings and events."""
    with ServerProcess(tmp_path, tokens=("one", "two")) as server:
        env = [sdk_env(server, tmp_path / "state", token=token) for token in ("one", "two")]
        run('keep("of one")', env[0] | {"HT_LEADER": "off"})
        with Script(f'keep("of two")\n{READY}{FLUSH}say("flushed")\nsys.stdin.readline()', env[1]) as other:
            other.wait_for("flushed")
            names = server.query("SELECT DISTINCT name FROM events")
            assert {name.split("-")[0] for (name,) in names} == {"of two"}
            wait_for(lambda: "of another token" in other.output(), "the leader reports what is left of the other")
        run("assert hypotest.flush(10)", env[0])
        assert server.accounts("one")["events"] == server.accounts("two")["events"] == 20


def test_a_rotated_token_leaves_no_event_behind_silently(tmp_path: Path) -> None:
    """After config(token=...) events go out under the new token; what waits under the old one is reported."""
    with ServerProcess(tmp_path, tokens=("new",)) as server:
        source = f"""
keep("old")
assert not hypotest.flush(0.5)
hypotest.config(token="new")
keep("new")
{FLUSH}say("flushed")
sys.stdin.readline()
"""
        with Script(source, sdk_env(server, tmp_path / "state", token="old")) as script:
            script.wait_for("flushed")
            wait_for(lambda: "20 events of another token" in script.output(), "a line about the old one's events")
        expect_each_once(server, "new")


def test_two_applications_share_a_leader(server: ServerProcess, tmp_path: Path) -> None:
    """Two processes that know nothing of each other, with one server, token and directory, have one leader."""
    env = sdk_env(server, tmp_path / "state")
    source = f'{READY}say("leads", hypotest.status().leader_pid)\nsys.stdin.readline()'
    with Script(source, env) as one, Script(source, env) as two:
        assert one.wait_for("leads") == two.wait_for("leads")


def test_the_applications_logging_is_left_alone(server: ServerProcess, tmp_path: Path) -> None:
    """Where the application configured the logger `hypotest`, its handler gets the lines and stdout does not."""
    source = f"""
import io, logging
stream = io.StringIO()
logging.getLogger("hypotest").addHandler(logging.StreamHandler(stream))
logging.getLogger("hypotest").setLevel("WARNING")
{READY}
hypotest.experiment("unheard of", user_id="u")
assert "unheard of" in stream.getvalue() and "leader" not in stream.getvalue()
"""
    assert run(source, sdk_env(server, tmp_path / "state")) == ""


def test_a_switch_that_is_off_says_so(tmp_path: Path) -> None:
    """One line, whoever switched it off: else an operator would look for the fault elsewhere."""
    output = run("for _ in range(9): keep('n', 1)", sdk_env(None, tmp_path / "state", connect_to_server="false"))
    assert output.count("switched off by connect_to_server") == 1
    assert not (tmp_path / "state").exists()
