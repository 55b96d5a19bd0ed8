"""Conditions by their grammar. Each is made together with its value, which Python's operators give operand by operand.

So the reader and the nodes of the SDK are compared with something that never reads a text. What a batch is made of is
drawn anew for each batch; within it, operands and comparisons are drawn from a supply.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from stress.fuzz.targets import FAILS, NO_BOOL, OUTSIDE, Condition

NAMES = ("a", "b", "age", "country", "vip", "gone", "device-type", "geo.country", "país")
_FAILS: Any = object()
_OR, _AND, _NOT, _COMPARISON, _OPERAND = range(5)
_TEXTS = (
    "",
    "x",
    "DE",
    "de",
    " a ",
    "u",
    "'",
    '"',
    "\\",
    "é",
    "🙂",
    "\t\n",
    "ẞ",
    "user_id",
    "(a+)+$",
    "\u2028",
    "a, b",
)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
    " not \t in ": lambda left, right: left not in right,
}
_SINGLETONS = {"None": None, "True": True, "False": False}

CODE = (
    "__import__('os').system('true')", "().__class__.__base__.__subclasses__()", "open('/etc/passwd')", "exec('1')",
    "eval('1')", "compile('1', '', 'eval')", "(lambda: True)()", "[x for x in (1, 2)]", "a.__class__", "a.__class__()",
    "{1: 2}", "f'{a}'", "b'x'", "'''a'''", "'\\N{BEL}'", "a[0]", "a + 'x'", "a % 'x'", "'%s' % a", "2 ** 99",
    "'a' * 99999999", "1 if a else 2", "(a := 1)", "*a", "print(a)", "tags['a']", "globals()", "a.format(a)",
    "'{0.__class__}'.format(a)", "a.encode()", "a.join(a)", "a.replace('a', 'b')", "a.lower.__call__()",
    "a.match('(a+)+$')",
    "a =~ '(a+)+$'", "(a+)+$", "a matches '(a+)+$'", "len", "len(a, a)", "a ; a", "a # b", "a\n== 1 or\n", "import os",
    "yield a",
    "await a", "a.lower", "a is b", "a is 'x'", "nobody", "True.real", "().count(1)", "[].append(1)", "0777", "1__0",
    "1e",
    "0x", "9" * 4_301, "'\\ud8'", "'\x00'", "\ud800", "a\u00a0", "...", "a, b", "()()", "len('a')()", "{}", "{[1]}",
    "[a]",
)  # fmt: skip
"""Texts that are outside the grammar, wherever an operand may stand."""
NOISE = (
    *"()[]{}'\"\\,.-+*/%=<>!&|^~@#$?:;`_ \t\n\r\f\v\0aberuxUNL019\u00a0é🙂\u2028\ud800\ufeff",
    " and ", " or ", " not ", " in ", " is ", "==", "<=", "len(", ".lower()", ".strip(", ".startswith(", "user_id",
    "'x'",
    "device-type", "0x", "1e", "'''", "lambda", "__class__", "None", "True", "(", ")",
)  # fmt: skip


class Expression(NamedTuple):
    """A text, its value (or _FAILS), and what binds it."""

    text: str
    value: Any
    level: int


class Supply:
    """What one batch draws from: tags with their values, operands, collections, comparisons."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.tags = {name: self._tag() for name in NAMES if name != "gone"}
        self.user_id = random.choice((None, "u", "DE", ""))
        self.visitor_id = random.choice((None, "v"))
        scope = {**self.tags, "user_id": self.user_id, "visitor_id": self.visitor_id, "gone": _FAILS}
        names = [Expression(name, value, _OPERAND) for name, value in scope.items()]
        literals = [self._literal() for _ in range(60)]
        self._collections = [self._collection(literals) for _ in range(40)]
        self._operands = names * 4 + literals + self._collections[:10]
        self._operands += [self._called() for _ in range(60)]
        self._texts = [operand for operand in self._operands if isinstance(operand.value, str)]
        self._numbers = [operand for operand in self._operands if isinstance(operand.value, (int, float))]
        self._comparisons = [self._comparison() for _ in range(300)]

    def valid(self) -> tuple[Condition, bool | str]:
        """A condition, and what comes of it."""
        expression = self.expression()
        value = expression.value
        outcome = FAILS if value is _FAILS else value if isinstance(value, bool) else NO_BOOL
        return self._condition(expression.text), outcome

    def outside(self) -> tuple[Condition, str]:
        """A condition with something in it that is outside the grammar."""
        random = self._random
        code = random.choice(CODE)
        form = random.choice(("{}", "({}) == 1", "not ({})", "len({}) < 2", "a == ({})", "[1, {}] == a", "a.strip({})"))
        text = form.replace("{}", code, 1)
        before, after = self.expression().text, self.expression().text
        joint = random.choice((" or ", " and "))
        return self._condition(f"({before}){joint}{text}{joint}({after})"), OUTSIDE

    def broken(self) -> Condition:
        """A condition with some characters changed; it may be one all the same."""
        random = self._random
        text = self.expression().text
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(text) + 1)
            to = at + random.randrange(4)
            text = text[:at] + random.choice(NOISE) + text[to if random.random() < 0.5 else at :]
        return self._condition(text)

    def _condition(self, text: str) -> Condition:
        return Condition(text, NAMES, self.tags, self.user_id, self.visitor_id)

    def expression(self) -> Expression:
        """Comparisons, joined at random."""
        random = self._random
        found = random.choice(self._comparisons)
        for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
            kind = random.random()
            if kind < 0.2:
                found = _not(found)
            elif kind < 0.3:
                found = Expression(f"(\n{found.text} )", found.value, _OPERAND)
            else:
                other = random.choice(self._comparisons)
                pair = (found, other) if kind < 0.6 else (other, found)
                found = _joined(*pair, both=random.random() < 0.5)
        return found

    def _tag(self) -> Any:
        random = self._random
        kind = random.randrange(8)
        if kind < 3:
            return random.choice(_TEXTS)
        return (random.randrange(-3, 100), random.random(), None, True, [1, "x"])[kind - 3]

    def _literal(self) -> Expression:
        random = self._random
        if random.random() < 0.5:
            value: Any = random.choice(_TEXTS)
            forms = (repr(value), ascii(value), f"u{value!r}", f"{value!r} ''")
            return Expression(random.choice(forms), value, _OPERAND)
        if random.random() < 0.3:
            name, value = random.choice(list(_SINGLETONS.items()))
            return Expression(name, value, _OPERAND)
        if random.random() < 0.3:
            value = random.random() * 10 ** random.randrange(-5, 20)
            return Expression(repr(value), value, _OPERAND)
        value = random.choice((0, 1, 2, 17, 2**31, 2**63, 2**64 + 1, random.randrange(10**6)))
        if random.random() < 0.2:
            return Expression(f"-{value}", -value, _OPERAND)
        return Expression(random.choice((str, hex, oct, bin, "{:_}".format))(value), value, _OPERAND)

    def _collection(self, literals: list[Expression]) -> Expression:
        random = self._random
        items = random.choices(literals, k=random.randrange(1, 6))
        values = [item.value for item in items]
        text = random.choice((", ", ",", " ,\n")).join(item.text for item in items)
        kind = random.randrange(3)
        if kind == 0:
            return Expression(f"[{text}]", values, _OPERAND)
        if kind == 1:
            return Expression(f"({text},)", tuple(values), _OPERAND)
        return Expression(f"{{{text}}}", set(values), _OPERAND)

    def _called(self) -> Expression:
        random = self._random
        kind = random.randrange(7)
        inner = random.choice(self._operands)
        if kind > 1 and not isinstance(inner.value, str):
            inner = random.choice(self._operands)
        if kind == 0:
            return Expression(f"len({inner.text})", _tried(len, inner.value), _OPERAND)
        if kind == 1:
            return Expression(f"-({inner.text})", _tried(operator.neg, inner.value), _OPERAND)
        if kind == 2:
            other = random.choice(self._operands)
            method = random.choice(("startswith", "endswith"))
            value = _tried(lambda text, part: operator.methodcaller(method, part)(text), inner.value, other.value)
            return Expression(f"({inner.text}).{method}({other.text})", value, _OPERAND)
        if kind == 3:
            other = random.choice(self._operands)
            value = _tried(lambda text, marks: text.strip(marks), inner.value, other.value)
            return Expression(f"({inner.text}) . strip({other.text})", value, _OPERAND)
        method = ("lower", "upper", "strip")[kind - 4]
        return Expression(f"({inner.text}).{method}()", _tried(operator.methodcaller(method), inner.value), _OPERAND)

    def _comparison(self) -> Expression:
        random = self._random
        first = random.choice(self._operands)
        kind = random.random()
        if kind < 0.1:
            return first
        if kind < 0.25:
            name, singleton = random.choice(list(_SINGLETONS.items()))
            if random.random() < 0.5:
                return Expression(f"{first.text} is {name}", _tried(operator.is_, first.value, singleton), _COMPARISON)
            return Expression(
                f"{first.text} is not {name}", _tried(operator.is_not, first.value, singleton), _COMPARISON
            )
        text, left, value = first.text, first.value, first.value
        for number in range(1 + (random.random() < 0.2)):
            name = random.choice(list(_OPERATORS))
            right = random.choice(self._alike(left, name))
            text = f"{text} {name} {right.text}"
            if number == 0 or (value is not _FAILS and value):
                value = _tried(_OPERATORS[name], left, right.value)
            left = right.value
        return Expression(text, value, _COMPARISON)

    def _alike(self, left: Any, name: str) -> list[Expression]:
        """What to compare this with: mostly something that Python can compare."""
        if self._random.random() < 0.1:
            return self._operands
        if "in" in name:
            return self._collections
        return self._texts if isinstance(left, str) else self._numbers


def _tried(function: Callable[..., Any], *values: Any) -> Any:
    if any(value is _FAILS for value in values):
        return _FAILS
    try:
        return function(*values)
    except (TypeError, AttributeError):
        return _FAILS


def _bound(expression: Expression, level: int) -> str:
    return expression.text if expression.level >= level else f"({expression.text})"


def _not(inner: Expression) -> Expression:
    return Expression(f"not {_bound(inner, _NOT)}", _FAILS if inner.value is _FAILS else not inner.value, _NOT)


def _joined(left: Expression, right: Expression, *, both: bool) -> Expression:
    level, word = (_AND, "and") if both else (_OR, "or")
    decided = left.value is _FAILS or bool(left.value) is not both
    return Expression(
        f"{_bound(left, level)} {word} {_bound(right, level)}", left.value if decided else right.value, level
    )
