"""This module reads requests from a client's connection and writes the answers, in HTTP/1.1.

h11 reads and writes the protocol.  A request is read whole, within bounds, before the application
sees it; a request that cannot be one is answered with 4xx here.  Nothing is shielded, so that
whoever cancels a connection's scope is rid of it at once, whatever its client does.
"""

import math
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import attrs
import h11
import trio

from rebalancer.serving.app import Answer, Application, Request
from rebalancer.serving.bounds import Bounds

#: Bytes of one read, and of one write that must be taken within `Bounds.send_s`.
PIECE = 64 << 10
#: How long, and how many bytes, the rest of a request that was answered early is taken: if a
#: connection is closed over unread bytes, it is reset, and the answer is lost with it.
LINGER_S, LINGER_BYTES = 1.0, 1 << 20
#: Other tasks have their turn after so many pieces of a body, which may be of one byte each.
MANY = 4

_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
#: A name, whose labels have up to 63 characters, or an address; empty too.
_HOST = re.compile(
    rb"(?:[\w-]{1,63}(?:\.[\w-]{1,63}){0,126}\.?|\[[0-9A-Fa-f:.]{2,45}\])?(?::[0-9]{0,5})?"
)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Refusal(Exception):
    """A refused request reaches no application: a status, 4xx or 503, and a text answer it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Gone(Exception):
    """The client has closed its connection, or does not take its answer."""


@attrs.define
class Budget:
    """A budget is memory for large bodies, which the connections of a port share.

    Mutable state: what is left of it.
    """

    left: int

    def take(self, size: int) -> bool:
        """Take `size` bytes, if there are as many."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.left += size


