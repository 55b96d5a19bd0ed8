from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from hypotest.server import experiments
from hypotest.server.experiments import ExperimentsError, load
from hypotest.server.watch import ExperimentsFile

if TYPE_CHECKING:
    from pathlib import Path

FULL = """
checkout_button:
  variants: {control: 0.4, b: 0.6}
  condition: country == "DE"
  tags: [country]
  goals: [purchase]
  active: false
  override: {control: [ann], b: [bob]}
  state: calibration
  hypothesis: A green button sells more.
  test_id: 7
"""
WIRE = {
    "test_id": 7,
    "test_name": "checkout_button",
    "experiment_hypothesis": "A green button sells more.",
    "tag_names": ["country"],
    "condition_to_enter_test": 'country == "DE"',
    "variants_distribution": {"control": 0.4, "b": 0.6},
    "goal_names": ["purchase"],
    "test_state": "calibration",
    "test_active": False,
    "override_control": ["ann"],
    "override_b": ["bob"],
}


def broken(text: str, *, is_json: bool = False) -> str:
    with pytest.raises(ExperimentsError) as caught:
        load(text, is_json=is_json)
    return str(caught.value)


def test_every_field() -> None:
    """Every field of the plain form has its place in the wire form."""
    assert load(FULL).tests == {"checkout_button": WIRE}


def test_defaults() -> None:
    """Variants are all an experiment needs; a list of them means equal shares."""
    assert load("button: {variants: [control, b, c, d]}").tests["button"] == {
        "test_id": 973515837,
        "test_name": "button",
        "experiment_hypothesis": "",
        "tag_names": [],
        "condition_to_enter_test": "True",
        "variants_distribution": {"control": 0.25, "b": 0.25, "c": 0.25, "d": 0.25},
        "goal_names": [],
        "test_state": "running",
        "test_active": True,
        "override_control": [],
        "override_b": [],
    }


def test_documented_example() -> None:
    """The example in the module's docstring is a good file."""
    example = re.search(r"under its name:\n\n(.*?)\n\n\| field", experiments.__doc__ or "", re.DOTALL)
    assert example is not None
    assert list(load(example[1]).tests) == ["checkout_button"]


@pytest.mark.parametrize("is_json", [False, True])
def test_wire_form(*, is_json: bool) -> None:
    """A document in the wire format is served as it stands, fields that we don't know included."""
    document = {"tests": {"checkout_button": WIRE | {"owner": "ann"}}}
    settings = load(orjson.dumps(document).decode(), is_json=is_json)
    assert orjson.loads(settings.body) == document


def test_wire_names_in_the_plain_form() -> None:
    """Fields may have their wire names."""
    text = "button: {variants_distribution: {control: 1}, goal_names: [buy], override_b: [bob]}"
    entry = load(text).tests["button"]
    assert (entry["variants_distribution"], entry["goal_names"], entry["override_b"]) == (
        {"control": 1},
        ["buy"],
        ["bob"],
    )


def test_order_of_variants() -> None:
    """The order of variants, which the hash depends on, is that of the file."""
    for order in ("zebra: 0.1, b: 0.2, a: 0.7", "a: 0.7, zebra: 0.1, b: 0.2"):
        body = load("x: {variants: {%s}}" % order).body.decode()  # noqa: UP031
        assert re.findall(r'"(zebra|a|b)":', body) == re.findall(r"(\w+):", order)


