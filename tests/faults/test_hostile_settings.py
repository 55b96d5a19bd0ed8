"""Hostile settings, all the way: an HTTP server, the SDK in an application of its own, and what its calls answer."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.entries import UNUSABLE
from tests.http_host import Exchange, HttpHost
from tests.processes import Script, sdk_env
from tests.server_process import wait_for

MIB = 1 << 20
ENTRY: dict[str, Any] = {
    "test_id": 1,
    "condition_to_enter_test": "True",
    "variants_distribution": {"b": 1},
    "test_state": "active",
    "test_active": True,
}
APPLICATION = """
import json
for line in sys.stdin:
    number, names = json.loads(line)
    answers = [hypotest.experiment(name, user_id="u", tags={"country": "DE"}).variant for name in names]
    status = hypotest.status()
    assert hypotest.flush(20), hypotest.status()
    say(f"answers-{number}", json.dumps([answers, status.generation, status.last_error]))
"""


class Application:
    """A process that uses the SDK, and the server whose settings it has.

    Attributes:
        reported: what the last exposure of each experiment said under `ht_sdk_error`.
    """

    def __init__(self, host: HttpHost, script: Script) -> None:
        self._host = host
        self._script = script
        self._numbers = count()
        self.reported: dict[str, str | None] = {}

    def serve(self, body: bytes, **headers: str) -> None:
        """Has the server give these settings from now on; returns when a poll has ended that got them."""
        etag = f'"{zlib.crc32(body)}"'
        polled = 0  # for these settings: a poll for those before may be under way

        def answer(exchange: Exchange) -> None:
            nonlocal polled
            if exchange.command == "GET":
                polled += 1
                known = exchange.headers.get("If-None-Match") == etag
                exchange.reply(304 if known else 200, b"" if known else body, ETag=etag, **headers)
                return
            for event in json.loads(exchange.asked.body)["events"]:
                self.reported[event["test_name"]] = event.get("ht_sdk_error")
            exchange.reply()

        self._host.answer = answer
        wait_for(lambda: polled >= 2, "two polls", 300)

    def ask(self, *names: str) -> tuple[list[str], int, str]:
        """The variants that calls get, the generation of the settings, and the leader's last trouble."""
        number = next(self._numbers)
        self._script.tell(json.dumps([number, names]))
        variants, generation, error = json.loads(self._script.wait_for(f"answers-{number} ").partition(" ")[2])
        return variants, generation, error


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with HttpHost() as host:
        env = sdk_env(None, tmp_path_factory.mktemp("state"), token="t", server_url=host.url, pull_interval=0.1)
        with Script(APPLICATION, env) as script:
            application = Application(host, script)
            script.tell('[-1, ["x"]]')
            yield application


@pytest.fixture
def good(application: Application) -> Application:
    """An application with sound settings in force."""
    application.serve(document(good=ENTRY))
    wait_for(lambda: application.ask("good")[0] == ["b"] and application.ask()[2] == "", "sound settings in force")
    return application


def document(**tests: Any) -> bytes:
    return json.dumps({"tests": tests}).encode()


def raw(entry: bytes) -> bytes:
    """A document with a sound experiment before and after one that is written like this."""
    sound = json.dumps(ENTRY).encode()
    return b'{"tests":{"good":%b,"x":%b,"after":%b}}' % (sound, entry, sound)


def raw_field(field: str, value: bytes) -> bytes:
    entry = json.dumps({**ENTRY, field: "@"}).encode()
    return entry.replace(b'"@"', value)


BOMB = zlib.compressobj(9, wbits=31)
PACKED = b"".join(BOMB.compress(bytes(MIB)) for _ in range(1024)) + BOMB.flush()


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (PACKED, {"Content_Encoding": "gzip"}, "over 67108864 bytes"),
        (document(good={**ENTRY, "later": "x" * (64 * MIB)}), {}, "over 67108864 bytes"),
        (b'{"tests":' * 100_000, {}, "settings refused"),
        (raw(b"[" * 100_000 + b"]" * 100_000), {}, "settings refused"),
        (raw(raw_field("test_id", b"9" * 4_301)), {}, "settings refused"),
        (raw(raw_field("of a newer server", b"9" * 1_000_000)), {}, "settings refused"),
        (document(good=ENTRY).decode().encode("utf-16"), {}, "settings refused"),
        (document(good=ENTRY).decode().encode("utf-32"), {}, "settings refused"),
        (raw(b'"\xff"'), {}, "settings refused"),
        (document(good=ENTRY)[:-1], {}, "settings refused"),
        (b"", {}, "settings refused"),
        (b"[]", {}, "settings refused"),
        (b"<html>Log in</html>", {}, "settings refused"),
    ],
    ids=[
        "gzip bomb of 1 GiB", "more than 64 MiB", "deep", "a deep experiment", "an integer of 4,301 digits",
        "an integer of a million digits", "UTF-16", "UTF-32", "no UTF-8", "truncated", "empty", "a list", "a portal",
    ],
)  # fmt: skip
def test_what_is_no_document(good: Application, body: bytes, headers: dict[str, str], said: str) -> None:
    """The settings in force stay, the operator is told, and a sound document is taken when there is one again."""
    (before, generation, _) = good.ask("good")
    good.serve(body, **headers)
    wait_for(lambda: said in good.ask()[2], f"the status says {said!r}")
    assert good.ask("good") == (before, generation, good.ask()[2])
    good.serve(document(good={**ENTRY, "variants_distribution": {"c": 1}}))
    wait_for(lambda: good.ask("good")[0] == ["c"], "the next settings are in force")
    assert good.ask()[2] == ""


