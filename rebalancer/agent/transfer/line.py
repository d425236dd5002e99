"""This module carries messages over a socket between the agent and a fetcher, by marshal.

Both ends are the same program under the same interpreter, which is all that marshal needs; it
takes a tenth of the time of JSON, and every object pulled is reported here.
"""

import marshal
import socket
import struct

import attrs
import trio

from rebalancer.agent.transfer.messages import KINDS, Message

#: The other side takes a message within so many seconds, or is as good as dead.
SEND_S = 10.0
_RECEIVE_BYTES = 64 << 10
_LENGTH = struct.Struct("!I")


@attrs.define(eq=False)
class Line:
    """A line is a connection that carries messages, each behind its length.

    Mutable state: what was received but not taken yet.
    """

    stream: trio.SocketStream
    _received: bytearray = attrs.field(factory=bytearray)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    def over(cls, connection: socket.socket) -> "Line":
        """Make a line over one end of a socket pair, which stays the caller's to close."""
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(connection)))

    async def send(self, message: Message) -> None:
        """Send one message, whole even if cancelled: half of one would spoil the next.

        Raises:
          trio.BrokenResourceError: the other side is gone, or takes nothing any more.
          trio.ClosedResourceError: that was found by an earlier send.
        """
        data = marshal.dumps((message.KIND, message.encode()))
        async with self._sending:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as scope:
                await self.stream.send_all(_LENGTH.pack(len(data)) + data)
            if scope.cancelled_caught:
                self.stream.socket.close()
                raise trio.BrokenResourceError(f"nothing was taken for {SEND_S} s")

    async def receive(self) -> Message | None:
        """Return the next message; None when the other side is gone."""
        while (data := self._take()) is None:
            try:
                more = await self.stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not more:
                return None
            self._received += more
        kind, value = marshal.loads(data)
        message: Message = KINDS[kind].decode(value)
        return message

    def _take(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        data = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return data
