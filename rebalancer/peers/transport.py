"""HTTP/1.1 beneath httpx, by h11 over trio: requests one behind the other on kept connections.

Three requests an assignment were a fifth of all the manager's work with httpx's own transport,
which serves every event loop, and for each request looks at every connection there is.
"""

from collections import defaultdict

import attrs
import h11
import httpx
import trio

from rebalancer.errors import PeerMalformed

#: Seconds for which an idle connection is kept; servers close theirs after 5 at the least.
IDLE_S = 5.0
#: No answer of the control plane is larger: 500 storage nodes are about 400 KB.
MAX_BODY_BYTES = 64 << 20
_RECEIVE_BYTES = 64 << 10

Place = tuple[str, int]


@attrs.define(eq=False)
class _Connection:
    """One connection; `kept_at` is when its last answer came."""

    place: Place
    stream: trio.SocketStream
    protocol: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))
    kept_at: float = 0.0

    async def exchange(self, request: httpx.Request, read_s: float) -> httpx.Response:
        """Send `request`, and return its answer whole; `read_s` bounds each wait for some of it.

        Raises:
          httpx.TransportError, trio.BrokenResourceError, h11.ProtocolError: there is none.
          PeerMalformed: it is too long.
        """
        url, protocol = request.url, self.protocol
        head = h11.Request(method=request.method, target=url.raw_path, headers=request.headers.raw)
        parts = [protocol.send(head)]
        if body := await request.aread():
            parts.append(protocol.send(h11.Data(data=body)))
        parts.append(protocol.send(h11.EndOfMessage()))
        await self.stream.send_all(b"".join(part for part in parts if part))
        answer, received = None, bytearray()
        while not isinstance(event := await self._next_event(read_s), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > MAX_BODY_BYTES:
                    raise PeerMalformed(f"{url.host}: answer is longer than {MAX_BODY_BYTES} bytes")
            elif isinstance(event, h11.ConnectionClosed):
                raise httpx.RemoteProtocolError("the server closed without an answer")
        assert answer is not None
        return httpx.Response(
            answer.status_code, headers=answer.headers.raw_items(), content=bytes(received)
        )

    async def _next_event(self, read_s: float) -> object:
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            with trio.move_on_after(read_s) as scope:
                self.protocol.receive_data(await self.stream.receive_some(_RECEIVE_BYTES))
            if scope.cancelled_caught:
                raise httpx.ReadTimeout(f"nothing came for {read_s:g} s")
        return event

    def renew(self) -> bool:
        """Get ready for another request; False if this connection takes none."""
        protocol = self.protocol
        is_done = protocol.our_state is h11.DONE and protocol.their_state is h11.DONE
        if not is_done or protocol.trailing_data[0]:
            return False
        self.protocol.start_next_cycle()
        self.kept_at = trio.current_time()
        return True

    @property
    def is_fit(self) -> bool:
        """Whether it can take a request: what is readable now is its end, or nonsense."""
        return not self.is_old and not self.stream.socket.is_readable()

    @property
    def is_old(self) -> bool:
        """Whether it has been idle for so long that the server may be about to close it."""
        return trio.current_time() - self.kept_at > IDLE_S

    def close(self) -> None:
        """Close it, whatever state it is in."""
        self.stream.socket.close()


class Transport(httpx.AsyncBaseTransport):
    """At most `connections` requests at a time, and as many idle connections.

    Mutable state: the idle connections, oldest first, and by place.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._requests = trio.CapacityLimiter(connections)
        self._idle: dict[_Connection, None] = {}
        self._idle_at: defaultdict[Place, list[_Connection]] = defaultdict(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request and its answer, whole.

        Raises:
          httpx.TransportError: there is none.
          PeerMalformed: it is too long.
        """
        timeout = request.extensions["timeout"]
        async with self._requests:
            place = request.url.host, request.url.port or 80
            connection = self._take(place) or await _connect(place, timeout["connect"])
            is_kept = False
            try:
                answer = await connection.exchange(request, timeout["read"])
                is_kept = connection.renew()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise httpx.ReadError(str(exc.__cause__ or exc)) from exc
            except h11.RemoteProtocolError as exc:
                raise httpx.RemoteProtocolError(str(exc)) from exc
            except h11.LocalProtocolError as exc:
                raise httpx.LocalProtocolError(str(exc)) from exc
            finally:
                if is_kept:
                    self._keep(connection)
                else:
                    connection.close()
            return answer

    def _take(self, place: Place) -> _Connection | None:
        """An idle connection, the one that was used last."""
        kept = self._idle_at[place]
        while kept:
            connection = kept.pop()
            del self._idle[connection]
            if connection.is_fit:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        self._idle[connection] = None
        self._idle_at[connection.place].append(connection)
        while self._idle:
            oldest = next(iter(self._idle))
            if not oldest.is_old and len(self._idle) <= self._connections:
                break
            self._drop(oldest)

    def _drop(self, connection: _Connection) -> None:
        del self._idle[connection]
        self._idle_at[connection.place].remove(connection)
        connection.close()

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._drop(next(iter(self._idle)))


async def _connect(place: Place, connect_s: float) -> _Connection:
    try:
        with trio.fail_after(connect_s):
            return _Connection(place, await trio.open_tcp_stream(*place))
    except trio.TooSlowError as exc:
        raise httpx.ConnectTimeout(f"no connection in {connect_s:g} s") from exc
    except OSError as exc:
        raise httpx.ConnectError(str(exc)) from exc
