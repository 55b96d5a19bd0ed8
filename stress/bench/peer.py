"""What all clients have in common that are compared: ours and the others'."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Call = Callable[[str], object]
"""One decision or event, of a user's id."""


class Peer(NamedTuple):
    """A client that is compared.

    Attributes:
        name: of the call, as the table shows it.
        distribution: the package on the index.
        module: what an application imports.
        what: what the call does.
        make: builds the client against a sink's URL, with so many experiments (or flags), waits until it is ready, and
            gives the call. Its first experiment is the one that is asked for.
        configured: whether it holds the experiments itself: then its memory for many of them is compared.
        works: counts what the client does beside the calls, where a measurement is to last until each of it was done.
        settle: waits until what was reported is delivered: between the rounds, outside of what is timed.
    """

    name: str
    distribution: str
    module: str
    what: str
    make: Callable[[str, int], Call]
    configured: bool = True
    settle: Callable[[], object] | None = None
    works: Callable[[], tuple[int, ...]] | None = None
