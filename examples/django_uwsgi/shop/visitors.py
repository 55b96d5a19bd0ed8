"""Who asks: an id in a cookie. Whatever page a visitor comes to first, the next one is to know the same visitor."""

import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


def visitor(request: HttpRequest) -> str:
    """Whoever asks: the id in the cookie, a new one at the first visit."""
    if not request.COOKIES.get("visitor"):
        request.COOKIES["visitor"] = request.new_visitor = uuid.uuid4().hex
    return request.COOKIES["visitor"]


def remember(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware: sets the cookie wherever an id was made."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if hasattr(request, "new_visitor"):
            response.set_cookie("visitor", request.new_visitor, httponly=True, samesite="Lax")
        return response

    return respond
