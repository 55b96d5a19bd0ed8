"""Settings documents and records by their grammar: right and wrong fields side by side, and bytes that are changed."""

from __future__ import annotations

import json
from random import Random
from typing import Any

GOOD = "good"
GOOD_ENTRY = (
    b'{"test_id":1,"condition_to_enter_test":"country == \'DE\'","tag_names":["country"],'
    b'"variants_distribution":{"b":1},"test_state":"","test_active":true}'
)
GOOD_ANSWERS = ("b", "b", "b", "control, an error", "control, an error")
"""Of `targets._CALLS`, for the entry that stands in every document and has to be unharmed."""

_ANYTHING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 1.0, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, "", "x", "True", "7", "é",
    "\ud800", "\0",
    "a\nb", [], {}, [None], [[]], [1, "x"], ["x", "x"], {"b": 1}, {"control": 0.5, "b": 0.5}, {"": {}},
    ["country", "age"],
    "__import__('os')", "x" * 300, [["x"] * 5] * 3, {"a": {"a": {"a": {"a": []}}}},
)  # fmt: skip
_RIGHT: dict[str, tuple[Any, ...]] = {
    "test_id": (0, 1, 7, -3, 2**40, 2**63 - 1),
    "condition_to_enter_test": (
        "True", "country == 'DE'", "age >= 18 and country in ['DE', 'FR']", "user_id is not None", "(a+)+$", "age >",
        "not age",
        "country.lower() == 'de' or visitor_id == 'v-17'", "open('/etc/passwd')", "0x" + "f" * 4_000,
        "age 0x" + "f" * 4_000,
    ),
    "variants_distribution": ({"control": 0.5, "b": 0.5}, {"b": 1}, {"a": 0.1, "b": 0.2, "c": 0.7}, {"b": 0}, {"b": 9}),
    "test_state": ("", "running", "calibration"),
    "test_active": (True, False),
    "tag_names": ([], ["country"], ["country", "age", "device-type"], ["country", "age"]),
    "override_control": ([], ["u"], ["1", 2, None]),
    "override_b": ([], ["u", "v-17"], [["u"]]),
    "test_name": ("x", None),
    "of a newer server": _ANYTHING,
}  # fmt: skip
_ODD = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b'"\\ud800"', b'"\xed\xa0\x80"', b"9" * 4_300)
_BROKEN = (
    b"9" * 5_000,
    b"0" * 20,
    b"[" * 2_000,
    b"",
    b"\xff",
    b"\0",
    b'"\xff"',
    b'"\n"',
    b"'x'",
    b"tru",
    b'"x',
    b'"\\x"',
    b"1.",
)
_MARKS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\",
    b"\\u",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"null",
    b"1",
    b'"x":',
)
_CHANGES = (*_MARKS, *_ODD, *_BROKEN)


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


class Documents:
    """What one batch draws documents from: entries, some of them right."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._entries = [self._entry() for _ in range(100)]

    def document(self) -> tuple[bytes, bool | None]:
        """A document, and whether it has to be read, with GOOD in it unharmed; None where nobody knows."""
        random = self._random
        named = [(b'"%d"' % number, *random.choice(self._entries)) for number in range(random.randrange(4))]
        named.insert(random.randrange(len(named) + 1), (b'"%b"' % GOOD.encode(), GOOD_ENTRY, True))
        body = b'{"tests":{%b}}' % b",".join(name + b":" + entry for name, entry, _ in named)
        readable = all(readable for _, _, readable in named)
        kind = random.random()
        if kind < 0.4:
            return body, readable
        if kind < 0.45:
            return b"\xef\xbb\xbf" + body, readable
        if kind < 0.5:
            return body.decode("latin-1").encode(random.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32"))), False
        return self._changed(body), None

    def record(self, records: list[bytes]) -> bytes:
        """One of the records, mostly with some bytes changed."""
        return self._changed(self._random.choice(records))

    def entries(self) -> list[bytes]:
        """Those that are JSON."""
        return [entry for entry, readable in self._entries if readable]

    def words(self) -> list[bytes]:
        """What stands in documents, and what should not."""
        return [*_CHANGES, *(b'"%b":' % field.encode() for field in _RIGHT)]

    def _entry(self) -> tuple[bytes, bool]:
        random = self._random
        fields = {field: random.choice(values) for field, values in _RIGHT.items()}
        parts = {field: _written(value) for field, value in fields.items()}
        readable = True
        for _ in range(random.randrange(3)):
            field = random.choice(list(_RIGHT))
            kind = random.random()
            if kind < 0.7:
                parts[field] = _written(random.choice(_ANYTHING))
            elif kind < 0.9:
                parts.pop(field, None)
            elif kind < 0.97:
                parts[field] = random.choice(_ODD)
            else:
                parts[field] = random.choice(_BROKEN)
                readable = False
                break
        texts = [b'"%b":%b' % (field.encode(), value) for field, value in parts.items()]
        if random.random() < 0.1:
            texts.append(random.choice(texts))
        return b"{%b}" % b",".join(texts), readable

    def _changed(self, body: bytes) -> bytes:
        random = self._random
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(body) + 1)
            to = at + random.randrange(4)
            body = body[:at] + random.choice(_CHANGES) + body[to if random.random() < 0.5 else at :]
        return body if random.random() < 0.9 else body[: random.randrange(len(body) + 1)]
