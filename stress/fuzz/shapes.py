"""Inputs as large as they may be, of the shapes that could cost the most."""

from __future__ import annotations

from random import Random

from stress.fuzz.targets import Condition

LONGEST = 65_536
_PRIME = 2**61 - 1
"""CPython's modulus of hashes: its multiples all have the hash 0."""

UNITS = (
    ("a == ", "(", ""), ("", "not ", "a"), ("a == ", "-", "1"), ("", "a<", "a"), ("", "a or ", "a"),
    ("", "not a or ", "a"),
    ("a in [", "1,", "]"), ("a in {", "1,", "2}"), ("a in [", "-1, ", "]"), ("a in [", "'x',", "]"),
    ("a in (", "'user-12345', ", ")"),
    ("a in [", "(1),", "]"), ("a in [", "(),", "]"), ("a in [", "(1,2),", "]"), ("a in [", "[1,", ""),
    ("a in [", "1.0e1,", "]"),
    ("a in [", "1 ,\n", "]"), ("", "(a)or", " a"), ("", "'a'", ""), ("a == '", "\\n", "'"), ("a == '", "\\x41", "'"),
    ("a == '", "\\\\", "'"),
    ("'", "\\'", "'"), ("'", "\\", ""), ("'", "x", "'"), ("'", "x", ""), ("a", " ", "== 1"), ("a", "\t", ""),
    ("", "a", ""), ("", "é", ""),
    ("", "!", ""), ("", "'", ""), ("", "len(a)<", "1"), ("", "len(", "a"), ("a", ".lower()", ""), ("", "a.strip(", ""),
    ("a.strip('", "b", "')"),
    ("'", "é", "'.upper().lower().upper().lower().upper().lower().upper() == ''"), ("'", "ΐ", "'.upper() == a.upper()"),
    ("a == ", "9", ""), ("a == 0x", "f", ""), ("a == 1.", "0", ""), ("a == 1e", "9", ""), ("a == ", "1_", "1"),
    ("", "9" * 4_300 + " <", "1"),
    ("a == ", "0x" + "f" * 4_000 + " < ", "1"), ("", "user_id != ", "a"), ("", "device-type == a or ", "a"),
    ("", "aaa! or ", "a!"),
    ("", "a-bbb<", "a"), ("a in [", "a, ", "]"), ("(", "1, ", "*"), ("", ".", ""), ("", "1.", ""), ("", "\0", ""),
    ("", "a is None is ", "None"),
    ("'", "ab", "' in 'abab'"), ("a in [", "'a' 'b', ", "]"), ("", "{1}<", "{2}"),
    ("a.startswith((", "'aaaaaaaa',", "))"),
)  # fmt: skip
"""(before, what is repeated, after)."""
_SPECIAL = tuple(f"{'a' * length}!" for length in range(1, 33))
_PREFIXES = tuple(f"a-{'b' * length}" for length in range(32))
_NAMES = (("a",), ("a", "device-type"), ("a", *_SPECIAL), ("a", "bbb", *_PREFIXES))


def fixed() -> list[Condition]:
    """Each shape at its largest, and those that make the most of many names with them."""
    found = [Condition(_repeated(unit, LONGEST), _NAMES[1], {"a": "a" * 1_000}) for unit in UNITS]
    for names, units in ((_NAMES[2], ("a<", "aaa! or ")), (_NAMES[3], ("a<", "a-bbb<"))):
        found += [Condition(_repeated(unit, LONGEST), names, {"a": "a"}) for unit in UNITS if unit[1] in units]
    ascii_text = f"'{'a' * 30_000}'.strip('{'b' * 30_000}a') == ''"
    wide = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    wide_text = f"'{'ā' * 30_000}'.strip('{wide}ā') == ''"
    texts = [_colliding("[]"), _colliding("{}"), _colliding("()"), ascii_text, wide_text, _mixed()]
    return [*found, *(Condition(text, ("a",), {"a": _PRIME}) for text in texts)]


def drawn(random: Random) -> Condition:
    """One of the shapes, of any length."""
    length = random.choice((random.randrange(LONGEST), LONGEST, LONGEST + 1))
    return Condition(
        _repeated(random.choice(UNITS), length), random.choice(_NAMES), {"a": random.choice((1, "a", "DE"))}
    )


def _repeated(unit: tuple[str, str, str], length: int) -> str:
    before, repeated, after = unit
    return before + repeated * ((length - len(before) - len(after)) // len(repeated)) + after


def _colliding(brackets: str) -> str:
    items = ",".join(str(_PRIME * number) for number in range(2_000))[: LONGEST - 20].rpartition(",")[0]
    return f"a in {brackets[0]}{items}{brackets[1]}"


def _mixed() -> str:
    """As much as the caps allow of everything at once."""
    chain = "a<" * 1_500 + "a or a in [" + "'x'," * 8_000 + "]"
    return chain + " " * (LONGEST - len(chain) - 6) + " or a"
