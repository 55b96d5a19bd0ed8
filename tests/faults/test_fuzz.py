"""A short run of each fuzzer; `python -m stress fuzz` runs them for as long as one likes."""

from __future__ import annotations

import sys

import pytest

from hypotest.condition_tokens import MAX_LENGTH
from stress import fuzz
from stress.fuzz import shapes

KINDS = ["grammar", "coverage"] if sys.version_info >= (3, 11) else ["grammar"]  # atheris has no wheel for 3.10


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run(kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is let out, nothing is slow, large or deep, and every condition has the value that it must have."""
    monkeypatch.setenv("FUZZ_MS", "50")  # on a busy machine
    if kind == "coverage":
        pytest.importorskip("atheris")
    status = fuzz.main(kind, "--inputs", "10000")
    output = capsys.readouterr().out
    assert status == 0, output
    assert f"{kind}: 10," in output


def test_the_shapes_are_as_large_as_can_be() -> None:
    """Those that are put to the clock fill the longest text that is read."""
    longest = [shape for shape in shapes.fixed() if len(shape.text) > 0.9 * MAX_LENGTH]
    assert len(longest) >= len(shapes.UNITS)
    assert max(len(shape.text) for shape in longest) <= MAX_LENGTH


@pytest.mark.parametrize("words", [("--inputs", "many"), ("grammer",)])
def test_wrong_arguments(words: tuple[str, ...]) -> None:
    """What nobody understands is an error, not a run."""
    with pytest.raises(SystemExit) as ended:
        fuzz.main(*words)
    assert ended.value.code == 2
