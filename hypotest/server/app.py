"""The routes. Every answer is JSON, and every answer advertises gzip for request bodies (RFC 7694).

| | |
|---|---|
| `GET /v1/all_series_tests` | the settings document; strong ETag, If-None-Match -> 304 |
| `POST /v1/events` | `{"accepted": n, "duplicates": m}` once the batch is committed |
| `GET /v1/results` | see `results` |
| `GET /v1/accounts` | what is stored, and what was served since the start |
| `GET /v1/health` | `{"status": "ok"}`, without a token |

Errors are `{"error": "..."}` with 400, 401, 404, 405, 413, 415, 422, 503 or 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hypotest.server.batch import parse_batch
from hypotest.server.body import drain, read_body
from hypotest.server.refusal import Refusal
from hypotest.server.results import results
from hypotest.server.store import account_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hypotest.server.store import Added, Store
    from hypotest.server.watch import ExperimentsFile

DEFAULT_MAX_BODY = 16 * 1024 * 1024
MAX_AGENTS = 50

_log = logging.getLogger("hypotest.server")


@dataclass
class _Traffic:
    """What one account asked for since the start."""

    polls: int = 0
    not_modified: int = 0
    event_posts: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)

    def saw(self, agent: str) -> None:
        known = agent in self.agents or len(self.agents) < MAX_AGENTS
        self.agents[agent[:200] if known else "(others)"] += 1


@dataclass(frozen=True)
class _Account:
    id: int
    traffic: _Traffic = field(default_factory=_Traffic)


class _Routes:
    """What the routes share."""

    def __init__(self, store: Store, experiments: ExperimentsFile, tokens: Sequence[str], max_body: int) -> None:
        self.store = store
        self.experiments = experiments
        self.max_body = max_body
        self.started = time.time()
        # Looked up by hash: the time a look-up takes says nothing about a token.
        self.accounts = {account_key(token): _Account(store.account(token)) for token in tokens}

    async def settings(self, request: Request) -> Response:
        account = await self._account(request)
        account.traffic.polls += 1
        settings = self.experiments.settings
        headers = {"ETag": settings.etag, "Cache-Control": "no-cache"}
        if _matches(request.headers.getlist("if-none-match"), settings.etag):
            account.traffic.not_modified += 1
            return _respond(b"", 304, headers)
        return _respond(settings.body, 200, headers)

    async def events(self, request: Request) -> Response:
        account = await self._account(request)
        account.traffic.event_posts += 1
        try:
            encoding = request.headers.get("content-encoding", "")
            body = await read_body(request.stream(), encoding, self.max_body)
            loop = asyncio.get_running_loop()
            added = await loop.run_in_executor(self.store.writer, self._ingest, account.id, body)
        except Refusal as refusal:
            account.traffic.refused[refusal.status] += 1
            raise
        return _json({"accepted": added.accepted, "duplicates": added.duplicates})

    def _ingest(self, account: int, body: bytes) -> Added:
        return self.store.add(account, parse_batch(body, account))

    async def results(self, request: Request) -> Response:
        account = await self._account(request)
        return _json(await run_in_threadpool(self._results, account.id))

    def _results(self, account: int) -> dict[str, Any]:
        with self.store.reading() as connection:
            return results(connection, account, self.experiments.settings.tests)

    async def accounts_(self, request: Request) -> Response:
        account = await self._account(request)
        totals = await run_in_threadpool(self.store.totals, account.id)
        traffic, experiments = account.traffic, self.experiments
        return _json(
            {
                "events": totals.events,
                "by_type": totals.by_type,
                "without_id": totals.without_id,
                "duplicates": totals.duplicates,
                "since_start": {
                    "started": self.started,
                    "polls": traffic.polls,
                    "not_modified": traffic.not_modified,
                    "event_posts": traffic.event_posts,
                    "refused": {str(status): count for status, count in traffic.refused.items()},
                    "agents": traffic.agents,
                },
                "experiments": {
                    "count": len(experiments.settings.tests),
                    "etag": experiments.settings.etag,
                    "reads": experiments.reads,
                    "error": experiments.error,
                },
            }
        )

    async def health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def _account(self, request: Request) -> _Account:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = None
        if scheme.lower() == "bearer":
            account = self.accounts.get(account_key(token.strip()))
        if account is None:
            await drain(request.stream())
            given = scheme.lower() == "bearer" and token
            raise Refusal(401, "this token is not known here" if given else "send Authorization: Bearer TOKEN")
        account.traffic.saw(request.headers.get("user-agent", ""))
        return account


def create_app(
    store: Store, experiments: ExperimentsFile, tokens: Sequence[str], max_body: int = DEFAULT_MAX_BODY
) -> Starlette:
    """Makes the application; it closes the store when it shuts down.

    Args:
        store: where events go.
        experiments: already started.
        tokens: who may use it; each sees its own events only, all see the same experiments.
        max_body: bytes a request body may have, decompressed as well.
    """
    routes = _Routes(store, experiments, tokens, max_body)
    app = Starlette(
        routes=[
            Route("/v1/all_series_tests", routes.settings, methods=["GET"]),
            Route("/v1/events", routes.events, methods=["POST"]),
            Route("/v1/results", routes.results, methods=["GET"]),
            Route("/v1/accounts", routes.accounts_, methods=["GET"]),
            Route("/v1/health", routes.health, methods=["GET"]),
        ],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http_error,
            sqlite3.Error: _storage_failed,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=functools.partial(_lifespan, routes),
    )
    app.router.redirect_slashes = False
    return app


@contextlib.asynccontextmanager
async def _lifespan(routes: _Routes, _app: Starlette) -> AsyncIterator[None]:
    watching = asyncio.create_task(routes.experiments.watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await asyncio.to_thread(routes.store.close)


def _matches(headers: list[str], etag: str) -> bool:
    """Compares as RFC 9110, 13.1.2 has it: weakly."""
    given = {value.strip().removeprefix("W/") for header in headers for value in header.split(",")}
    return etag in given or "*" in given


def _respond(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {"Accept-Encoding": "gzip", **(headers or {})}, "application/json")


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return _respond(orjson.dumps(content), status, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101
    return _json(error.content, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    said = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not for {request.url.path}",
    }
    headers = dict(error.headers or {})
    return _json({"error": said.get(error.status_code, error.detail)}, error.status_code, headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    """The client hung up: nobody reads this, and nothing of the batch was stored."""
    return _json({"error": "the body did not arrive"}, 400)


async def _storage_failed(request: Request, error: Exception) -> Response:
    """A full disk, a database that another program holds locked: a transaction is kept whole or not at all."""
    _log.error("%s: the database failed: %s", request.url.path, error)
    return _json({"error": f"the database failed, nothing was stored: {error}"}, 503, {"Retry-After": "1"})


async def _failed(_request: Request, _error: Exception) -> Response:
    return _json({"error": "an error of the server; its log says which"}, 500)
