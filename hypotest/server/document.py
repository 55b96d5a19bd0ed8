"""YAML and JSON text as data, with the line of every key of the two upper levels and no key twice."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Lines: TypeAlias = "dict[tuple[str, ...], int]"

_KEPT_LEVELS = 3  # tests / NAME / field


class DocumentError(ValueError):
    """The text is not a document; the message says where."""


@dataclass(frozen=True)
class Document:
    """Data, and the line (from 1) of each key by its path, as far as known: JSON has none."""

    data: Any
    lines: Lines = field(default_factory=dict)


def parse(text: str, *, is_json: bool, as_written: Container[str] = ()) -> Document:
    """Parses a document.

    Args:
        text: of the file.
        is_json: whether it is JSON, else YAML.
        as_written: fields of an experiment in which YAML's numbers are texts: 0123 is not 83 there.

    Raises:
        DocumentError: syntax, a key that occurs twice, or nothing at all.
    """
    if not text.strip():
        raise DocumentError("the file is empty (write {} for no experiments)")
    try:
        return _parse_json(text) if is_json else _parse_yaml(text, as_written)
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None


def _parse_json(text: str) -> Document:
    try:
        return Document(json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise DocumentError(f"line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # an integer of more digits than Python reads
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DocumentError(f"{twice!r} is there twice")
    return result


def _no_constant(name: str) -> Any:
    raise DocumentError(f"{name} is not a number")


def _parse_yaml(text: str, as_written: Container[str]) -> Document:
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise DocumentError(" ".join(str(error).split())) from None
    try:
        node = loader.get_single_node()
        if node is None:
            raise DocumentError("the file is empty (write {} for no experiments)")
        lines: Lines = {}
        _check_keys(node, (), lines)
        for name, field in _fields(node):
            if name in as_written:
                _keep_numbers(field)
        return Document(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise DocumentError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # the last two: `2024-13-45`, `{[]: 1}`
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(" ".join(str(error).split())) from None
    finally:
        loader.dispose()


def _fields(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """The fields of all experiments, whether they stand at the top or under `tests`."""
    level = [node]
    for _ in range(_KEPT_LEVELS):
        pairs = [pair for inner in level if isinstance(inner, yaml.MappingNode) for pair in inner.value]
        yield from ((str(key.value), value) for key, value in pairs)
        level = list({id(value): value for _, value in pairs}.values())  # an alias is the same node again


def _keep_numbers(node: yaml.Node) -> None:
    """Turns the numbers in a field, a mapping of lists or a list, into the texts that they are written as."""
    inner = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else [node]
    for listed in inner:
        for item in listed.value if isinstance(listed, yaml.SequenceNode) else ():
            if item.tag in _NUMBERS:
                item.tag = _TEXT


def _check_keys(node: yaml.Node, path: tuple[str, ...], lines: Lines) -> None:
    """Records lines and refuses duplicates, of which PyYAML silently keeps the last."""
    if not isinstance(node, yaml.MappingNode) or len(path) >= _KEPT_LEVELS + 1:
        return
    seen: set[str] = set()
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen and name != "<<":
            raise DocumentError(f"line {line}: {name!r} is there twice")
        seen.add(name)
        inner = (*path, name)
        lines[inner] = line
        _check_keys(value, inner, lines)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, and only `true` and `false` are booleans: a variant may be called `on` or `no`."""


_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_BOOL = "tag:yaml.org,2002:bool"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in (_BOOL, _TIMESTAMP) or (tag == _BOOL and first in "tTfF")
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
