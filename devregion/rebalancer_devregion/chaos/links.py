"""Links are TCP proxies between the parts of a region: they can cut, hold or delay."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

_BLOCK = 64 << 10
#: A Fast message: 11 bytes, the length of its payload, the payload.
_BEFORE_LENGTH, _HEADER = 11, 15
#: Seconds that a server has to end a connection after it was told of the end.
_DRAIN_S = 5.0
_SEND_S = 60.0
_CLOSED = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Whole:
    """A `Whole` cuts a stream into whole Fast messages.  Mutable state: what is not yet whole."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def is_between(self) -> bool:
        """Tell whether the stream is between two messages, so that nothing is held back."""
        return not self._held

    def feed(self, data: bytes) -> bytes:
        """Take `data`; return the messages that are whole with it."""
        self._held += data
        end = 0
        while len(self._held) >= end + _HEADER:
            (length,) = struct.unpack_from(">I", self._held, end + _BEFORE_LENGTH)
            if len(self._held) < end + _HEADER + length:
                break
            end += _HEADER + length
        whole = bytes(self._held[:end])
        del self._held[:end]
        return whole


@attrs.define(eq=False)
class Link:
    """A link leads from an address of its own to the server behind it.

    What comes through is always `late_s` late.  Of a `framed` link, whole messages alone go to
    the server: a real Moray dies of a part, and a cut of ours is not the client's fault.  Mutable
    state: how it is disturbed, its connections, and how many clients closed within a message.
    """

    name: str
    host: str
    port: int
    target: str
    target_port: int
    framed: bool = False
    late_s: float = 0.0
    delay_s: float = 0.0
    refuses: bool = False
    parts_seen: int = 0
    _open: trio.Event = attrs.field(factory=trio.Event)
    _scopes: set[trio.CancelScope] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """End all connections now."""
        for scope in self._scopes:
            scope.cancel()

    def silence(self) -> None:
        """Let nothing through until `heal`."""
        self._open = trio.Event()

    def heal(self) -> None:
        """Be as good as a direct connection again."""
        self.delay_s, self.refuses = 0.0, False
        self._open.set()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections for ever."""
        listeners = await trio.open_tcp_listeners(self.port, host=self.host, backlog=256)
        task_status.started()
        await trio.serve_listeners(self._connection, listeners)

    async def _connection(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if not self.refuses:
                    with suppress(*_CLOSED):
                        server = await trio.open_tcp_stream(self.target, self.target_port)
                        await self._join(client, server)
                        await trio.aclose_forcefully(client)
            finally:
                self._scopes.discard(scope)
                _reset(client)

    async def _join(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        whole = Whole() if self.framed else None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, client, server, whole)
                await self._pump(server, client, None)
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(_DRAIN_S, shield=True):
                await _leave(server)
            await trio.aclose_forcefully(server)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, whole: Whole | None
    ) -> None:
        with suppress(*_CLOSED):
            while data := await source.receive_some(_BLOCK):
                await self._open.wait()
                if late_s := self.late_s + self.delay_s:
                    await trio.sleep(late_s)
                if whole is not None:
                    data = whole.feed(data)
                # Once begun, a message comes whole to the server, whatever is cut.
                with trio.CancelScope(shield=self.framed, deadline=trio.current_time() + _SEND_S):
                    await sink.send_all(data)
            if whole is not None and not whole.is_between:
                self.parts_seen += 1
            await sink.send_eof()


async def _leave(server: trio.SocketStream) -> None:
    """End a connection as a server likes it: it reads all that was sent, then the end."""
    with suppress(*_CLOSED):
        await server.send_eof()
        while await server.receive_some(_BLOCK):
            pass


def _reset(stream: trio.SocketStream) -> None:
    """Break a connection that is still open."""
    with suppress(*_CLOSED):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def linked(links: list[Link]) -> AsyncIterator[None]:
    """Serve `links` while the block runs."""
    async with trio.open_nursery() as nursery:
        for link in links:
            await nursery.start(link.serve)
        yield
        nursery.cancel_scope.cancel()
