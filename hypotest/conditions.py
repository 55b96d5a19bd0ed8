r"""The condition grammar: text -> closure. Settings are data: nothing of them is ever run as code.

    expression  = comparison-or-not { ("and" | "or") ... }       precedence as in Python
    comparison  = operand { ("==" | "!=" | "<" | "<=" | ">" | ">=" | ["not"] "in") operand
                          | "is" ["not"] ("None" | "True" | "False") }     chains as in Python
    operand     = "-" operand | atom { "." method }
    method      = ("startswith(" | "endswith(") expression ")" | "strip(" [expression] ")" | "lower()" | "upper()"
    atom        = name | literal | collection | "(" expression ")" | "len(" expression ")"
    collection  = list, tuple or non-empty set of literals, minus signs and collections
    name        = a tag name of the experiment, user_id or visitor_id; matched whole
    literal     = int, float, True, False, None, and str in single or double quotes

Within it, the value is what Python's own evaluation gives, operand by operand; a test compares the two.
Decisions at its edges:

* A str has the escapes of Python, but for `\N{...}`; the prefixes r and u; neighbours are joined. Triple
  quotes, f-strings, bytes, comments and line continuations are outside.
* A line break separates tokens inside brackets, and is ignored at both ends of the text.
* A tag name need not be an identifier: `device-type == 'tv'` works when `device-type` is among the names
  (as it did in 1.0.9); the longest name wins. The words of the grammar cannot be names, `len` can.
* A tag is read with `.get`: the caller's tags are never changed, not even a defaultdict.
* A name that is not declared makes the condition invalid, also where Python would not reach it.

* A set may not hold many items of one hash, and `strip` takes 256 characters at most: both would cost the square.

Cost: reading is linear in the text, evaluation visits each token at most once and makes nothing larger than
its inputs, ten times at most. The caps bound both to 10 ms for the longest text; they also bound recursion, so no text
leads to a RecursionError. `python -m stress fuzz` puts that to the test.
"""

from __future__ import annotations

from hypotest import condition_nodes as nodes
from hypotest.condition_nodes import MAX_DEPTH, Node
from hypotest.condition_tokens import END, INVALID, LEN, METHOD, NAME, VALUE, fail, set_of, tokenize
from hypotest.errors import ConditionError
from hypotest.interrupts import let_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn

    from hypotest.condition_nodes import Run
    from hypotest.condition_tokens import Token

    Condition = Callable[[Mapping[str, object] | None, str | None, str | None], bool]

FAILED = "condition_to_enter_experiment failed"
_METHODS = {  # arguments: least, most
    "startswith": (1, 1),
    "endswith": (1, 1),
    "strip": (0, 1),
    "lower": (0, 0),
    "upper": (0, 0),
}
_NO_TAGS: dict[str, object] = {}


def parse(text: str, names: Iterable[str]) -> Condition:
    """Turns a condition into a closure.

    Args:
        text: the condition, as the settings have it.
        names: the tag names it may use; `user_id` and `visitor_id` always may be used.

    Returns:
        A callable of (tags or None, user_id or None, visitor_id or None) that gives a bool, and raises
        ConditionError if the condition is not boolean or fails on these tags. For the constant condition
        `True` it is the function `always`, so that the hot path can leave the call out.

    Raises:
        ConditionSyntaxError: the text is outside the grammar or over a cap.
    """
    if text == "True":
        return always
    node = _Parser(tokenize(text, names)).parse()
    if node.constant and node.value is True:
        return always
    return _guarded(node.run)


def always(tags: Mapping[str, object] | None, user_id: str | None, visitor_id: str | None) -> bool:  # noqa: ARG001 - the signature of a condition
    """Answers True: what `parse` gives for the condition `True`."""
    return True


def _guarded(run: Run) -> Condition:
    """Gives every outcome of an evaluation its one form: a bool, or a ConditionError."""

    def condition(tags: Mapping[str, object] | None, user_id: str | None, visitor_id: str | None) -> bool:
        # Tags are the caller's objects: their operators may raise anything.
        try:
            value = run(_NO_TAGS if tags is None else tags, user_id, visitor_id)
        except Exception as error:
            let_through(error)
            raise ConditionError(f"{FAILED}: {_describe(error)}") from error
        if value is True or value is False:
            return value
        raise ConditionError(INVALID)

    return condition


def _describe(error: Exception) -> str:
    try:
        return (str(error) or type(error).__name__)[:200]
    except Exception as worse:  # noqa: BLE001 - the caller's exception may not even have a text
        let_through(worse)
        return type(error).__name__


def _shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError as error:  # an int of more digits than Python writes; in hexadecimal it reads them
        let_through(error)
        return "a number"


