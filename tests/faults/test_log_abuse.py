"""The log under hostile input: nobody forges a line, commands a terminal, or fills a disk with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypotest import log, statedir
from hypotest.statedir import namespace_of
from tests.http_host import Exchange, HttpHost
from tests.processes import PRELUDE, sdk_env

NASTY = (
    "x\n2026-01-01 00:00:00,000 INFO     hypotest[1] forged\r\x1b]0;title\x07\x1b[31m%s%n%(x)d\u2028\u202e\u0085\ud800"
)
OUTSIDE = NASTY.replace("\ud800", "")  # where it has to be UTF-8
LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ (DEBUG|INFO|WARNING|ERROR) +hypotest\[\d+\] .+")
LONGEST = 5000


def entry(**more: object) -> dict[str, object]:
    return {
        "test_id": 1,
        "test_state": "running",
        "test_active": True,
        "condition_to_enter_test": "True",
        "variants_distribution": {"control": 0.5, "b": 0.5},
        **more,
    }


SETTINGS = json.dumps(
    {
        "tests": {
            NASTY: entry(condition_to_enter_test=NASTY),
            "x" * 100_000: entry(test_state=7),
            "condition": entry(condition_to_enter_test=f"{json.dumps(OUTSIDE)} == t", tag_names=["t"]),
            "variants": entry(variants_distribution={NASTY: -1, "%s" * 50_000: 1}),
            "tags": entry(condition_to_enter_test="t > 1", tag_names=["t", NASTY]),
            "overrides": entry(override_b=[{NASTY: 1}], test_name=NASTY),
        }
    }
).encode()


@pytest.fixture
def host() -> Iterator[HttpHost]:
    """A server whose settings, status lines, headers and bodies all try."""

    def answer(exchange: Exchange) -> None:
        if exchange.asked.method == "GET" and len(exchange.server.asked) % 2:
            exchange.reply(body=SETTINGS)
        elif b"refused" in exchange.asked.body:
            exchange.reply(422, (OUTSIDE * 1000).encode())
        else:
            reason = OUTSIDE.replace("\n", "").replace("\r", "").encode()
            exchange.wfile.write(b"HTTP/1.1 503 " + reason + b"\r\nRetry-After: 0\r\nContent-Length: 3\r\n\r\n\n\x1b\r")

    with HttpHost(answer) as running:
        yield running


def output_of(source: str, env: dict[str, str]) -> bytes:
    """What a script writes, as it is: text would take a carriage return for the end of a line."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + source], env=env, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done
    assert done.stderr == b""
    return done.stdout


def expect_lines(output: bytes, *words: str) -> None:
    """Every line is one of ours, whole, printable and of bounded length; the words stand in some."""
    text = output.decode()
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        assert line.isprintable(), line
        assert LINE.fullmatch(line), line
        assert len(line) < LONGEST
        assert not line.endswith("] forged")
    for word in words:
        assert word in text


CALLS = """
nasty = json.loads(os.environ["NASTY"])
class Bad:
    def __str__(self): raise ValueError(nasty)
class Raises(dict):
    def items(self): raise RuntimeError(nasty)
    __getitem__ = get = items
hypotest.config(pull_interval=nasty, **{nasty: 1}, log_level=nasty, server_url="https://" + nasty, leader=[nasty])
assert hypotest.wait_until_ready(20)
for thing in (nasty, "x" * 10**6, "%s" * 1000, "\\0", nasty.encode("utf-8", "surrogatepass"), Bad(), None, 7, [nasty]):
    hypotest.experiment(thing, user_id="u")
    hypotest.experiment("condition", user_id=thing, tags={"t": thing})
    hypotest.experiment("tags", user_id=thing, tags={"t": thing, nasty: thing})
    hypotest.experiment("variants", user_id="u", visitor_id=thing, override=thing)
    hypotest.experiment("condition", tags=Raises())
    hypotest.kpi_event(thing, value=thing, tags={nasty: thing})
    hypotest.kpi_event(thing, user_id="u", value=thing, tags=Raises())
    hypotest.match_user_visitor(thing, None, context=thing)
hypotest.kpi_event("refused", user_id="u")
hypotest.flush(1)
until(lambda: hypotest.status().last_error, "trouble")
until(lambda: hypotest.status().is_leader and hypotest.status().polls > 1, "its settings are looked at")
hypotest.flush(nasty)
hypotest.wait_until_ready(nasty)
"""


def test_every_line_is_one_line(host: HttpHost, tmp_path: Path) -> None:
    """Names, ids, tags, values, configuration, settings and answers of the server, whatever they hold."""
    root = tmp_path / f"state {OUTSIDE}"
    state = statedir.prepare(str(root), namespace_of(host.url, "t"))
    Path(state.spool, f"{OUTSIDE}.seg").write_bytes(b"garbage" * 100)
    env = sdk_env(
        None, root, token="t", server_url=host.url, log_level="DEBUG", pull_jitter=OUTSIDE, send_interval=OUTSIDE
    )
    output = output_of("import json\n" + CALLS, env | {"NASTY": json.dumps(NASTY)})
    expect_lines(
        output,
        "goes to quarantine/",
        "HTTP 503",
        "is not used",
        "config() ignores",
        "settings: experiment",
        "state in ",
    )


