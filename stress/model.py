"""The model of the spool for as long as you like: `model [SpoolMachine|PowerMachine] [--seconds N] [--seed S]`.

The bar: no story in which an accepted event is lost, comes twice or is miscounted.
"""

from __future__ import annotations

import argparse
import os

from tests.faults import model

MACHINES = {machine.__name__: machine for machine in (model.SpoolMachine, model.PowerMachine)}


def main(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="python -m stress model")
    parser.add_argument("machine", nargs="?", choices=MACHINES, help="default: both, half of the time each")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    chosen = parser.parse_args(arguments)
    machines = [MACHINES[chosen.machine]] if chosen.machine else list(MACHINES.values())
    for machine in machines:
        print(f"{machine.__name__}: {chosen.seconds / len(machines):g} s, seed {chosen.seed}", flush=True)
        stories = model.run(machine, chosen.seed, chosen.seconds / len(machines))
        print(f"{machine.__name__}: {stories} stories, none of them failed", flush=True)
    return 0
