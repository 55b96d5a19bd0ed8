"""A shop with two experiments: ordinary Django views, and one line for each question or fact."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET, require_POST

import hypotest
from shop.visitors import visitor


def facts(request: HttpRequest) -> dict[str, Any]:
    """What conditions may ask for and results may be split by; here, what a CDN in front of the shop knows."""
    return {"country": request.headers.get("X-Country"), "request": request.headers.get("X-Request-Id")}


@require_GET
def home(request: HttpRequest) -> JsonResponse:
    """Asks HypoTest what this visitor is to see. Whoever is not in the newsletter's experiment sees no box."""
    who, tags = visitor(request), facts(request)
    button = hypotest.experiment("buy_button", visitor_id=who, tags=tags)
    box = hypotest.experiment("newsletter_box", visitor_id=who, tags=tags)
    return JsonResponse({"buy_button": str(button), "newsletter_box": None if box.is_control else str(box)})


@require_POST
def buy(request: HttpRequest) -> JsonResponse:
    """Tells HypoTest that this visitor bought something, and what it was worth."""
    try:
        price = float(request.POST.get("price", 1.0))
    except ValueError:
        return JsonResponse({"error": "price is a number"}, status=400)
    hypotest.kpi_event("purchase", visitor_id=visitor(request), value=price, tags=facts(request))
    return JsonResponse({"bought": True})


@require_POST
def subscribe(request: HttpRequest) -> JsonResponse:
    """Tells HypoTest that this visitor subscribed."""
    hypotest.kpi_event("signup", visitor_id=visitor(request), tags=facts(request))
    return JsonResponse({"subscribed": True})


@require_GET
def ready(_request: HttpRequest) -> JsonResponse:
    """For a load balancer: whether this host has settings. The first call in a worker also wakes HypoTest there."""
    settings = hypotest.wait_until_ready(0)
    return JsonResponse({"ready": settings}, status=200 if settings else 503)
