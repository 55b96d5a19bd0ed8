"""The local server, `hypotest serve` (extra `server`): for development, tests and small installations.

    events:    POST -> body (bounded, gunzipped) -> batch (validated rows) -> store (SQLite, one writer)
    settings:  experiments file -> document -> experiments -> watch (last good version) -> GET
    results:   store -> results -> GET

`app` joins them as Starlette routes, `run` runs that in uvicorn. The client never imports this package.
"""
