"""Everything goes wrong at once, and a checker of histories proves that the accounts hold: `python -m stress chaos`.

Writers of all kinds use the SDK. They, their leader, an agent and the server are killed, stopped, forked and restarted
at random; a proxy before the server refuses, hangs, drips, lies, and drops answers after the server has committed; the
disk fills, clocks are stepped, settings change. Each writer writes down each call before and after. In the end every
accepted event has to be at the server once, and everything has to add up.

The bar: in an hour 2,000 kills and 2,000,000 accepted events, none lost, none counted twice, nothing unexplained.
"""

from __future__ import annotations

from importlib import import_module


def main(*words: str) -> int:
    """Runs it; the writers, which import this package too, load none of that."""
    return int(import_module("stress.chaos.run").main(*words))
