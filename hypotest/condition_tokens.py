"""Text of a condition -> tokens. The grammar stands in `conditions`; this is its lowest layer.

A token is (kind, value, position). The kind is an operator or a keyword as spelled, or one of NAME (a tag or
an id), VALUE (a literal, read), METHOD (the word after a point), LEN, END. A list, tuple or set of plain literals is
one VALUE: it is read at once, since lists of ids are what makes conditions long.
"""

from __future__ import annotations

import re
from collections import Counter

from hypotest.errors import ConditionSyntaxError
from hypotest.interrupts import let_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    Token = tuple[str, Any, int]

MAX_LENGTH = 65_536  # characters of a condition
MAX_TOKENS = 3_072  # and as many backslashes: 64 KiB are read within 10 ms
MAX_ITEMS = 8_192  # of lists of plain literals
MAX_OF_ONE_HASH = 64  # items of a set, equal ones among them
MAX_DIGITS = 4_300  # of a number; Python's own limit since 3.10.7, because reading them is quadratic
MAX_SPECIAL_NAMES = 32  # tag names that are no identifiers: each is tried at each token
MAX_SPECIAL_NAME = 256  # characters of one

INVALID = "condition_to_enter_experiment is invalid"
NAME, VALUE, METHOD, LEN, END = "name", "value", "method", "len", "end of the text"
IDS = ("user_id", "visitor_id")

_KEYWORDS = frozenset(("and", "or", "not", "in", "is"))
_CONSTANTS = {"True": True, "False": False, "None": None}
_OPERATORS = frozenset(("==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", "{", "}", ",", ".", "-"))
_SINGLE = frozenset("()[]{},-")  # those that begin no other token
_COMPARING = frozenset("=!<>")
_DIGITS = frozenset("0123456789")
_WORDS = re.compile(r"[^\0-/:-@\[-\^`{-\x7f]*")  # so, ASCII's others, it compiles in 0.02 ms; the set itself takes 1.6
_BLANK = " \t\f\r\n"
_BLANKS = re.compile(f"[{_BLANK}]+")
_BLANKS_OF_A_LINE = re.compile("[ \t\f]+")
_QUOTES = frozenset("'\"")
_PREFIXES = frozenset("rRuU")
_OCTAL = frozenset("01234567")
_ESCAPES = dict(zip("'\"abfnrtv", "'\"\a\b\f\n\r\t\v", strict=True))
_HEX_DIGITS = "0123456789abcdefABCDEF"
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_ITEM = "|".join(
    (
        r"'[^'\\\r\n\0]*(?:\\[^\r\n\0][^'\\\r\n\0]*)*'",
        r'"[^"\\\r\n\0]*(?:\\[^\r\n\0][^"\\\r\n\0]*)*"',
        r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?",
        *_CONSTANTS,
    )
)
_ITEMS = re.compile(rf"(?:[{_BLANK}]*(?:{_ITEM})[{_BLANK}]*,){{1,{MAX_ITEMS}}}[{_BLANK}]*(?:{_ITEM})?[{_BLANK}]*")
_EACH_ITEM = re.compile(_ITEM)
_DEPTHS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def fail(message: str, position: int) -> NoReturn:
    """Raises the ConditionSyntaxError for something at this position (0 is the first character)."""
    raise ConditionSyntaxError(f"{INVALID}: {message} at character {position + 1}")


def tokenize(text: str, names: Iterable[str]) -> list[Token]:
    """Splits a condition into tokens, END last.

    Args:
        text: the condition.
        names: the tag names it may use.

    Raises:
        ConditionSyntaxError: not a token of the grammar, an undeclared name, or over a cap.
    """
    _check(text)
    text = text.rstrip(_BLANK)
    lexicon = _Lexicon(names)
    tokens: list[Token] = []
    depth = 0
    items = 0
    at = len(text) - len(text.lstrip(_BLANK))
    while at < len(text):
        char = text[at]
        if char in " \t\f" or (char in "\r\n" and depth):
            at = _end_of(_BLANKS if depth else _BLANKS_OF_A_LINE, text, at)
            continue
        if tokens and tokens[-1][0] == ".":
            end = _word_end(text, at)
            token: Token = (METHOD, text[at:end], at)
        elif char in _CLOSING and not _is_call(tokens) and (found := _collection(text, at)):
            token, end = found
            items += len(token[1])
            if items > MAX_ITEMS:
                fail(f"more than {MAX_ITEMS} items in lists", at)
        else:
            token, end = lexicon.read(text, at)
        if len(tokens) == MAX_TOKENS:
            fail(f"more than {MAX_TOKENS} tokens", at)
        tokens.append(token)
        depth += _DEPTHS.get(token[0], 0)
        at = end
    tokens.append((END, None, at))
    return tokens