def test_a_state_directory_that_is_refused(tmp_path: Path) -> None:
    """Nor does the name of a directory that cannot be used, whoever made it, break the line."""
    (tmp_path / OUTSIDE).write_text("")
    env = sdk_env(None, None, token="t", server_url="http://127.0.0.1:9") | {"XDG_STATE_HOME": str(tmp_path / OUTSIDE)}
    expect_lines(output_of('hypotest.kpi_event("k", user_id="u")', env), "state directory not used")


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--json"],
        ["check"],
        ["explain", "condition", "--user-id", OUTSIDE, "--tag", f"t={OUTSIDE}"],
        ["explain", OUTSIDE, "--user-id", "u"],
        ["explain", "nothing", "--override", OUTSIDE],
        ["drain", "--timeout", "0.1"],
        ["status", OUTSIDE],
        ["drain", "--timeout", OUTSIDE],
        ["explain", "condition", "--tag", OUTSIDE],
        ["status", "--server-url", OUTSIDE],
    ],
    ids=lambda command: " ".join(filter(str.isprintable, command)),
)
def test_a_terminal_gets_no_commands(host: HttpHost, tmp_path: Path, command: list[str]) -> None:
    """What commands print of settings, errors and paths is printable: a terminal obeys no server."""
    env = sdk_env(None, tmp_path / f"state {OUTSIDE}", token="t", server_url=host.url)
    output_of('assert hypotest.wait_until_ready(20)\nhypotest.kpi_event("refused", user_id="u")', env)
    done = subprocess.run(
        [sys.executable, "-m", "hypotest", *command], env=env, capture_output=True, timeout=60, check=False
    )
    for line in (done.stdout + done.stderr).decode().split("\n"):
        assert line.isprintable(), line
    assert b"Traceback" not in done.stderr


# --- floods

CALLS_A_KIND = 100_000
FLOODS = {
    "unknown experiments": 'hypotest.experiment(f"n{i}", user_id="u", report_event=False)',
    "no id": 'hypotest.experiment(f"n{i}", report_event=False)',
    "both ids": 'hypotest.experiment("button", user_id="u", visitor_id=f"v{i}", report_event=False)',
    "overrides": 'hypotest.experiment("button", user_id="u", override=f"o{i}", report_event=False)',
    "tags": 'hypotest.experiment("condition", user_id="u", tags={"t": f"{i}"}, report_event=False)',
    "ids": 'hypotest.experiment("button", user_id=bad, report_event=False)',
    "errors": 'hypotest.kpi_event("n", user_id="u", value=kinds[i % 1000]())',
    "goals without id": 'hypotest.kpi_event(f"n{i}")',
    "values": 'hypotest.kpi_event(f"n{i}", user_id="u", value=f"v{i}")',
    "matches": 'hypotest.match_user_visitor(None, f"v{i}")',
    "parameters": 'hypotest.config(**{f"p{i}": i})',
    "parameter values": 'hypotest.config(pull_interval=f"p{i}")',
}
SLOW = ("errors", "parameters", "parameter values")
MANY_KEYS = ("errors", "parameters")
"""Each name has a limit of its own, as long as there are few of them."""
FLOOD = """
import json, resource
from hypotest import log
class Bad:
    def __str__(self): raise ValueError
bad = Bad()
def kind(n):
    def raising(self): raise type(f"Error{n}", (Exception,), {})
    return type("Bad", (), {"__class__": property(raising)})
kinds = [kind(n) for n in range(1000)]
assert hypotest.wait_until_ready(20)
def wrong(calls):
    for i in calls:
        CALL
wrong(range(5000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wrong(range(5000, CALLS_A_KIND))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
names = max(map(len, log._abouts.values()), default=0)
say("sizes", json.dumps([len(log._last), len(log._abouts), names, grown]))
"""


@pytest.mark.parametrize("kind", FLOODS)
def test_floods(host: HttpHost, tmp_path: Path, kind: str) -> None:
    """100,000 calls of a kind (20,000 of the slow ones), each wrong in its own way: some lines, some hundred keys."""
    calls = CALLS_A_KIND // (5 if kind in SLOW else 1)
    source = FLOOD.replace("CALLS_A_KIND", str(calls)).replace("CALL", FLOODS[kind])
    options = {"max_spool_bytes": 1 << 20, "send_interval": 3600, "pull_interval": 3600}
    env = sdk_env(None, tmp_path / "state", token="t", server_url=host.url, **options)
    lines = output_of(source, env).decode().splitlines()
    keys, abouts, names, grown = json.loads(
        next(line for line in lines if line.startswith("sizes ")).removeprefix("sizes ")
    )
    assert keys <= log._MAX_KEYS
    assert abouts <= log._MAX_KEYS
    assert names <= 8
    assert grown < 8 << 10, "KiB"
    said = [line for line in lines if " WARNING " in line or " ERROR " in line]
    assert said
    assert len(said) < (2 * log._MAX_KEYS if kind in MANY_KEYS else 40)
