"""Each operation is killed at every system call, and has an error there; recovery is checked exactly each time."""

from __future__ import annotations

import random

import pytest

from tests.faults.operations import OPERATIONS
from tests.faults.sweep import Report, Untraceable, sweep

COLD, OPENED = "take over, cold", "append, opened"
WHOLE = [name for name in OPERATIONS if name not in (COLD, OPENED)]


def swept(operation: str, kind: str, *arguments: int) -> Report:
    """The report of a sweep in which nothing was found, and something was cut."""
    try:
        report = sweep(operation, kind, *arguments)
    except Untraceable as why:
        pytest.skip(f"strace may not trace here: {why}")
    assert not report.failures, "\n".join(report.failures)
    assert report.cuts
    return report


@pytest.mark.parametrize("operation", WHOLE)
def test_killed_at_each_system_call(operation: str) -> None:
    """SIGKILL at each call: nothing accepted is lost, nothing counts twice, another leads at once, no litter stays."""
    report = swept(operation, "kill_at_calls")
    assert report.cuts == report.calls + 1 > 10


@pytest.mark.parametrize("operation", WHOLE)
def test_an_error_at_each_system_call(operation: str) -> None:
    """Each error that a call may give: refusals are counted, and the same process goes on as if nothing had been."""
    report = swept(operation, "fail_at_calls")
    assert report.cuts > report.calls / 2


@pytest.mark.parametrize("operation", WHOLE)
def test_half_of_each_transfer(operation: str) -> None:
    """A read or write that transfers half of what was asked for is completed, or an error."""
    report = swept(operation, "shorten")
    assert report.cuts == report.calls


@pytest.mark.parametrize("operation", WHOLE)
def test_writes_that_the_kernel_cuts(operation: str) -> None:
    """Files may not grow beyond some size for a while: writes are short, then errors."""
    swept(operation, "limit_file_size")


@pytest.mark.parametrize("operation", [*WHOLE, COLD])
def test_out_of_descriptors(operation: str) -> None:
    """No descriptor is left, or a few: what was refused is counted, and who could not lead does when there are some."""
    swept(operation, "limit_descriptors")


@pytest.mark.parametrize("operation", WHOLE)
def test_killed_between_system_calls(operation: str) -> None:
    """SIGKILL at bytecodes, where stores into mapped memory happen; `python -m stress sweep` takes all of them."""
    report = swept(operation, "kill_at_opcodes", 97, random.randrange(97))
    assert report.opcodes > 500


def test_killed_at_each_bytecode_of_an_append() -> None:
    """SIGKILL at every bytecode of the call that keeps an event: it is kept whole, or it never was."""
    report = swept(OPENED, "kill_at_opcodes", 1, 0)
    assert report.cuts == report.opcodes > 50


@pytest.mark.parametrize("kind", ["kill_at_calls", "fail_at_calls"])
def test_a_takeover_that_has_to_import(kind: str) -> None:
    """Killed while it loads what a leader needs, or unable to: another leads, or the same one when it tries again."""
    swept(COLD, kind, 97, random.randrange(97))
