"""What the server says when it does not do what was asked: a status and a JSON object that says why."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An answer other than 2xx.

    Attributes:
        status: the HTTP status.
        content: the JSON body; its `error` is a sentence for a human.
        headers: further response headers.
    """

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.content: dict[str, Any] = {"error": error, **more}
        self.headers: dict[str, str] = {}
        if status == 401:  # noqa: PLR2004 - RFC 9110, 11.6.1: a 401 names its scheme
            self.headers["WWW-Authenticate"] = "Bearer"
