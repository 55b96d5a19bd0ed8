"""The logger `hypotest`: to stdout, rate-limited, and the application's own where it wants it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hypotest import log
from tests.namespace import run_python
from tests.server_process import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = logging.getLogger("hypotest")
BEGIN = "import logging, sys\nfrom hypotest import log\n"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with nothing configured and nothing said, and leaves it so."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers, LOGGER.level, LOGGER.propagate = [], logging.NOTSET, True
    LOGGER.manager._clear_cache()  # type: ignore[attr-defined]
    monkeypatch.setattr(log, "_last", {})
    yield
    LOGGER.handlers, LOGGER.level, LOGGER.propagate = before
    LOGGER.manager._clear_cache()  # type: ignore[attr-defined]


def test_to_stdout_at_the_level() -> None:
    """Lines at or above the level go to stdout, with time, level and pid; lower ones do not."""
    said = run_python(BEGIN + "log.configure('INFO'); log.line(log.INFO, 'a %s', 'b'); log.line(logging.DEBUG, 'no')")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO     hypotest\[\d+\] a b\n", said)


def test_configure_again() -> None:
    """A changed level takes effect, and no line comes twice."""
    child = "log.configure('ERROR'); log.configure('DEBUG'); log.line(logging.DEBUG, 'once')"
    assert run_python(BEGIN + child).count("once") == 1


@pytest.mark.parametrize("theirs", ["addHandler(logging.NullHandler())", "setLevel('ERROR')"])
def test_a_logger_that_the_application_configured(theirs: str) -> None:
    """Where the application gave the logger a handler or a level, both stay as they are."""
    child = f"""
logger = logging.getLogger("hypotest")
logger.{theirs}
before = logger.handlers[:], logger.level
log.configure("DEBUG")
assert (logger.handlers, logger.level) == before
log.line(log.INFO, "nothing on stdout")
"""
    assert run_python(BEGIN + child) == ""


@pytest.mark.parametrize("theirs", ["addHandler(logging.NullHandler())", "setLevel('CRITICAL')"])
def test_a_logger_that_the_application_configured_after_us(theirs: str) -> None:
    """So do those that it gave it after our first line; what we set is set again."""
    child = f"""
log.configure("INFO")
logger = logging.getLogger("hypotest")
logger.{theirs}
log.configure("DEBUG")
log.line(log.INFO, "nothing on stdout")
assert logger.level in (logging.DEBUG, logging.CRITICAL)
"""
    assert run_python(BEGIN + child) == ""


def test_root_handlers_get_each_line_once() -> None:
    """An application that logs through the root logger finds our lines there, and not on stdout besides."""
    child = "logging.basicConfig(stream=sys.stdout, format='ROOT %(message)s')\n"
    child += "log.configure('INFO'); log.line(log.INFO, 'x')"
    assert run_python(BEGIN + child) == "ROOT x\n"


def test_a_root_logger_configured_later() -> None:
    """The same holds if it does so after our first line."""
    child = "log.configure('INFO'); log.line(log.INFO, '1')\n"
    child += "logging.basicConfig(stream=sys.stdout, format='ROOT %(message)s'); log.line(log.INFO, '2')"
    first, second = run_python(BEGIN + child).splitlines()
    assert first.endswith("] 1")
    assert second == "ROOT 2"


@pytest.mark.parametrize("how", ["sys.stdout.close()", "os.close(1)", "sys.stdout = None"])
def test_a_stdout_that_is_gone(how: str) -> None:
    """A closed stdout disturbs neither the application nor its stderr, also at exit."""
    child = f"{BEGIN}import os\n{how}\nlog.configure('INFO')\nfor n in range(3): log.line(log.INFO, 'x')\nos._exit(7)"
    done = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, env=clean_env(), check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_a_process_without_stdout() -> None:
    """A process that was started without a stdout ends without a traceback of ours."""
    child = f"{BEGIN}log.configure('INFO')\nfor n in range(3): log.line(log.INFO, 'x')"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, child],
        capture_output=True,
        text=True,
        env=clean_env(),
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever handlers and filters the application has: a line of ours never raises."""

    class Raises(logging.Handler):
        def handle(self, _record: logging.LogRecord) -> bool:
            raise RuntimeError

    LOGGER.handlers = [Raises()]
    LOGGER.setLevel("DEBUG")
    log.line(log.ERROR, "x")
    log.limited(log.ERROR, "key", "x")


def test_the_rate_limit(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a key in the time; what was held back is told with the next; other keys have their own."""
    now = [1000.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    for _ in range(5):
        log.limited(log.WARNING, "a", "a %d%%", 7)
    log.limited(log.WARNING, "b", "b")
    now[0] += 59.9
    log.limited(log.WARNING, "a", "a %d%%", 8)
    now[0] += 0.2
    log.limited(log.WARNING, "a", "a %d%%", 9)
    now[0] += 61
    log.limited(log.WARNING, "a", "a %d%%", 10)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a 7%", "b", "a 9% (5 more like this since the last line)", "a 10%"]


def test_another_limit(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may have a longer time of its own."""
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    for _ in range(10):
        log.limited(log.WARNING, "a", "x", every=600)
        now[0] += 100
    assert len(caplog.records) == 2


def test_the_memory_of_keys_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """However many keys there are, the memory of them does not grow."""
    for n in range(5000):
        log.limited(logging.DEBUG, f"key {n}", "x")
    assert len(log._last) <= 256


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "'x'"),
        ("line\nbreak", r"'line\nbreak'"),
        (b"\xff", r"b'\xff'"),
        (7, "7"),
        (NoRepr(), "<NoRepr without a repr>"),
        ("\ud800", r"'\ud800'"),
        ("\x1b[31m", r"'\x1b[31m'"),
    ],
)
def test_shown(value: object, text: str) -> None:
    """User data is shown as its repr, which is one line whatever it holds."""
    assert log.shown(value) == text


@pytest.mark.parametrize("value", ["x" * 10**7, b"\0" * 10**7, ["x" * 1000], "\n" * 119])
def test_shown_is_short(value: object) -> None:
    """However long the data, what is shown is short and says that it was cut."""
    found = log.shown(value)
    assert len(found) <= 123
    assert found.endswith("...")
