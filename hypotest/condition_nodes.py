"""The nodes of a condition: closures of (tags, user_id, visitor_id). See `conditions` for the grammar.

Each gives what Python's own operator gives on the same operands, and raises what it raises.
"""

from __future__ import annotations

import operator

from hypotest.condition_tokens import INVALID, crowded, fail
from hypotest.errors import ConditionError, ConditionSyntaxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Run = Callable[[Any, Any, Any], Any]

MAX_DEPTH = 50  # brackets, `not`, minus signs, methods and operators within each other
METHOD_DEPTH = 5  # of them a method takes: each makes another copy of its text
MAX_STRIPPED = 256  # characters of the argument of `strip`, which looks for each of the text's among all of them

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
    "is": operator.is_,
    "is not": operator.is_not,
}
_PLAIN_TYPES = frozenset((str, int, float, bool, type(None)))
_MISSING = object()


class Node:
    """A closure, the depth of its calls, and its value if it is a constant."""

    __slots__ = ("constant", "depth", "run", "value")

    def __init__(self, run: Run, depth: int, *, constant: bool = False, value: Any = None) -> None:
        if depth > MAX_DEPTH:
            raise ConditionSyntaxError(f"{INVALID}: nested deeper than {MAX_DEPTH} levels")
        self.run = run
        self.depth = depth
        self.constant = constant
        self.value = value


def constant(value: Any) -> Node:
    """Gives the node of a literal or a collection of them."""
    return Node(lambda _t, _u, _v: value, 1, constant=True, value=value)


def item(node: Node, position: int) -> Any:
    """Gives the value of an element of a collection; it must be a constant."""
    if not node.constant:
        fail("a list, tuple or set holds literals only", position)
    return node.value


def is_singleton(node: Node) -> bool:
    """Tells whether this is None, True or False, the right operands of `is`."""
    return node.constant and (node.value is None or isinstance(node.value, bool))


def tag(name: str) -> Node:
    """Reads a tag, by `.get`: a defaultdict's `[]` would change the caller's tags."""

    def run(tags: Any, _user_id: Any, _visitor_id: Any) -> Any:
        value = tags.get(name, _MISSING)
        if value is _MISSING:
            raise ConditionError(f"the tag {name!r} is missing")
        return value

    return Node(run, 1)


ID_NODES = {
    "user_id": Node(lambda _t, user_id, _v: user_id, 1),
    "visitor_id": Node(lambda _t, _u, visitor_id: visitor_id, 1),
}


def length(node: Node) -> Node:
    """Evaluates `len(node)`."""
    run = node.run
    return Node(lambda t, u, v: len(run(t, u, v)), node.depth + 1)


def not_(node: Node) -> Node:
    """Evaluates `not node`."""
    run = node.run
    return Node(lambda t, u, v: not run(t, u, v), node.depth + 1)


def negative(node: Node) -> Node:
    """Evaluates `-node`; of a number it is a literal again, so that lists may hold it."""
    if type(node.value) in (int, float, bool):
        return constant(-node.value)
    run = node.run
    return Node(lambda t, u, v: -run(t, u, v), node.depth + 1)


def call(method: str, node: Node, arguments: Sequence[Node]) -> Node:
    """Evaluates `node.method()` or `node.method(argument)`, the object first, as Python does."""
    run = node.run
    bound = operator.attrgetter(method)
    if not arguments:
        return Node(lambda t, u, v: bound(run(t, u, v))(), node.depth + METHOD_DEPTH)
    argument = _strippable(arguments[0].run) if method == "strip" else arguments[0].run
    depth = METHOD_DEPTH + max(node.depth, arguments[0].depth)
    return Node(lambda t, u, v: bound(run(t, u, v))(argument(t, u, v)), depth)


def _strippable(run: Run) -> Run:
    def argument(tags: Any, user_id: Any, visitor_id: Any) -> Any:
        value = run(tags, user_id, visitor_id)
        if isinstance(value, str) and len(value) > MAX_STRIPPED:
            raise ConditionError(f"strip() takes at most {MAX_STRIPPED} characters")
        return value

    return argument


def and_(nodes: Sequence[Node]) -> Node:
    """Gives the first falsy operand, or the last one."""
    if len(nodes) == 1:
        return nodes[0]
    *heads, tail = (node.run for node in nodes)

    def run(tags: Any, user_id: Any, visitor_id: Any) -> Any:
        for head in heads:
            value = head(tags, user_id, visitor_id)
            if not value:
                return value
        return tail(tags, user_id, visitor_id)

    return Node(run, 1 + max(node.depth for node in nodes))


def or_(nodes: Sequence[Node]) -> Node:
    """Gives the first truthy operand, or the last one."""
    if len(nodes) == 1:
        return nodes[0]
    *heads, tail = (node.run for node in nodes)

    def run(tags: Any, user_id: Any, visitor_id: Any) -> Any:
        for head in heads:
            value = head(tags, user_id, visitor_id)
            if value:
                return value
        return tail(tags, user_id, visitor_id)

    return Node(run, 1 + max(node.depth for node in nodes))


def compare(first: Node, rest: Sequence[tuple[str, Node]]) -> Node:
    """Evaluates a chain of comparisons: each operand is evaluated once, at most."""
    depth = 1 + max(first.depth, *(node.depth for _, node in rest))
    left = first.run
    links = [(_comparison(name, node), node.run) for name, node in rest]
    if rest[0][1].constant and len(rest) == 1:
        compare, value = links[0][0], rest[0][1].value
        return Node(lambda t, u, v: compare(left(t, u, v), value), depth)
    *heads, (last, last_right) = links

    def run(tags: Any, user_id: Any, visitor_id: Any) -> Any:
        value = left(tags, user_id, visitor_id)
        for compare, right in heads:
            operand = right(tags, user_id, visitor_id)
            result = compare(value, operand)
            if not result:
                return result
            value = operand
        return last(value, last_right(tags, user_id, visitor_id))

    return Node(run, depth)


def _comparison(name: str, right: Node) -> Callable[[Any, Any], Any]:
    """Gives the function for an operator; membership in plain constants becomes a set's.

    Only for left operands of the plain types: there hash and equality agree with a scan. Any other
    object may define both as it likes, or have no hash, and gets the scan that Python would do.
    """
    compare = COMPARISONS[name]
    plain = isinstance(right.value, (list, tuple)) and all(type(item) in _PLAIN_TYPES for item in right.value)
    if name not in ("in", "not in") or not plain or crowded(right.value):
        return compare
    members = frozenset(right.value)

    def contains(left: Any, items: Any) -> Any:
        return compare(left, members if type(left) in _PLAIN_TYPES else items)

    return contains
