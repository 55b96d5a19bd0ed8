"""A shop with two experiments: an ordinary Flask application, and one line for each question or fact.

Nothing in it knows that there are several processes: no hook, no thread, no set-up after the fork. Token, server and
state directory come from HT_TOKEN, HT_SERVER_URL and HT_STATE_DIR, or from `hypotest.config()`.

    GET  /           the page: which button, and which newsletter box if any
    POST /buy        the visitor buys
    POST /subscribe  the visitor subscribes to the newsletter
    GET  /worker     the process that answers, and how HypoTest is doing in it
"""

from __future__ import annotations

import os
import uuid
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request

import hypotest

app = Flask(__name__)


def visitor() -> str:
    """Whoever asks: the id in the cookie, a new one at the first visit."""
    known = request.cookies.get("visitor")
    if known:
        return known
    if "new_visitor" not in g:
        g.new_visitor = uuid.uuid4().hex
    return str(g.new_visitor)


@app.after_request
def remember(response: Response) -> Response:
    """Sets the cookie wherever an id was made: whatever page a visitor comes to first."""
    if "new_visitor" in g:
        response.set_cookie("visitor", g.new_visitor, httponly=True, samesite="Lax")
    return response


def facts() -> dict[str, Any]:
    """What conditions may ask for and results may be split by; here, what a CDN in front of the shop knows."""
    return {"country": request.headers.get("X-Country"), "request": request.headers.get("X-Request-Id")}


@app.get("/")
def home() -> Response:
    """Asks HypoTest what this visitor is to see. Whoever is not in the newsletter's experiment sees no box."""
    who, tags = visitor(), facts()
    button = hypotest.experiment("buy_button", visitor_id=who, tags=tags)
    box = hypotest.experiment("newsletter_box", visitor_id=who, tags=tags)
    return jsonify(buy_button=str(button), newsletter_box=None if box.is_control else str(box))


@app.post("/buy")
def buy() -> Response:
    """Tells HypoTest that this visitor bought something, and what it was worth."""
    try:
        price = float(request.form.get("price", 1.0))
    except ValueError:
        abort(400, "price is a number")
    hypotest.kpi_event("purchase", visitor_id=visitor(), value=price, tags=facts())
    return jsonify(bought=True)


@app.post("/subscribe")
def subscribe() -> Response:
    """Tells HypoTest that this visitor subscribed."""
    hypotest.kpi_event("signup", visitor_id=visitor(), tags=facts())
    return jsonify(subscribed=True)


@app.get("/worker")
def worker() -> Response:
    """Shows this process: which settings it has, whether it leads. `report_event=False`: looking is no exposure."""
    box = hypotest.experiment("newsletter_box", visitor_id="nobody", tags=facts(), report_event=False)
    status = hypotest.status()
    return jsonify(
        pid=os.getpid(),
        generation=status.generation,
        is_leader=status.is_leader,
        newsletter_box=None if box.is_control else str(box),
    )
