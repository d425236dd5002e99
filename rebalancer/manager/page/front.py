"""This module has the page and the API answer on one port: the one browsers, the other programs.

Whatever has `/page` before it is the page's, and `/` is for a client that says that it wants HTML.
All else is answered by the API as if there were no page.
"""

from collections.abc import Awaitable

import attrs

from rebalancer.manager.page.session import is_cross_site
from rebalancer.serving.app import Answer, Application, Request

CROSS_SITE = "a page of another site has sent this: nothing was done"


def is_for_page(request: Request) -> bool:
    """Tell whether the page answers a request."""
    if request.path == "/":
        return request.method in ("GET", "HEAD") and wants_html(request)
    return request.path == "/page" or request.path.startswith("/page/")


def wants_html(request: Request) -> bool:
    """Tell whether the client names HTML among what it can show."""
    kinds = request.headers.get("accept", "").split(",")
    return any(kind.partition(";")[0].strip().lower() == "text/html" for kind in kinds)


@attrs.define(eq=False, kw_only=True)
class Front(Application):
    """This application hands each request to the page or to the API."""

    api: Application
    page: Application
    program: str = attrs.field(init=False)
    max_body_bytes: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.program, self.max_body_bytes = self.api.program, self.api.max_body_bytes
        self.admits = self._admits

    def _of(self, request: Request) -> Application:
        return self.page if is_for_page(request) else self.api

    def _admits(self, request: Request) -> bool:
        is_refused = is_cross_site(request.method, request.headers)
        return not is_refused and self._of(request).admits(request)

    def begin(self, request: Request) -> tuple[bool, Awaitable[Answer]]:
        """Return whether the answer comes even if the client goes; and the answer to come."""
        if is_cross_site(request.method, request.headers):
            return True, self._refused(request)
        return self._of(request).begin(request)

    async def _refused(self, request: Request) -> Answer:
        return self._of(request).refuse(request, 403, CROSS_SITE)
