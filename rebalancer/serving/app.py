"""This module says how an application answers: by a route's handler, or by an exception's meaning.

`App` has routes of its own, few and plain, and is all that there is of a framework where a request
has to cost little; other kinds of `Application` answer in their own way.  No I/O.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TypeVar
from urllib.parse import parse_qsl

import attrs

from rebalancer.errors import BodyTooLarge, RebalancerError, RequestError, Unavailable, leaves
from rebalancer.log import get_logger
from rebalancer.serving.errors import error_body

NOT_FOUND = (
    "The requested URL was not found on the server. "
    "If you entered the URL manually please check your spelling and try again."
)
NOT_ALLOWED = "The method is not allowed for the requested URL."
TOO_LARGE = "The data value transmitted exceeds the capacity limit."

INTERNAL = "internal error: see the log"

log = get_logger()


@attrs.define(eq=False)
class Request:
    """A request has been read whole."""

    method: str
    #: The path is decoded; `query` is not.
    path: str
    query: str = ""
    #: The headers, by their names in lower case.
    headers: Mapping[str, str] = attrs.field(factory=dict)
    #: The body; None if it is larger than the application takes.
    content: bytes | None = b""

    @property
    def body(self) -> bytes:
        """Return the body.

        Raises:
          BodyTooLarge: it is larger than is taken.
        """
        if self.content is None:
            raise BodyTooLarge(TOO_LARGE)
        return self.content

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return the parameters of the query, in order."""
        return parse_qsl(self.query, keep_blank_values=True, errors="replace")

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of the query, the first of each name."""
        return dict(reversed(self.pairs))

    @property
    def prefers_json(self) -> bool:
        """Tell whether the client wants JSON rather than text."""
        return prefers_json(self.headers.get("accept", ""))


def prefers(accept: str, media_type: str) -> bool:
    """Tell whether Accept names a media type explicitly and first."""
    return accept.split(",")[0].split(";")[0].strip() == media_type


def prefers_json(accept: str) -> bool:
    """Tell whether Accept names application/json explicitly and first."""
    return prefers(accept, "application/json")


def cause_of(exc: Exception) -> Exception:
    """Return what an exception is about: of a group of our own errors, the first."""
    if isinstance(exc, ExceptionGroup):
        found = list(leaves(exc))
        if all(isinstance(one, RebalancerError) for one in found):
            return found[0]
    return exc


@attrs.define(eq=False)
class Answer:
    """An answer has a body that is whole, or comes in pieces."""

    body: bytes | AsyncGenerator[bytes, None] = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def error(
        cls, status: int, message: str, headers: Mapping[str, str], *, is_json: bool
    ) -> "Answer":
        """Return the answer that tells of an error."""
        body, head = error_body(message, is_json=is_json)
        content_type = head.pop("Content-Type")
        return cls(body, status, content_type, {**head, **headers})


Handler = Callable[..., Awaitable[Answer]]
_H = TypeVar("_H", bound=Handler)
#: Turns an exception that is no `RequestError` into one, if it is known what it means.
Meaning = Callable[[Exception, Request], RequestError | None]


@attrs.define(eq=False)
class Application(ABC):
    """An application decides which requests it answers, and how it tells of errors.

    Errors are answered as text, as the predecessors' were, unless the client or `errors_are_json`
    wants JSON.
    """

    #: The value of the header `Server`.
    program: str
    max_body_bytes: int
    errors_are_json: bool = False
    #: Called with each request.
    on_request: Callable[[Request], None] = lambda _request: None
    #: Tells whether a request is answered at all, by its head: its body may not be there yet.
    admits: Callable[[Request], bool] = lambda _request: True
    meaning: Meaning = lambda _exc, _request: None

    @abstractmethod
    def begin(self, request: Request) -> tuple[bool, Awaitable[Answer]]:
        """Begin to answer; return whether to go on if the client goes, and the answer to come."""

    async def _answer(self, request: Request, handler: Handler, named: Iterable[str]) -> Answer:
        try:
            self.on_request(request)
            if not self.admits(request):
                challenge = {"WWW-Authenticate": "Bearer"}
                text = "a valid token is required: Authorization: Bearer"
                return self.refuse(request, 401, text, challenge)
            return await handler(request, *named)
        except Exception as exc:
            return self._failed(request, exc)

    def _failed(self, request: Request, exc: Exception) -> Answer:
        """Return the answer to a request that met an exception."""
        cause = cause_of(exc)
        error = cause if isinstance(cause, RequestError) else self.meaning(cause, request)
        if error is None:
            log.error("request failed", path=request.path, exc_info=exc)
            return self.refuse(request, 500, INTERNAL)
        later = {}
        if isinstance(error, Unavailable):
            later["Retry-After"] = str(error.retry_after_s)
        return self.refuse(request, error.status, str(error), later)

    def refuse(
        self,
        request: Request | None,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer that tells of an error, in the form that the client wants."""
        is_json = self.errors_are_json or (request is not None and request.prefers_json)
        return Answer.error(status, message, headers or {}, is_json=is_json)


