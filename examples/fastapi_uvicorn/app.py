"""A shop with two experiments: an ordinary FastAPI application, and one line for each question or fact.

The calls stand in coroutines as they are: none of them waits for the network, so none holds up the event loop. Token
and server come from HT_TOKEN and HT_SERVER_URL.

    GET  /           the page: which button, and which newsletter box if any
    POST /buy        the visitor buys
    POST /subscribe  the visitor subscribes to the newsletter
    GET  /ready      whether this host has settings
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Header, Response
from pydantic import BaseModel

import hypotest

app = FastAPI()


def visitor(response: Response, known: Annotated[str | None, Cookie(alias="visitor")] = None) -> str:
    """Whoever asks: the id in the cookie, a new one at the first visit."""
    if known:
        return known
    new = uuid.uuid4().hex
    response.set_cookie("visitor", new, httponly=True, samesite="lax")
    return new


def facts(
    x_country: Annotated[str | None, Header()] = None, x_request_id: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """What conditions may ask for and results may be split by; here, what a CDN in front of the shop knows."""
    return {"country": x_country, "request": x_request_id}


Visitor = Annotated[str, Depends(visitor)]
Facts = Annotated[dict[str, Any], Depends(facts)]


class Purchase(BaseModel):
    price: float = 1.0


@app.get("/")
async def home(who: Visitor, tags: Facts) -> dict[str, str | None]:
    """Asks HypoTest what this visitor is to see. Whoever is not in the newsletter's experiment sees no box."""
    button = hypotest.experiment("buy_button", visitor_id=who, tags=tags)
    box = hypotest.experiment("newsletter_box", visitor_id=who, tags=tags)
    return {"buy_button": str(button), "newsletter_box": None if box.is_control else str(box)}


@app.post("/buy")
async def buy(purchase: Purchase, who: Visitor, tags: Facts) -> dict[str, bool]:
    """Tells HypoTest that this visitor bought something, and what it was worth."""
    hypotest.kpi_event("purchase", visitor_id=who, value=purchase.price, tags=tags)
    return {"bought": True}


@app.post("/subscribe")
async def subscribe(who: Visitor, tags: Facts) -> dict[str, bool]:
    """Tells HypoTest that this visitor subscribed."""
    hypotest.kpi_event("signup", visitor_id=who, tags=tags)
    return {"subscribed": True}


@app.get("/ready")
async def ready(response: Response) -> dict[str, bool]:
    """For a load balancer. `wait_until_ready` with 0 does not wait; with more it would, and wants a thread."""
    settings = hypotest.wait_until_ready(0)
    response.status_code = 200 if settings else 503
    return {"ready": settings}
