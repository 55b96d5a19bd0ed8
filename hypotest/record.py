"""Frozen records, in place of dataclasses: one of twenty fields would add a millisecond to our import."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Record:
    """The annotations of a subclass are its fields, what is assigned to them their defaults."""

    def __init__(self, **values: object) -> None:
        """Takes fields by name; the others keep their defaults.

        Raises:
            TypeError: it has no such field.
        """
        unknown = values.keys() - self.__annotations__.keys()
        if unknown:
            raise TypeError(f"a {type(self).__name__} has no {', '.join(sorted(unknown))}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        values = {name: getattr(self, name) for name in self.__annotations__}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