class _Parser:
    """Recursive descent over the tokens of one condition."""

    __slots__ = ("_at", "_level", "_names", "_tokens")

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._level = 0
        self._names = dict(nodes.ID_NODES)

    def parse(self) -> Node:
        node = self._expression()
        if self._kind() != END:
            self._unexpected()
        return node

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _take(self, kind: str) -> bool:
        found = self._tokens[self._at][0] == kind
        self._at += found
        return found

    def _expect(self, kind: str) -> None:
        if not self._take(kind):
            self._unexpected()

    def _unexpected(self) -> NoReturn:
        kind, value, position = self._tokens[self._at]
        fail(f"unexpected {kind if value is None else _shown(value)}", position)

    def _expression(self) -> Node:
        self._level += 1
        if self._level > MAX_DEPTH:
            fail(f"nested deeper than {MAX_DEPTH} levels", self._tokens[self._at][2])
        alternatives: list[Node] = []
        conjunction = [self._negation()]
        while True:
            if self._take("and"):
                conjunction.append(self._negation())
                continue
            alternatives.append(nodes.and_(conjunction))
            if not self._take("or"):
                self._level -= 1
                return nodes.or_(alternatives)
            conjunction = [self._negation()]

    def _negation(self) -> Node:
        count = 0
        while self._take("not"):
            count += 1
        node = self._comparison()
        for _ in range(count):
            node = nodes.not_(node)
        return node

    def _comparison(self) -> Node:
        first = self._operand()
        rest: list[tuple[str, Node]] = []
        while True:
            name = self._operator()
            if not name:
                return nodes.compare(first, rest) if rest else first
            right = self._operand()
            if name in ("is", "is not") and not nodes.is_singleton(right):
                fail("expected None, True or False after 'is'", self._tokens[self._at - 1][2])
            rest.append((name, right))

    def _operator(self) -> str:
        kind = self._kind()
        if kind == "not":
            self._at += 1
            self._expect("in")
            return "not in"
        if kind not in nodes.COMPARISONS:
            return ""
        self._at += 1
        return "is not" if kind == "is" and self._take("not") else kind

    def _operand(self) -> Node:
        count = 0
        while self._take("-"):
            count += 1
        node = self._atom()
        while self._take("."):
            node = self._method(node)
        for _ in range(count):
            node = nodes.negative(node)
        return node

    def _method(self, node: Node) -> Node:
        kind, name, position = self._tokens[self._at]
        if kind != METHOD or name not in _METHODS:
            fail(f"expected one of the methods {', '.join(_METHODS)}", position)
        self._at += 1
        arguments = self._arguments()
        least, most = _METHODS[name]
        if not least <= len(arguments) <= most:
            fail(f"{name}() takes {least} to {most} arguments", position)
        return nodes.call(name, node, arguments)

    def _arguments(self) -> list[Node]:
        self._expect("(")
        if self._take(")"):
            return []
        argument = self._expression()
        self._expect(")")
        return [argument]

    def _atom(self) -> Node:
        kind, value, position = self._tokens[self._at]
        if kind == VALUE:
            return nodes.constant(self._literal())
        if kind == NAME:
            self._at += 1
            return self._names.get(value) or self._names.setdefault(value, nodes.tag(value))
        if kind not in (LEN, "(", "[", "{"):
            self._unexpected()
        self._at += 1
        if kind == "(":
            return self._parenthesis()
        if kind == "[":
            return nodes.constant(self._items("]"))
        if kind == "{":
            return nodes.constant(set_of(self._items("}"), position))
        arguments = self._arguments()
        if not arguments:
            fail("len() takes one argument", position)
        return nodes.length(arguments[0])

    def _literal(self) -> Any:
        value = self._tokens[self._at][1]
        self._at += 1
        if not isinstance(value, str):
            return value
        parts = [value]
        while self._kind() == VALUE and isinstance(self._tokens[self._at][1], str):
            parts.append(self._tokens[self._at][1])
            self._at += 1
        return "".join(parts)

    def _parenthesis(self) -> Node:
        if self._take(")"):
            return nodes.constant(())
        position = self._tokens[self._at][2]
        node = self._expression()
        if self._take(")"):
            return node
        self._expect(",")
        return nodes.constant((nodes.item(node, position), *self._items(")")))

    def _items(self, closing: str) -> list[Any]:
        items: list[Any] = []
        while not self._take(closing):
            kind, value, position = self._tokens[self._at]
            if kind == VALUE and self._tokens[self._at + 1][0] in (",", closing):
                self._at += 1  # the usual item of a long list: no node is made for it
                items.append(value)
            else:
                items.append(nodes.item(self._expression(), position))
            if not self._take(","):
                self._expect(closing)
                break
        return items
