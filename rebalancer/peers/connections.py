"""This module makes HTTP/1.1 connections to other services, and keeps them for the next request."""

import ssl
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs
import h11
import trio

from rebalancer.peers.names import Endpoint
from rebalancer.peers.quiet import is_quiet

#: A connection must be made within this many seconds, TLS included.
CONNECT_S = 5.0
#: A connection that nobody used for so many seconds is closed.
KEPT_S = 5.0
#: Requests to one place at a time.  Each that is slow to answer has a connection for itself, and
#: must leave the others to the rest.
AT_ONE_PLACE = 4
#: The share of the process's files that connections may use, as a divisor, and its bounds.
SHARE, LEAST, MOST = 4, 100, 1000
#: The head of an answer may have so many bytes.
MAX_HEAD_BYTES = 100 << 10

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


def affordable(files: int) -> int:
    """Return how many connections a client may have in a process that may open so many files."""
    return max(LEAST, min(MOST, files // SHARE))


class ConnectionFailed(Exception):
    """No connection was made, so nothing was asked; the text or the cause says why."""


class AnswerFailed(Exception):
    """No whole answer came, and it is not known what became of the request."""


@attrs.frozen(cache_hash=True)
class Place:
    """A place is where to connect to.

    `tls_name` is what a certificate must be for, None for plain TCP.  Peers at one address have
    places of their own, going by `name`.
    """

    where: Endpoint
    tls_name: str | None = None
    name: str = ""


@attrs.frozen
class Head:
    """A head is what an answer begins with; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]


@attrs.define(eq=False)
class Connection:
    """A connection carries one request at a time, and its answer.

    Mutable state: what h11 knows of the exchange, and since when the connection is not used.
    """

    place: Place
    stream: Stream
    silence_s: float
    kept_at: float = 0.0
    _protocol: h11.Connection = attrs.field(
        factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )

    async def ask(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> Head:
        """Send a request and return the head of its answer.

        Raises:
          ConnectionFailed: there can be no such request.
          AnswerFailed: none came.
        """
        try:
            parts = [self._send(h11.Request(method=method, target=target, headers=headers))]
        except (ValueError, h11.LocalProtocolError) as exc:
            raise ConnectionFailed(f"it cannot be asked: {exc}") from exc
        parts += [self._send(h11.Data(body)), self._send(h11.EndOfMessage())]
        with trio.move_on_after(self.silence_s) as waiting:
            # In one write: the deployed manager, which reads a head and then looks once for a
            # body, waits for ever for one that is not there yet.  A peer that goes away may have
            # answered before it had all.
            with suppress(trio.BrokenResourceError):
                await self.stream.send_all(b"".join(parts))
            waiting.deadline = trio.current_time() + self.silence_s
            while not isinstance(event := self._next(), h11.Response):
                if event is h11.NEED_DATA:  # or it is an interim answer
                    await self._receive()
        if waiting.cancelled_caught:
            raise AnswerFailed(f"no answer for {self.silence_s:g} s")
        fields = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        return Head(event.status_code, fields)

    async def piece(self) -> bytes:
        """Return the next piece of the answer's body, none at its end.

        Raises:
          AnswerFailed: it breaks off.
        """
        while (event := self._next()) is h11.NEED_DATA:
            with trio.move_on_after(self.silence_s) as waiting:
                await self._receive()
            if waiting.cancelled_caught:
                raise AnswerFailed(f"silence for {self.silence_s:g} s")
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def be_ready(self) -> bool:
        """Tell whether the answer was taken whole and another request may follow it."""
        protocol = self._protocol
        # Bytes behind the answer must not be taken for the next answer.
        if protocol.trailing_data[0] or protocol.our_state is not h11.DONE:
            return False
        if protocol.their_state is not h11.DONE:
            return False
        protocol.start_next_cycle()
        return True

    def is_quiet(self) -> bool:
        """Tell whether the peer has neither closed an unused connection nor sent anything."""
        return is_quiet(self._socket)

    def close(self) -> None:
        """Close the connection, without a word to the peer."""
        self._socket.close()

    @property
    def _socket(self) -> trio.socket.SocketType:
        stream = self.stream
        return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        return self._protocol.send(event) or b""

    def _next(self) -> Any:
        """Return what comes next of the answer, NEED_DATA if more must be received first."""
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as exc:
            raise AnswerFailed(str(exc)) from exc

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some()
            if not data and self._protocol.their_state is h11.SEND_RESPONSE:
                raise AnswerFailed("the connection was closed before an answer")
            self._protocol.receive_data(bytes(data))
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as exc:
            raise AnswerFailed(str(exc)) from exc


@attrs.define(eq=False)
class Connections:
    """This object lends the connections of a client, and bounds how many there are.

    Mutable state: the kept connections, the one kept for longest first, and those of each place;
    how many may be in use besides, in all and of each place.
    """

    most: int
    silence_s: float
    tls: ssl.SSLContext | None
    _kept: OrderedDict[Connection, None] = attrs.field(factory=OrderedDict)
    _by_place: dict[Place, list[Connection]] = attrs.field(factory=dict)
    _turns: trio.Semaphore = attrs.field(init=False)
    # As many as the storage nodes of a region, and a few besides.
    _turns_at: defaultdict[Place, trio.Semaphore] = attrs.field(
        factory=lambda: defaultdict(lambda: trio.Semaphore(AT_ONE_PLACE))
    )

    def __attrs_post_init__(self) -> None:
        """Start with no connection in use."""
        self._turns = trio.Semaphore(self.most)

    async def take(self, place: Place) -> Connection:
        """Lend a connection; `give_back` must follow.

        Raises:
          ConnectionFailed: there is none.
        """
        turns = self._turns_at[place]
        # The one of the place first: who waits for a slow peer takes no connection from others.
        await self._take_turn(turns, f"all {AT_ONE_PLACE} connections to it are in use")
        try:
            await self._take_turn(self._turns, f"all {self.most} connections are in use")
            try:
                return self._take_kept(place) or await self._connect(place)
            except BaseException:
                self._turns.release()
                raise
        except BaseException:
            turns.release()
            raise

    async def _take_turn(self, turns: trio.Semaphore, otherwise: str) -> None:
        """Wait for one of `turns`.

        Raises:
          ConnectionFailed: there was none for as long as a peer may be silent.
        """
        with suppress(trio.WouldBlock):
            turns.acquire_nowait()
            return
        with trio.move_on_after(self.silence_s) as waiting:
            await turns.acquire()
        if waiting.cancelled_caught:
            raise ConnectionFailed(otherwise)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it if it is of no more use."""
        if connection.be_ready():
            connection.kept_at = trio.current_time()
            self._kept[connection] = None
            self._by_place.setdefault(connection.place, []).append(connection)
        else:
            connection.close()
        self._turns.release()
        self._turns_at[connection.place].release()

    def close(self) -> None:
        """Close all connections that are kept."""
        for connection in list(self._kept):
            self._close(connection)

    async def _connect(self, place: Place) -> Connection:
        self._make_room()
        try:
            with trio.fail_after(CONNECT_S):
                where = place.where
                plain = await trio.open_tcp_stream(where.host, where.port)
                stream = await self._secure(plain, place.tls_name) if place.tls_name else plain
                return Connection(place, stream, self.silence_s)
        except trio.TooSlowError as exc:
            raise ConnectionFailed(f"no connection in {CONNECT_S:g} s") from exc
        except (OSError, trio.BrokenResourceError) as exc:
            raise ConnectionFailed(str(exc)) from exc
        except ValueError as exc:  # a name for which nobody can be asked
            raise ConnectionFailed(f"cannot be looked up: {exc}") from exc

    async def _secure(
        self, stream: trio.SocketStream, name: str
    ) -> trio.SSLStream[trio.SocketStream]:
        assert self.tls is not None
        secure = trio.SSLStream(stream, self.tls, server_hostname=name, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            stream.socket.close()
            raise
        return secure

    def _take_kept(self, place: Place) -> Connection | None:
        self._close_old()
        while kept := self._by_place.get(place):
            connection = kept[-1]
            self._forget(connection)
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _make_room(self) -> None:
        in_use = self.most - self._turns.value
        while self._kept and len(self._kept) + in_use > self.most:
            self._close(next(iter(self._kept)))

    def _close_old(self) -> None:
        before = trio.current_time() - KEPT_S
        while self._kept and (oldest := next(iter(self._kept))).kept_at < before:
            self._close(oldest)

    def _forget(self, connection: Connection) -> None:
        del self._kept[connection]
        kept = self._by_place[connection.place]
        kept.remove(connection)
        if not kept:
            del self._by_place[connection.place]

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        connection.close()