@attrs.frozen
class Route:
    """A route is a method and a path, and the handler that answers.

    Parts of the path like `<name>` may be anything.  A `brief` route answers at once, or by what
    goes on even if the client goes.
    """

    method: str
    path: str
    handler: Handler
    is_brief: bool

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of the path."""
        return tuple(self.path.split("/"))

    def matches(self, parts: list[str]) -> bool:
        """Tell whether the path of these parts is of this route."""
        return len(parts) == len(self.parts) and all(
            mine == part or (mine[:1] == "<" and part != "")
            for mine, part in zip(self.parts, parts, strict=True)
        )

    def named(self, parts: list[str]) -> list[str]:
        """Return what stands in the places of names."""
        return [part for mine, part in zip(self.parts, parts, strict=True) if mine[:1] == "<"]


@attrs.define(eq=False)
class App(Application):
    """This application has a plain table of routes of its own.

    Mutable state: the routes, until it is served.
    """

    #: Whether a slash may follow a path.
    takes_slash: bool = False
    routes: list[Route] = attrs.field(factory=list)

    def _add(self, method: str, path: str, is_brief: bool) -> Callable[[_H], _H]:
        def add(handler: _H) -> _H:
            self.routes.append(Route(method, path, handler, is_brief))
            return handler

        return add

    def get(self, path: str, *, brief: bool = False) -> Callable[[_H], _H]:
        """Have a handler answer GET, and HEAD, of this path."""
        return self._add("GET", path, brief)

    def post(self, path: str, *, brief: bool = False) -> Callable[[_H], _H]:
        """Have a handler answer POST of this path."""
        return self._add("POST", path, brief)

    def put(self, path: str, *, brief: bool = False) -> Callable[[_H], _H]:
        """Have a handler answer PUT of this path."""
        return self._add("PUT", path, brief)

    def delete(self, path: str, *, brief: bool = False) -> Callable[[_H], _H]:
        """Have a handler answer DELETE of this path."""
        return self._add("DELETE", path, brief)

    def begin(self, request: Request) -> tuple[bool, Awaitable[Answer]]:
        """Begin to answer; return whether to go on if the client goes, and the answer to come."""
        parts = request.path.split("/")
        if self.takes_slash and len(parts) > 2 and not parts[-1]:
            del parts[-1]
        method = "GET" if request.method == "HEAD" else request.method
        of_path = [route for route in self.routes if route.matches(parts)]
        for route in of_path:
            if route.method == method:
                return route.is_brief, self._answer(request, route.handler, route.named(parts))
        return True, self._answer(request, partial(self._unrouted, of_path), [])

    async def _unrouted(self, of_path: list[Route], request: Request) -> Answer:
        """Answer a request that no route is for, where those `of_path` want other methods."""
        if not of_path:
            return self.refuse(request, 404, NOT_FOUND)
        methods = {"OPTIONS"}
        for route in of_path:
            methods |= {"GET", "HEAD"} if route.method == "GET" else {route.method}
        allow = {"Allow": ", ".join(sorted(methods))}
        if request.method == "OPTIONS":
            return Answer(content_type="text/plain; charset=utf-8", headers=allow)
        return self.refuse(request, 405, NOT_ALLOWED, allow)