HASHES = 2**61 - 1
HARMLESS = [
    ("NaN", raw_field("variants_distribution", b'{"b": NaN}'), "control"),
    ("Infinity", raw_field("variants_distribution", b'{"b": Infinity, "c": -Infinity, "d": 1e999}'), "control"),
    ("an integer of 4,300 digits", raw_field("test_id", b"9" * 4_300), "control"),
    ("a share of 400 digits", raw_field("variants_distribution", b'{"b": 1%b}' % (b"0" * 400)), "control"),
    ("a lone surrogate", raw_field("variants_distribution", rb'{"\ud800": 1}'), "control"),
    ("a lone surrogate in bytes", raw_field("test_state", b'"\xed\xa0\x80"'), "control"),
    ("a list where an experiment should be", b"[1]", "control"),
    ("a field that occurs twice", raw_field("test_state", b'"", "test_id": "7", "test_id": 1'), "b"),
    ("fields of a newer server", raw_field("salt", b'{"a": [null, {"b": []}]}'), "b"),
    ("a number of 4,800 digits in a condition", ("country 0x" + "f" * 4_000,), "control"),
    ("a condition 30,000 deep", ("(" * 30_000 + "True" + ")" * 30_000,), "control"),
    ("a condition of a million characters", ("country == 'DE' or " * 52_632 + "True",), "control"),
    ("code for a condition", ("__import__('os').abort()",), "control"),
    ("a regex for a condition", ("country.match('(a+)+$')",), "control"),
    ("a regex in a text is a text", ("'(a+)+$' == country or country.startswith('D')",), "b"),
    ("a set of items of one hash", (f"country in {{{','.join(str(n * HASHES) for n in range(999))}}}",), "control"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "variant"), [case[1:] for case in HARMLESS], ids=[case[0] for case in HARMLESS])
def test_a_bad_experiment(good: Application, entry: bytes | tuple[str], variant: str) -> None:
    """An experiment that cannot be used gives control and says why; those around it are unharmed."""
    if isinstance(entry, tuple):
        entry = json.dumps({**ENTRY, "condition_to_enter_test": entry[0], "tag_names": ["country"]}).encode()
    generation = good.ask()[1]
    good.serve(raw(entry))
    answers, now, error = good.ask("good", "x", "after")
    assert answers == ["b", variant, "b"]
    assert now == generation + 1
    assert error == ""
    assert good.reported["good"] is None
    assert (good.reported["x"] is None) == (variant == "b")


def test_wrong_types(good: Application) -> None:
    """Each wrong value of each field takes its own experiment away, and says which field it is."""
    pairs = [(field, value) for field, values in UNUSABLE for value in values]
    wrong = {f"{field} {number}": (field, value) for number, (field, value) in enumerate(pairs)}
    tests = {name: {**ENTRY, field: value} for name, (field, value) in wrong.items()}
    good.serve(document(**tests, good=ENTRY))
    answers, _, error = good.ask(*wrong, "good")
    assert answers == ["control"] * len(wrong) + ["b"]
    assert error == ""
    assert len(wrong) > 50
    for name, (field, _) in wrong.items():
        said = good.reported[name] or ""
        assert field in said or said.startswith("condition_to_enter_experiment is invalid: "), name
    assert good.reported["good"] is None


def test_a_byte_order_mark(good: Application) -> None:
    """A byte order mark is no reason to refuse the settings."""
    good.serve(b"\xef\xbb\xbf" + raw(raw_field("test_state", rb'"\ud800"')))
    assert good.ask("good", "x", "after")[0] == ["b", "control", "b"]


def test_an_experiment_that_occurs_twice(good: Application) -> None:
    """Of two experiments with one name the last counts."""
    first, last = (json.dumps({**ENTRY, "variants_distribution": {name: 1}}).encode() for name in ("c", "d"))
    good.serve(b'{"tests":{"x":%b,"good":[],"x":%b},"tests":{"x":%b,"x":%b}}' % (first, first, first, last))
    assert good.ask("x", "good")[0] == ["d", "control"]


def test_many_experiments(good: Application) -> None:
    """100,000 experiments, half of them unusable, are published; the last one answers as the first."""
    sound, bad = json.dumps(ENTRY), json.dumps({**ENTRY, "test_id": None})
    tests = ",".join(f'"{n}": {bad if n % 2 else sound}' for n in range(100_000))
    body = gzip.compress(f'{{"tests":{{{tests}}}}}'.encode(), 1)
    good.serve(body, Content_Encoding="gzip")
    assert good.ask("0", "1", "49998", "99998", "99999", "100000")[0] == [
        "b",
        "control",
        "b",
        "b",
        "control",
        "control",
    ]


def test_the_largest_document(good: Application) -> None:
    """A document of 64 MiB is taken."""
    body = document(good={**ENTRY, "variants_distribution": {"c": 1}, "later": "@"})
    good.serve(body.replace(b"@", b"x" * (64 * MIB - len(body) + 1)))
    assert good.ask("good")[0] == ["c"]
