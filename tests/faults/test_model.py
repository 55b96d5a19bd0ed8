"""The spool against its model; the long form is `python -m stress model`."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.model import PowerMachine, SpoolMachine, run

SECONDS = 8.0


@pytest.mark.parametrize("machine", [SpoolMachine, PowerMachine])
def test_the_spool_does_as_its_model(machine: type[SpoolMachine]) -> None:
    """Whatever befalls writers, leader, server and disk, each accepted event is delivered once or accounted for."""
    number = int.from_bytes(os.urandom(3), "big")
    print(f"stories drawn by the numbers from {number}")
    assert run(machine, number, SECONDS)
    assert sys.exc_info() == (None, None, None), "other tests of this process would see an exception of this one"
