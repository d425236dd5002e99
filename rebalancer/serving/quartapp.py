"""This module has a quart-trio application answer requests, served as our own routes are.

quart is handed requests that were read whole, and hands its responses back, without the messages
of ASGI between: there an application pushes what it sends from a task that outlives the handler,
where a connection takes an answer and pulls its pieces.
"""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, cast

import attrs
from quart import Request as QuartRequest
from quart import Response
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from rebalancer.serving.app import Answer, Application, Request


def _make_quart() -> QuartTrio:
    made = QuartTrio(__name__, static_folder=None)
    # `//` in a path is no slip that a redirection, in HTML, should mend: there is no such path.
    made.url_map.merge_slashes = False
    # All applications answer to exceptions alike, and not by a page in HTML.
    made.config.update(PROPAGATE_EXCEPTIONS=True, TRAP_HTTP_EXCEPTIONS=True)
    return made


@attrs.define(eq=False)
class QuartApp(Application):
    """The routes of this application are those of `quart`.

    Its handlers are cancelled when the client goes.
    """

    quart: QuartTrio = attrs.field(init=False, factory=_make_quart)

    def begin(self, request: Request) -> tuple[bool, Awaitable[Answer]]:
        """Begin to answer; return whether to go on if the client goes, and the answer to come."""
        return False, self._answer(request, self._ask, [])

    async def _ask(self, request: Request) -> Answer:
        """Have quart answer a request.

        Raises:
          Exception: any that a handler does, but for quart's own.
        """
        try:
            response = await self.quart.handle_request(self._request(request))
        except HTTPException as exc:
            # All but its content type, which is HTML's: Allow above all.
            headers = {name: value for name, value in exc.get_headers() if name != "Content-Type"}
            return self.refuse(request, exc.code or 500, exc.description or exc.name, headers)
        return await _answer(cast(Response, response))

    def _request(self, request: Request) -> QuartRequest:
        is_too_long = request.content is None
        made = self.quart.request_class(
            request.method,
            "http",
            request.path,
            request.query.encode("latin1"),
            Headers(request.headers),
            root_path="",
            http_version="1.1",
            scope=cast(Any, {}),
            # Nothing of what is too long is here, and quart says so to a handler that wants it.
            max_content_length=0 if is_too_long else None,
            send_push_promise=_push_nothing,
        )
        made.body.set_result(request.content or (b"too long" if is_too_long else b""))
        return made


async def _push_nothing(_path: str, _headers: Headers) -> None:
    """Promise nothing, which HTTP/1.1 has no way to do."""


async def _answer(response: Response) -> Answer:
    headers = dict(response.headers)
    content_type = headers.pop("Content-Type")
    if headers.pop("Content-Length", None) is None:
        return Answer(_pieces(response), response.status_code, content_type, headers)
    body = await response.get_data(as_text=False)
    return Answer(body, response.status_code, content_type, headers)


async def _pieces(response: Response) -> AsyncGenerator[bytes, None]:
    async with response.response as body:
        async for piece in body:
            yield piece  # noqa: ASYNC119 - whoever sends the pieces closes them
