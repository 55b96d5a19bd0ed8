"""Bytes as inputs of the targets: for what changes bytes and knows no grammar. The first byte names the target."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypotest import validation
from stress.fuzz import targets
from stress.fuzz.documents import Documents
from stress.fuzz.expressions import CODE, NAMES, NOISE, Supply
from stress.fuzz.guard import Target

_CONDITION, _DOCUMENT, _RECORD = b"cdr"
_TAGS: dict[str, object] = {
    "a": "a",
    "b": None,
    "age": 18,
    "country": "DE",
    "vip": True,
    "device-type": "tv",
    "país": [1, "x"],
}


def read(data: bytes) -> tuple[Target, object]:
    """The target and its argument."""
    first, rest = data[:1], data[1:]
    if first and first[0] == _DOCUMENT:
        return targets.document, rest
    if first and first[0] == _RECORD:
        return targets.record, rest
    return targets.condition, targets.Condition(rest.decode("utf-8", "surrogateescape"), NAMES, _TAGS)


def seeds(random: Random) -> Iterator[bytes]:
    """To begin with: conditions, documents and records of the grammar."""
    supply, documents = Supply(random), Documents(random)
    for code in CODE:
        yield _of_condition(f"{code} == 1")
    for _ in range(200):
        yield _of_condition(supply.valid()[0].text)
    for _ in range(50):
        yield bytes([_DOCUMENT]) + documents.document()[0]
    for record in records(documents):
        yield bytes([_RECORD]) + record


def records(documents: Documents) -> list[bytes]:
    """The records of all entries that are JSON."""
    bodies = (b'{"tests":{"x":%b}}' % entry for entry in documents.entries())
    return [record for body in bodies for record in validation.parse_document(body).records.values()]


def dictionary(random: Random) -> str:
    """What bytes are worth trying, in libFuzzer's form."""
    words = [*(noise.encode("utf-8", "surrogateescape" if noise < "\ud800" else "replace") for noise in NOISE)]
    words += [name.encode() for name in NAMES] + Documents(random).words()
    return "".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in words if 0 < len(word) < 50)


def _of_condition(text: str) -> bytes:
    return bytes([_CONDITION]) + text.encode("utf-8", "replace")