@attrs.define(eq=False)
class Connection:
    """This object reads a client's requests and has the application answer them.

    Mutable state: the state of the protocol; since when the client keeps us waiting, if it does;
    whether it is within a request, and whether this one shall be its last; memory taken.
    """

    app: Application
    stream: Stream
    bounds: Bounds
    budget: Budget
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: When the wait for the client began; None while the client waits for us.
    waits_since: float | None = attrs.field(factory=trio.current_time)
    is_idle: bool = True
    is_last: bool = False
    taken: int = 0
    _is_at_end: bool = False
    _protocol: h11.Connection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._protocol = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self.bounds.head_bytes
        )

    @property
    def may_go(self) -> float:
        """Return when another client may have this place; infinite while an answer is made."""
        since = math.inf if self.waits_since is None else self.waits_since
        return since + self.bounds.patience_s

    async def run(self) -> None:
        """Answer requests until the client goes, breaks a bound, or the scope is cancelled."""
        with self.scope:
            try:
                await self._shake_hands()
                while await self._answer_one():
                    pass
            except (Gone, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # clients may go at any time
            finally:
                self._release_budget()
        with trio.move_on_after(LINGER_S):
            with suppress(trio.BrokenResourceError):
                await self.stream.aclose()

    def end_after_answer(self) -> None:
        """Close the connection: now if nothing is under way, else after what is."""
        self.is_last = True
        if self.is_idle:
            self.scope.cancel()

    # --- requests --------------------------------------------------------------------------

    async def _shake_hands(self) -> None:
        if isinstance(self.stream, trio.SSLStream):
            with trio.move_on_after(self.bounds.handshake_s) as bound:
                await self.stream.do_handshake()
            if bound.cancelled_caught:
                raise Gone

    async def _answer_one(self) -> bool:
        """Read a request and answer it; return whether there can be another one."""
        head: h11.Request | None = None
        try:
            if (head := await self._head()) is None:
                return False
            headers = dict(head.headers)
            _check(head, headers)
            request = _request(head)
            request.content = await self._body(head, headers, request)
        except Refusal as refusal:
            await self._refuse(refusal, head)
        except h11.RemoteProtocolError as exc:
            # h11 hints at 501 for an unknown coding, which is the client's fault and not ours.
            status = exc.error_status_hint if exc.error_status_hint < 500 else 400
            await self._refuse(Refusal(status, f"no HTTP/1.1: {exc}"), head)
        else:
            self.waits_since = None
            await self._answer(head, request)
            self._release_budget()
        if self.is_last or not self.can_go_on:
            await self._linger()
            return False
        self._protocol.start_next_cycle()
        self.is_idle, self.waits_since = True, trio.current_time()
        return True

    @property
    def can_go_on(self) -> bool:
        """Tell whether the request has been read to its end, and another one may follow."""
        ends = (h11.DONE, h11.SEND_RESPONSE, h11.SEND_BODY)
        is_open = self._protocol.our_state in ends and self._protocol.their_state is h11.DONE
        return is_open and not self._is_at_end

    async def _head(self) -> h11.Request | None:
        """Read the head of the next request; None if none comes."""
        deadline = trio.current_time() + self.bounds.idle_s
        while True:
            event = self._protocol.next_event()
            if isinstance(event, h11.Request):
                self.is_idle = False
                return event
            if event is not h11.NEED_DATA:
                return None
            if self.is_idle and self._protocol.trailing_data[0]:
                self.is_idle = False
                deadline = trio.current_time() + self.bounds.head_s
            with trio.move_on_at(deadline) as bound:
                # No more, so that what is longer is seen before it is whole.
                await self._receive(self.bounds.head_bytes)
            if bound.cancelled_caught:
                if self.is_idle:
                    return None
                raise Refusal(408, f"no whole head within {self.bounds.head_s:g} s")

    async def _body(
        self, head: h11.Request, headers: dict[bytes, bytes], request: Request
    ) -> bytes | None:
        """Read the body of a request, unless it is refused whatever is in it; None if too long."""
        most = self.app.max_body_bytes
        if int(headers.get(b"content-length", b"0")) > most:
            return None
        if not self.app.admits(request):
            return b""  # the application says so
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return await self._receive_body(most)  # there is none, so it takes no time
        with trio.move_on_after(self.bounds.body_s):
            return await self._receive_body(most)
        raise Refusal(408, f"no whole body within {self.bounds.body_s:g} s")

    async def _receive_body(self, most: int) -> bytes | None:
        body, pieces = bytearray(), 0
        while True:
            event = self._protocol.next_event()
            if isinstance(event, h11.Data):
                body += event.data
                self._reserve(len(body), most)
                if len(body) > most:
                    return None
                pieces += 1
                if pieces % MANY == 0:
                    await trio.lowlevel.checkpoint()
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif event is h11.NEED_DATA:
                if self._protocol.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                await self._receive()
            else:
                raise Gone

    def _reserve(self, size: int, most: int) -> None:
        """Reserve memory for a body of `size` bytes and more, up to `most`.

        Raises:
          Refusal: other bodies have it.
        """
        if size <= max(self.bounds.small_body_bytes, self.taken):
            return
        # In large steps, for bodies come in small ones.
        wanted = max(size, min(2 * self.taken, most))
        if not self.budget.take(wanted - self.taken):
            raise Refusal(503, "too much is being received: ask again later")
        self.taken = wanted

    def _release_budget(self) -> None:
        self.budget.give(self.taken)
        self.taken = 0

    async def _receive(self, most: int = PIECE) -> None:
        """Hand what the client sends to the protocol."""
        if self.waits_since is None:
            self.waits_since = trio.current_time()
        data = await self.stream.receive_some(most)
        self._is_at_end = not data
        self._protocol.receive_data(bytes(data))

    async def _disconnected(self) -> None:
        """Return when the client has gone; a piece of what it sends ahead is kept.

        A client that has ended what it sends may still wait for its answer, as `nc -N` does, so it
        is taken for gone only a while later.
        """
        try:
            while not self._is_at_end and len(self._protocol.trailing_data[0]) < PIECE:
                data = await self.stream.receive_some(PIECE)
                if data:
                    self._protocol.receive_data(bytes(data))
                else:
                    self._is_at_end = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._is_at_end = True
            return
        await trio.sleep(self.bounds.half_closed_s if self._is_at_end else math.inf)

    # --- answers ---------------------------------------------------------------------------

    async def _answer(self, head: h11.Request, request: Request) -> None:
        """Have the application answer.

        Raises:
          Gone: no answer or half of one was sent, so the connection must end.
        """
        is_brief, coming = self.app.begin(request)
        await self._send(head, await (coming if is_brief else self._while_there(coming)))

    async def _send(self, head: h11.Request | None, answer: Answer) -> None:
        headers = [("content-type", answer.content_type)]
        headers += [(name.lower(), value) for name, value in answer.headers.items()]
        if isinstance(answer.body, bytes):
            headers.append(("content-length", str(len(answer.body))))
        headers.append(("server", self.app.program))
        if self.is_last or not self.can_go_on:
            self.is_last = True
            headers.append(("connection", "close"))
        reason = HTTPStatus(answer.status).phrase
        start = h11.Response(status_code=answer.status, headers=headers, reason=reason)
        if head is not None and head.method == b"HEAD":
            await self.send(start, h11.EndOfMessage())
        elif isinstance(answer.body, bytes):
            await self.send(start, h11.Data(data=answer.body), h11.EndOfMessage())
        else:
            await self._send_pieces(start, answer.body)

    async def _while_there(self, coming: Awaitable[Answer]) -> Answer:
        """Wait for an answer while the client does; nobody works for one who has gone.

        Raises:
          Gone: the client has gone first.
        """
        answer: Answer | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            answer = await coming
            nursery.cancel_scope.cancel()
        if answer is None:
            raise Gone
        return answer

    async def _watch(self, scope: trio.CancelScope) -> None:
        await self._disconnected()
        scope.cancel()

    async def _send_pieces(self, start: h11.Response, pieces: AsyncGenerator[bytes, None]) -> None:
        events: list[h11.Event] = [start]
        async with aclosing(pieces):
            async for piece in pieces:
                await self.send(*events, h11.Data(data=piece))
                events = []
        await self.send(*events, h11.EndOfMessage())

    async def send(self, *events: h11.Event) -> None:
        """Send the bytes that these events are.

        Raises:
          Gone: the client does not take them.
        """
        data = b"".join(cast(bytes, self._protocol.send(event)) for event in events)
        view = memoryview(data)
        for start in range(0, len(data), PIECE):
            self.waits_since = trio.current_time()
            with trio.move_on_after(self.bounds.send_s) as bound:
                await self.stream.send_all(view[start : start + PIECE])
            self.waits_since = None
            if bound.cancelled_caught:
                raise Gone

    async def _refuse(self, refusal: Refusal, head: h11.Request | None) -> None:
        """Answer in place of the application; nothing more is read of this client."""
        self.is_last = True
        later = {"Retry-After": "10"} if refusal.status == 503 else {}
        request = None if head is None else _request(head)
        answer = self.app.refuse(request, refusal.status, refusal.message, later)
        with trio.move_on_after(self.bounds.send_s):
            await self._send(head, answer)

    async def _linger(self) -> None:
        """Let the client have the answer before the connection is closed."""
        if self._is_at_end or isinstance(self.stream, trio.SSLStream):
            return
        self.waits_since, left = trio.current_time(), LINGER_BYTES
        with trio.move_on_after(LINGER_S):
            await self.stream.send_eof()
            while left > 0 and (data := await self.stream.receive_some(PIECE)):
                left -= len(data)


def _request(head: h11.Request) -> Request:
    path, _, query = _ABSOLUTE.sub(b"", head.target, count=1).partition(b"?")
    return Request(
        head.method.decode().upper(),
        unquote(path.decode()) if path.startswith(b"/") else "/" + unquote(path.decode()),
        query.decode("latin1"),
        {name.decode("latin1"): value.decode("latin1") for name, value in head.headers},
    )


def _check(head: h11.Request, headers: dict[bytes, bytes]) -> None:
    """Refuse a request that is HTTP and yet nothing for an application.

    Raises:
      Refusal: says why.
    """
    host = headers.get(b"host", b"")
    if len(host) > 255 or not _HOST.fullmatch(host):
        raise Refusal(400, "Host: expected a name of at most 255 characters, perhaps with a port")
    if not (head.target.startswith(b"/") or _ABSOLUTE.match(head.target)):
        raise Refusal(400, "the target of a request must begin with a slash")
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers and (
        b"content-length" in headers or head.http_version == b"1.0"
    ):
        # A proxy in front may have gone by the other header, and passed on as a part of the body
        # what would be a second request here.
        raise Refusal(400, "Transfer-Encoding: not with Content-Length, and not in HTTP/1.0")
    if len(length) > 18:
        raise Refusal(413, "Content-Length: too long")
    if head.http_version not in (b"1.0", b"1.1"):
        raise Refusal(400, "HTTP/1.1 is spoken here, and nothing else")
    if b"upgrade" in headers and b"websocket" in headers[b"upgrade"].lower():
        raise Refusal(426, "WebSocket is not spoken here: ask without Upgrade")