def _check(text: str) -> None:
    if not isinstance(text, str):
        raise ConditionSyntaxError(f"{INVALID}: expected a text")
    if len(text) > MAX_LENGTH:
        raise ConditionSyntaxError(f"{INVALID}: longer than {MAX_LENGTH} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConditionSyntaxError(f"{INVALID}: not valid Unicode") from error
    if text.count("\\") > MAX_TOKENS:
        raise ConditionSyntaxError(f"{INVALID}: more than {MAX_TOKENS} backslashes")


def _is_call(tokens: Sequence[Token]) -> bool:
    return bool(tokens) and tokens[-1][0] in (LEN, METHOD)


def _collection(text: str, at: int) -> tuple[Token, int] | None:
    """Reads the list, tuple or set at `at` and tells where it ends, if it has a comma and plain literals only."""
    found = _ITEMS.match(text, at + 1)
    opening = text[at]
    if found is None or text[found.end() : found.end() + 1] != _CLOSING[opening]:
        return None
    each = _EACH_ITEM.findall(text, at + 1, found.end())
    if "\\" in found.group():
        items = [_item(item, at) for item in each]
    else:  # as a rule, texts: a call for each would take as long again
        items = [item[1:-1] if item[0] in _QUOTES else _item(item, at) for item in each]
    value = items if opening == "[" else tuple(items) if opening == "(" else set_of(items, at)
    return (VALUE, value, at), found.end() + 1


def _item(literal: str, at: int) -> float | str | None:
    if literal[0] in _QUOTES:
        return literal[1:-1] if "\\" not in literal else _unescape(literal[1:-1], at)
    if literal in _CONSTANTS:
        return _CONSTANTS[literal]
    return float(literal) if "." in literal else int(literal)


def set_of(items: Sequence[Any], position: int) -> set[Any]:
    """Makes the set of a set display; `{}` is none, and an item needs a hash."""
    if not items:
        fail("{} is no set", position)
    try:
        if crowded(items):
            fail("too many items of a set have one hash", position)
        return set(items)
    except TypeError as error:
        let_through(error)
        return fail("a set holds no lists or sets", position)


def crowded(items: Iterable[Any]) -> bool:
    """Whether a set of these would take quadratic time: multiples of 2**61 - 1 all have one hash."""
    return max(Counter(map(hash, items)).values(), default=0) > MAX_OF_ONE_HASH


def _is_word(name: str) -> bool:
    return bool(name) and name[0] not in _DIGITS and _word_end(name, 0) == len(name)


def _in_word(char: str) -> bool:
    return _word_end(char, 0) > 0


def _word_end(text: str, at: int) -> int:
    """End of the word at `at`. Everything beyond ASCII is part of a word: only a declared name can match it."""
    found = _WORDS.match(text, at)
    return found.end() if found is not None else at


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found is not None else at


class _Lexicon:
    """The names of one experiment, and how a token is read with them.

    Names that are no identifiers stand by their first character, the longest first.
    """

    __slots__ = ("_names", "_special")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        special = [name for name in self._names if name and not _is_word(name)]
        if len(special) > MAX_SPECIAL_NAMES:
            raise ConditionSyntaxError(f"{INVALID}: more than {MAX_SPECIAL_NAMES} tag names are no identifiers")
        if any(len(name) > MAX_SPECIAL_NAME for name in special):
            raise ConditionSyntaxError(
                f"{INVALID}: a tag name that is no identifier has more than {MAX_SPECIAL_NAME} characters"
            )
        self._special: dict[str, tuple[str, ...]] = {}
        for name in sorted(special, key=len, reverse=True):
            self._special[name[0]] = (*self._special.get(name[0], ()), name)

    def read(self, text: str, at: int) -> tuple[Token, int]:
        """Gives the token at `at`, which is no blank, and where it ends."""
        char = text[at]
        special = self._special.get(char)
        if special is not None and text.startswith(special, at):
            end = _special_end(special, text, at)
            if end:
                return (NAME, text[at:end], at), end
        if char in _SINGLE:
            return (char, None, at), at + 1
        if char in _COMPARING:
            return _symbol(text, at)
        if char in _QUOTES:
            return _string(text, at, at, raw=False)
        if char in _DIGITS or (char == "." and text[at + 1 : at + 2] in _DIGITS):
            return _number(text, at)
        end = _word_end(text, at)
        return self._word(text, at, end) if end > at else _symbol(text, at)

    def _word(self, text: str, at: int, end: int) -> tuple[Token, int]:
        word = text[at:end]
        if word in _PREFIXES and text[end : end + 1] in _QUOTES:
            return _string(text, at, end, raw=word in "rR")
        if word in _KEYWORDS:
            return (word, None, at), end
        if word in _CONSTANTS:
            return (VALUE, _CONSTANTS[word], at), end
        if word in self._names or word in IDS:
            return (NAME, word, at), end
        if word != LEN:
            fail(f"unknown name {word[:40]!r} (not among the tags)", at)
        return (LEN, None, at), end


def _special_end(names: tuple[str, ...], text: str, at: int) -> int:
    """End of the longest of `names` that stands at `at` and does not go on as a word; 0 if none does.

    One at least stands there; they are given longest first.
    """
    low, high = 0, len(names)
    while high - low > 1:  # half of them at once: with 32 names that begin alike, one by one took twice as long
        middle = (low + high) // 2
        if text.startswith(names[low:middle], at):
            high = middle
        else:
            low = middle
    for name in names[low:]:
        end = at + len(name)
        if text.startswith(name, at) and not (_in_word(name[-1]) and _in_word(text[end : end + 1])):
            return end
    return 0


def _symbol(text: str, at: int) -> tuple[Token, int]:
    symbol = text[at : at + 2] if text[at : at + 2] in _OPERATORS else text[at]
    if symbol not in _OPERATORS:
        fail(f"unexpected {symbol!r}", at)
    return (symbol, None, at), at + len(symbol)


def _number(text: str, at: int) -> tuple[Token, int]:
    end = _word_end(text, at)
    if text[at : at + 2].lower() not in ("0x", "0o", "0b"):
        if text[end : end + 1] == ".":
            end = _word_end(text, end + 1)
        if text[end - 1] in "eE" and text[end : end + 1] in ("+", "-"):
            end = _word_end(text, end + 1)
    literal = text[at:end]
    if len(literal) > MAX_DIGITS or not literal.isascii():
        fail(f"bad number {literal[:40]!r}", at)
    try:
        return (VALUE, _read_number(literal), at), end
    except ValueError as error:
        let_through(error)
        return fail(f"bad number {literal[:40]!r}", at)


def _read_number(literal: str) -> float:
    """Reads an int or float; `int(_, 0)` and `float` take digits, underscores and zeros as Python's syntax does."""
    if literal[:2].lower() == "0x" or not ("." in literal or "e" in literal.lower()):
        return int(literal, 0)
    return float(literal)


def _string(text: str, at: int, quote_at: int, *, raw: bool) -> tuple[Token, int]:
    quote = text[quote_at]
    if text.startswith(quote * 3, quote_at):
        fail("triple quotes are not supported", at)
    start = quote_at + 1
    close = text.find(quote, start)
    escape = text.find("\\", start, close) if close > 0 else -1
    while escape >= 0:
        if escape + 1 == close:
            close = text.find(quote, escape + 2)
        escape = text.find("\\", escape + 2, close) if close > 0 else -1
    if close < 0:
        fail("this text has no end", at)
    body = text[start:close]
    if "\n" in body or "\r" in body or "\0" in body:
        fail("a line break or NUL in a text", at)
    return (VALUE, body if raw or "\\" not in body else _unescape(body, at), at), close + 1


def _unescape(body: str, at: int) -> str:
    head, *pieces = body.split("\\")
    result = [head]
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        if not piece:  # two backslashes: one that is meant, and what follows it is plain
            result.append("\\" + (pieces[index + 1] if index + 1 < len(pieces) else ""))
            index += 2
            continue
        result.append(_escaped(piece, at))
        index += 1
    return "".join(result)


def _escaped(piece: str, at: int) -> str:
    """Gives the text of what follows a backslash; unknown escapes keep the backslash, as in Python."""
    char = piece[0]
    if char in _HEX_ESCAPES or char == "N":
        end = 1 + _HEX_ESCAPES.get(char, 0)
        digits = piece[1:end]
        if len(digits) != end - 1 or digits.strip(_HEX_DIGITS):  # by itself, int takes "0x2" for four of them
            fail("bad escape in the text", at)
        try:
            return chr(int(digits, 16)) + piece[end:]
        except (ValueError, OverflowError) as error:
            let_through(error)
            fail("bad escape in the text", at)
    if char in _OCTAL:
        end = next((i for i in (1, 2) if piece[i : i + 1] not in _OCTAL), 3)
        return chr(int(piece[:end], 8)) + piece[end:]
    return _ESCAPES[char] + piece[1:] if char in _ESCAPES else "\\" + piece
