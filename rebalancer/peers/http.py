"""This module asks other services of the control plane by HTTP."""

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import attrs
import trio

from rebalancer import jsontext
from rebalancer.errors import PeerMalformed, PeerUnreachable
from rebalancer.peers.connections import (
    AnswerFailed,
    Connection,
    ConnectionFailed,
    Connections,
    Place,
)
from rebalancer.peers.names import locate, split_port

#: No answer of the control plane is larger: 500 storage nodes are about 400 KB.
MAX_BODY_BYTES = 64 << 20


@attrs.frozen
class Reply:
    """A reply is an answer whose body is whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return the body as text, for messages."""
        return self.body.decode(errors="replace").strip()

    def json(self) -> Any:
        """Return the parsed body.

        Raises:
          PeerMalformed: it is not JSON.
        """
        try:
            return jsontext.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise PeerMalformed(f"answer is not JSON: {exc}") from exc

    def retry_after_s(self, default: float) -> float:
        """Return the peer's Retry-After in seconds, at most a minute."""
        text = self.headers.get("retry-after", "")
        # Other scripts have digits too, and a date is as good as nothing.
        return min(float(text), 60.0) if text.isascii() and text.isdigit() else default


@attrs.frozen
class Answer:
    """The body of this answer is still on its way."""

    status: int
    headers: Mapping[str, str]
    _connection: Connection
    _host: str

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, piece by piece, as it arrives; once only."""
        while piece := await self._connection.piece():
            yield piece

    async def whole(self) -> Reply:
        """Return the whole answer.

        Raises:
          PeerMalformed: it is longer than `MAX_BODY_BYTES`.
        """
        body = bytearray()
        while piece := await self._connection.piece():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise PeerMalformed(f"{self._host}: answer is longer than {MAX_BODY_BYTES} bytes")
        return Reply(self.status, self.headers, bytes(body))


class Requests(Protocol):
    """Requests are sent to named hosts, and answered whole; `HttpClient` is the real one."""

    async def request(
        self,
        method: str,
        host: str,
        path: str,
        *,
        port: int = 80,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = 30.0,
    ) -> Reply:
        """Send a request and return its whole answer; see `HttpClient.request`."""


@attrs.frozen
class HttpClient:
    """A client sends requests to named hosts; `open_http` makes one."""

    _connections: Connections
    _hosts: Mapping[str, str]
    _scheme: str

    def over(self, scheme: str) -> "HttpClient":
        """Return a client of the same connections for peers that speak `http` or `https`."""
        return attrs.evolve(self, scheme=scheme)

    async def request(
        self,
        method: str,
        host: str,
        path: str,
        *,
        port: int = 80,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = 30.0,
    ) -> Reply:
        """Send a request and return its whole answer, within `within_s` seconds in all.

        `body` is sent as JSON, unless it is bytes, which are JSON already.

        Raises:
          PeerUnreachable: no answer came; whether the request had its effect is unknown.
          PeerMalformed: the answer is too long.
        """
        with trio.move_on_after(within_s):  # a trickling peer is never silent
            async with self.stream(
                method, host, path, port=port, body=body, headers=headers
            ) as answer:
                return await answer.whole()
        raise PeerUnreachable(f"{method} {host}{path}: no answer in {within_s} s")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        host: str,
        path: str,
        *,
        port: int = 80,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer as it comes; only the wait for each piece is bounded.

        Raises:
          PeerUnreachable: no answer came, or it broke off, also while it is read.
        """
        content = body if isinstance(body, bytes) else _json_of(body)
        # Unpacking has no bound, so nothing may be packed.
        lines = [("host", host), ("accept-encoding", "identity")]
        if content:
            lines.append(("content-type", "application/json"))
        if headers is not None:
            lines += headers.items()
        if content or method in ("POST", "PUT"):
            lines.append(("Content-Length", str(len(content))))
        try:
            connection = await self._connections.take(self._place(host, port))
            try:
                head = await connection.ask(method, path, lines, content)
                yield Answer(head.status, head.headers, connection, host)
            finally:
                self._connections.give_back(connection)
        except (ConnectionFailed, AnswerFailed) as exc:
            failure = PeerUnreachable(f"{method} {host}{path}: {_detail(exc)}")
            failure.was_sent = isinstance(exc, AnswerFailed)
            raise failure from exc

    def _place(self, host: str, port: int) -> Place:
        try:
            # A certificate is for the name, also where `hosts` says which address that is.
            name = split_port(host, port).host if self._scheme == "https" else None
            return Place(locate(host, self._hosts, port), name, host)
        except ValueError as exc:
            raise ConnectionFailed(str(exc)) from exc


def _json_of(body: Any) -> bytes:
    return b"" if body is None else json.dumps(body).encode()


def _detail(exc: BaseException) -> str:
    """Return what an error says, or what its cause does: TLS tells of certificates only there."""
    cause: BaseException | None = exc
    while cause is not None:
        if text := str(cause):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(exc).__name__


@asynccontextmanager
async def open_http(
    hosts: Mapping[str, str],
    *,
    read_s: float = 30.0,
    connections: int = 100,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpClient]:
    """Open a client without proxies from the environment, redirects or unbounded waits.

    With `tls` every peer must speak TLS, and show a certificate that it accepts.
    """
    kept = Connections(connections, read_s, tls)
    try:
        yield HttpClient(kept, hosts, "http" if tls is None else "https")
    finally:
        kept.close()