def test_names_that_yaml_11_takes_for_booleans() -> None:
    """`on`, `off`, `yes`, `no` and dates are texts; `true` is a boolean, and good as a condition."""
    text = "no: {variants: [on, off, y, 2024-12-31], condition: true, active: false}"
    entry = load(text).tests["no"]
    assert list(entry["variants_distribution"]) == ["on", "off", "y", "2024-12-31"]
    assert (entry["condition_to_enter_test"], entry["test_active"]) == ("True", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  variants: [b]\n  varients: 1", "line 3: experiment 'a', varients: is unknown; known are variants, "),
        ("a: {goals: [x]}", "line 1: experiment 'a', variants: is missing"),
        ("a: {variants: []}", "experiment 'a', variants: the list is empty: expected at least one variant, as in [con"),
        ("a: {variants: [c, b, b]}", "experiment 'a', variants: 'b' is twice in the list: for unequal shares write {"),
        ("a: {variants: [control, 1]}", "experiment 'a', variants: expected a list of variant names that are texts"),
        ("a: {variants: {control: 50, b: 50}}", "experiment 'a', variants: shares are fractions of 1, and these add"),
        ("a: {variants: {b: 0.9, c: 0.9}}", "shares are fractions of 1, and these add up to 1.8"),
        ("a: {variants: {}}", "experiment 'a', variants: expected at least one variant"),
        ("a: {variants: [control, b], state: paused}", "'a', state: expected running or calibration, got 'paused'"),
        ("a: {variants: [control, b], state: 5}", "experiment 'a', state: expected a text, got a number"),
        ("a: {variants: {b: x}}", "experiment 'a', variants: expected a number as the share of 'b'"),
        ("a: {variants: {1: 0.5}}", "experiment 'a', variants: expected variant names that are texts"),
        ("a: {variants: [b], condition: 'foo('}", "experiment 'a', condition: "),
        ("a: {variants: [b], tags: country}", "experiment 'a', tags: expected a list of texts, got a text"),
        ("a: {variants: [b], goals: buy}", "experiment 'a', goals: expected a list of texts"),
        ("a: {variants: [b], goal_names: [1]}", "experiment 'a', goal_names: expected a list of texts"),
        ("a: {variants: [b], hypothesis: 5}", "experiment 'a', hypothesis: expected a text"),
        ("a: {variants: [b], override: {c: [x]}}", "experiment 'a', override: expected a mapping of control and b"),
        ("a: {variants: [b], override: {b: x}}", "experiment 'a', override: expected a list"),
        ("a: {variants: [b], active: maybe}", "experiment 'a', active: expected true or false"),
        ("a: {variants: [b], test_id: x}", "experiment 'a', test_id: expected an integer"),
        ("a: {goals: [x], goal_names: [y], variants: [b]}", "is there twice, as goals and as goal_names"),
        ("tests: {a: {test_id: 1}}", "line 1: experiment 'a', condition_to_enter_test: is missing"),
        ("tests: {a: 5}", "experiment 'a': expected an object"),
        ("a: 5", "experiment 'a': expected an object"),
        ("5: {variants: [b]}", "experiment 5: the name of an experiment is a text: quote it"),
        ("a: {variants: [b]}\nc: 1\na: 2", "line 3: 'a' is there twice"),
        ("a:\n  goals: [x]\n  goals: [y]", "line 3: 'goals' is there twice"),
        ("a: [", "line 2: did not find expected"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: &a {variants: [b], hypothesis: *a}", "experiment 'a', hypothesis: expected a text"),
        ("- a", "expected a mapping of names to experiments"),
        ("", "the file is empty (write {} for no experiments)"),
        ("# nothing", "the file is empty"),
        ("[" * 5000, ""),
    ],
)
def test_broken(text: str, message: str) -> None:
    """A broken file is refused with the line, the entry and the field, by the name its author used."""
    assert message in broken(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{\n"a": 1,}', "line 2: "),
        ('{"a": NaN}', "NaN is not a number"),
        ("[" * 200_000, "nested too deeply"),
        ('{"tests": {"a": {"test_id": 1}}}', "experiment 'a', test_state: is missing"),
    ],
)
def test_broken_json(text: str, message: str) -> None:
    """The same goes for JSON."""
    assert message in broken(text, is_json=True)


def test_no_flood_of_messages() -> None:
    """Of many problems the first few are told, and how many more there are."""
    assert broken("\n".join(f"e{n}: {{}}" for n in range(20))).endswith("; and 15 more")


def test_doubts_are_warnings() -> None:
    """What is allowed but probably wrong is served, with a warning."""
    settings = load(
        "a: {variants: [a, b], test_id: 3, override: {b: [x, 12, z], control: [12, y, x]}}\n"
        "d: {variants: [b], test_id: 3, override: {b: [null]}}"
    )
    assert list(settings.tests) == ["a", "d"]
    control, both, ids, shared = settings.warnings
    assert control.startswith("line 1: experiment 'a', variants: there is no control among them")
    assert both.startswith("line 1: experiment 'a', override: '12', 'x': in both lists, of control and of b")
    assert ids.startswith("line 2: experiment 'd', override: ")
    assert shared == "a, d share test_id 3: they deal the same visitors the same way"


def test_numbers_as_ids() -> None:
    """An id that is a number is the text that the SDK makes of it."""
    entry = load("a: {variants: [control, b], override: {control: [12, -3, 1.5], b: ['07', true]}}").tests["a"]
    assert (entry["override_control"], entry["override_b"]) == (["12", "-3", "1.5"], ["07", True])
    entry = load("a: {variants: [control, b], override_b: [12]}").tests["a"]
    assert entry["override_b"] == ["12"]
    odd = ["0123", "1_000", "12:30", "0x1F", "1.10", "1.0e+3", "+5"]  # YAML's numbers are not what stands there
    for text in (f"override: {{b: [{', '.join(odd)}]}}", f"override_b: [{', '.join(odd)}]"):
        assert load(f"a: {{variants: [control, b], {text}}}").tests["a"]["override_b"] == odd


def test_the_wire_form_is_tolerant() -> None:
    """What a server may send is served as it is; shares above 1 and ids that never match are warnings."""
    odd = {"variants_distribution": {"a": 50, "b": 50}, "test_state": "paused", "override_control": [1, "x"]}
    document = {"tests": {"checkout_button": WIRE | odd | {"override_b": ["x"]}}}
    settings = load(orjson.dumps(document).decode(), is_json=True)
    assert orjson.loads(settings.body) == document
    shares, ids = settings.warnings
    assert "the shares add up to 100" in shares
    assert "it never matches an id" in ids


