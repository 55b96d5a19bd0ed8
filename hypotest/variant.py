"""Variant: what a caller of `experiment()` gets. Immutable, shared between calls and threads."""

from __future__ import annotations

import json

CONTROL = "control"

_PREFIX = "is_"


class Variant:
    """The variant of one experiment, by name.

    `variant.is_b` asks whether this is the variant `b`; it is there for every name, so a typo is
    False and never an error. Any other unknown attribute is an AttributeError.

    Differences from client 1.0.9, all in corners:

    * An attribute that does not start with `is_` raises; 1.0.9 logged a warning and said False.
    * `is_<name>` compares the whole name. 1.0.9 answered `is_control` for every attribute with
      `control` in it, and cut names that contain `is_` themselves (`is_this_one`).
    * Two variants of one name are equal and hash alike; 1.0.9 compared by identity. A variant is
      never equal to a str, as before: compare `str(variant)` or `variant.variant`.
    * It cannot be modified. It can be copied and serialised, which 1.0.9's could not.

    Attributes:
        variant: the name (str).
        is_control: whether the name is `control` (bool).
    """

    __slots__ = ("is_control", "variant")

    variant: str
    is_control: bool

    def __init__(self, variant: str) -> None:
        if not isinstance(variant, str):
            raise TypeError(f"the name of a variant is a str, got {type(variant).__name__}")
        object.__setattr__(self, "variant", variant)
        object.__setattr__(self, "is_control", variant == CONTROL)

    def __getattr__(self, name: str) -> bool:
        if not name.startswith(_PREFIX):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return name[len(_PREFIX) :] == self.variant

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Variant is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Variant is immutable: cannot delete {name!r}")

    def __str__(self) -> str:
        return self.variant

    def __repr__(self) -> str:
        return f"<Variant: {self.variant}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variant):
            return NotImplemented
        return self.variant == other.variant

    def __hash__(self) -> int:
        return hash((Variant, self.variant))

    def __reduce__(self) -> tuple[type[Variant], tuple[str]]:
        return Variant, (self.variant,)

    def to_json(self) -> str:
        """Gives the JSON text of name and control flag, letter for letter as 1.0.9 did.

        Returns:
            `{"variant": "b", "is_control": false}`, ASCII only.
        """
        return json.dumps({"variant": self.variant, "is_control": self.is_control})


CONTROL_VARIANT = Variant(CONTROL)
