"""One settings record -> Experiment: the worker's half of reading the settings; `validation` is the leader's.

The leader reads the whole document once and publishes records; a worker decodes the record of an experiment
at its first use. A record is one JSON object, UTF-8, without spaces:

    name                    str     key of the experiment in the document
    error                   str     only if unusable: `ht_sdk_error` of every call; then, at most, `condition` follows
    test_id                 int     64 bits
    state                   str     absent if empty
    active                  bool
    shares                  object  variant -> share, in the order of the document
    condition               str     absent if `True`
    tag_names               list    absent if empty or the condition is `True`
    override_control        list    absent if empty
    override_b              list    absent if empty

The same entry always gives the same bytes, whatever else the document says; so records can be compared.
"""

from __future__ import annotations

import orjson

from hypotest import conditions
from hypotest.assignment import Experiment
from hypotest.errors import ConditionSyntaxError, SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE = "True"


def decode(record: bytes | memoryview) -> Experiment:
    """Makes the experiment of a record.

    Args:
        record: from `Document.records`; any bytes-like object.

    Raises:
        SettingsError: it is no record of this version.
    """
    try:
        fields = orjson.loads(record)
        name = fields["name"]
        text = fields.get("condition", _TRUE)
        if "error" in fields:
            return Experiment(name, 0, (), condition_text=text, error=fields["error"])
        return _experiment(name, text, fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"not a settings record: {error!r}") from error


def _experiment(name: str, text: str, fields: dict[str, Any]) -> Experiment:
    try:
        condition = conditions.parse(text, fields.get("tag_names", ()))
    except ConditionSyntaxError as error:  # accepted by the leader, of a newer version
        return Experiment(name, 0, (), condition_text=text, error=str(error))
    return Experiment(
        name,
        fields["test_id"],
        fields["shares"].items(),
        active=fields["active"],
        state=fields.get("state", ""),
        condition=None if condition is conditions.always else condition,
        condition_text=text,
        override_control=fields.get("override_control", ()),
        override_b=fields.get("override_b", ()),
    )
