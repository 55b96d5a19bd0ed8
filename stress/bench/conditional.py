"""Eppo again, with a rule of two attributes: what our calls with a condition of two tags are compared with."""

from __future__ import annotations

import atexit
import json
from typing import Any

from stress.bench.aside import fetch
from stress.bench.formats import VARIANTS, name
from stress.bench.peer import Call, Peer

_ATTRIBUTES: dict[str, str | int | float | bool | None] = {"country": "DE", "plan": "pro"}
_RULE = {
    "conditions": [
        {"attribute": "country", "operator": "ONE_OF", "value": ["DE"]},
        {"attribute": "plan", "operator": "ONE_OF", "value": ["pro", "team"]},
    ]
}


def _eppo(url: str, experiments: int) -> Call:
    """As without a rule: settings given at the start, nothing polled, nothing delivered."""
    from eppo_client import AssignmentLogger, ClientConfig, Configuration, init

    class Log(AssignmentLogger):  # type: ignore[misc]
        def log_assignment(self, event: dict[str, Any]) -> None:
            """Delivers nothing."""

    base, first = f"{url}/{experiments}/eppo", name(0)
    document = json.loads(fetch(base))
    document["flags"][first]["allocations"][0]["rules"] = [_RULE]
    client = init(
        ClientConfig(
            api_key="bench",
            base_url=base,
            assignment_logger=Log(),
            poll_interval_seconds=None,
            initial_configuration=Configuration(flags_configuration=json.dumps(document).encode()),
        )
    )
    atexit.register(client.shutdown)
    ask = client.get_string_assignment
    assert ask(first, "ready", _ATTRIBUTES, "default") in VARIANTS
    assert ask(first, "ready", _ATTRIBUTES | {"country": "FR"}, "default") == "default"
    return lambda user: ask(first, user, _ATTRIBUTES, "default")


EPPO = Peer("eppo-server-sdk, rule", "eppo-server-sdk", "eppo_client", "the same with a rule of two attributes", _eppo)
