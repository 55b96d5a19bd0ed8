"""The application as ASGI, without a framework: `GET /?<name of the work>`.

With HOSTS_THREADS it works in threads, as frameworks do with functions that are not coroutines. With HOSTS_SUBPROCESSES
it spawns short subprocesses all the time: uvloop runs the fork hooks for each of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tests.hosts.work import WORKING, Piece, early, work

_Message = MutableMapping[str, Any]
_AT_ONCE = 3

early()


async def application(
    scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
) -> None:
    """Serves one request, or the life of the server."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    ask = scope["query_string"].decode()
    told = await asyncio.to_thread(work, ask) if os.environ.get("HOSTS_THREADS") else await _work(ask)
    answer = json.dumps(told).encode()
    if ask.startswith("stuck"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # only SIGKILL ends this worker
    if ask.startswith(("hang", "stuck")):
        threading.Event().wait()  # as who calls what blocks: the whole loop stands still
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _work(ask: str) -> dict[str, Any]:
    piece = Piece(ask)
    await asyncio.sleep(WORKING)
    return piece.done()


async def _live(receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]) -> None:
    over = asyncio.Event()
    number = _AT_ONCE if os.environ.get("HOSTS_SUBPROCESSES") else 0
    spawning = [asyncio.create_task(_spawn(over)) for _ in range(number)]
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    over.set()
    await asyncio.gather(*spawning)
    await send({"type": "lifespan.shutdown.complete"})


async def _spawn(over: asyncio.Event) -> None:
    while not over.is_set():
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