def test_shares_that_are_rounded() -> None:
    """Decimal fractions that add up to 1 do, whatever floats make of them; less than 1 is allowed, with a warning."""
    for shares in ("control: 0.1, b: 0.2, c: 0.7", "control: 0.33, b: 0.33, c: 0.33"):
        assert load("x: {variants: {%s}}" % shares).warnings == ()  # noqa: UP031
    (warning,) = load("x: {variants: {control: 0.1, b: 0.1}}").warnings
    assert "the shares add up to 0.2: who is beyond gets control" in warning


def test_etag() -> None:
    """The ETag is that of what is served: equal for equal documents, different for a different order."""
    one, same, other = (
        load(text) for text in ("a: {variants: [b, c]}", "{a: {variants: [b, c]}}", "a: {variants: [c, b]}")
    )
    assert one.etag == same.etag != other.etag
    assert re.fullmatch(r'"[0-9a-f]{32}"', one.etag)


# --- the file as it changes


@pytest.fixture
def file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> ExperimentsFile:
    caplog.set_level(logging.INFO, "hypotest.server")
    path = tmp_path / "experiments.yaml"
    path.write_text("first: {variants: [control, b]}")
    file = ExperimentsFile(path)
    file.start()
    caplog.clear()
    return file


def in_place(file: ExperimentsFile, text: str) -> None:
    assert file.path is not None
    inode = file.path.stat().st_ino
    file.path.write_text(text)
    assert file.path.stat().st_ino == inode


def by_rename(file: ExperimentsFile, text: str) -> None:
    assert file.path is not None
    new = file.path.with_name("new")
    new.write_text(text)
    new.replace(file.path)


def names(file: ExperimentsFile) -> list[str]:
    return list(file.settings.tests)


def test_replaced_by_rename(file: ExperimentsFile, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was renamed into place is read at the next check, once, with one line in the log."""
    by_rename(file, "second: {variants: [b]}")
    for _ in range(3):
        file.check_once()
        assert names(file) == ["second"]
    assert caplog.messages == ["experiments: 1 in use"]
    assert file.reads == 2


def test_written_in_place(file: ExperimentsFile) -> None:
    """A file that is being written in place is not read before it stands still, even where its half is valid."""
    in_place(file, "half: {variants: [b]}\n")
    file.check_once()
    assert names(file) == ["first"]
    in_place(file, "half: {variants: [b]}\nother_half: {variants: [b]}\n")
    file.check_once()
    assert names(file) == ["first"]
    file.check_once()
    assert names(file) == ["half", "other_half"]


@pytest.mark.parametrize("text", ["", "a: [", "a: {varients: 1}", "\x00", "a: 5"])
def test_broken_keeps_the_last_good(file: ExperimentsFile, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """The last good version stays while the file is broken; one line says why; a good one is taken again."""
    by_rename(file, text)
    for _ in range(3):
        file.check_once()
    assert names(file) == ["first"]
    (line,) = caplog.messages
    assert line == f"experiments: {file.path} is broken, the last good version stays: {file.error}"
    by_rename(file, "third: {variants: [b]}")
    file.check_once()
    assert (names(file), file.error) == (["third"], None)


def test_file_gone_and_back(file: ExperimentsFile, caplog: pytest.LogCaptureFixture) -> None:
    """A file that vanishes is a broken one; when it comes back it is read."""
    assert file.path is not None
    file.path.unlink()
    for _ in range(3):
        file.check_once()
    assert names(file) == ["first"]
    assert [message.endswith("No such file or directory") for message in caplog.messages] == [True]
    file.path.write_text("back: {variants: [b]}")
    file.check_once()
    file.check_once()
    assert (names(file), file.error) == (["back"], None)


def test_not_utf8(file: ExperimentsFile) -> None:
    """Bytes that are not UTF-8 are a broken file."""
    assert file.path is not None
    file.path.write_bytes(b"\xff\xfe\xfa")
    file.check_once()
    file.check_once()
    assert "it is not UTF-8" in str(file.error)


def test_touched(file: ExperimentsFile, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was touched is the same version."""
    assert file.path is not None
    before = file.settings.etag
    os.utime(file.path, (1, 1))
    file.check_once()
    file.check_once()
    assert file.settings.etag == before
    assert caplog.messages == ["experiments: 1 in use, none changed"]


def test_broken_at_start(tmp_path: Path) -> None:
    """Without a good version there is nothing to serve: the start fails."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ExperimentsError):
            ExperimentsFile(path).start()


def test_no_file() -> None:
    """Without a file there are no experiments, and nothing to check."""
    file = ExperimentsFile(None)
    file.start()
    file.check_once()
    body: dict[str, Any] = orjson.loads(file.settings.body)
    assert body == {"tests": {}}
