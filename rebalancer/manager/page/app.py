"""This module is the page's application: who may see it, and the headers of every answer of it."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
import trio

from rebalancer.manager.page.front import wants_html
from rebalancer.manager.page.session import is_session, session_of
from rebalancer.manager.page.templating import render
from rebalancer.serving.app import Answer, Request
from rebalancer.serving.quartapp import QuartApp
from rebalancer.tokens import Token

HTML = "text/html; charset=utf-8"
#: Everything comes from here, and nothing is written into a page as a script or a style.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Without the origin a browser would not say where a form was sent from.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: What is shown to whom has not logged in.
OPEN = ("/page/login", "/page/static/")
#: What an error is called.
TITLES = {
    400: "That cannot be done",
    403: "Not allowed",
    404: "Not found",
    405: "Not allowed",
    409: "Not possible now",
    500: "Something went wrong",
    503: "Not now",
}


@attrs.define(eq=False)
class Page(QuartApp):
    """The page is an application in HTML for browsers.

    Mutable state: whether the manager is stopping.
    """

    token: Token = attrs.field(factory=Token)
    #: Whether browsers speak TLS with the manager, so that no session goes another way.
    is_secure: bool = False
    stopping: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.admits = self._admits

    def is_logged_in(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request may see and change what the API's token is for."""
        token = self.token.value
        if token is None or self.token.is_borne_by(headers):
            return True
        return is_session(token, session_of(headers), time.time())

    def _admits(self, request: Request) -> bool:
        return request.path.startswith(OPEN) or self.is_logged_in(request.headers)

    async def _answer(
        self, request: Request, handler: Callable[..., Awaitable[Answer]], named: Any
    ) -> Answer:
        answer = await super()._answer(request, handler, named)
        return attrs.evolve(answer, headers={**HEADERS, **answer.headers})

    def refuse(
        self,
        request: Request | None,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer that tells of an error; who is not logged in can do so there."""
        values = {"title": TITLES.get(status, "Error"), "message": message, "status": status}
        name = "error.html"
        if status == 401 and (request is None or wants_html(request)):
            name, values = "login.html", {"message": "", "next": _target(request)}
        body = render(name, {**values, "has_token": False})
        return Answer(body, status, HTML, {**HEADERS, **(headers or {})})


def _target(request: Request | None) -> str:
    """Return where to go on after a login."""
    if request is None or request.method != "GET":
        return "/"
    query = urlencode(request.pairs)
    return f"{request.path}?{query}" if query else request.path


def local_target(text: str) -> str:
    """Return `text` if it is a place of this page, else the first page."""
    is_plain = text.isascii() and text.isprintable() and not {" ", "\\"} & set(text)
    return text if text.startswith("/page/") and is_plain and "//" not in text else "/"
