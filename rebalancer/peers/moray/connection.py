"""One Fast connection: many requests in flight, and never half a message before a FIN.

A Moray server that reads part of a message and then the end of the stream dies, for all of its
clients.  So a message that could not be sent whole is followed by a reset.
"""

import itertools
import socket
import struct
import time
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.log import get_logger
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.errors import read_error

#: A message already begun gets this many seconds to leave, even if its sender is cancelled.
SEND_GRACE_S = 2.0
_RECEIVE_BYTES = 64 << 10
# The server writes DATA and END as two small segments without TCP_NODELAY, so END waits for
# the acknowledgement of DATA, which a receiver delays by 40 ms unless told not to, after each
# read.  illumos has no such option; there only pipelining helps.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

# A server that vanished is noticed after a minute, however long its answer may take.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

log = get_logger()


def _keep_alive(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # Not all platforms let a program choose them.
        if (option := getattr(socket, name, None)) is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


@attrs.define(eq=False)
class _Call:
    """A request under way.  Its mutable state: the rows so far, and how it ended."""

    rows: list[Any] = attrs.field(factory=list)
    done: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None


class Connection:
    """Requests over one stream.

    Mutable state: the calls in flight by id, whether the connection is still usable, and when
    something last came over it.  The owner runs `receive` in a task for as long as it uses the
    connection.
    """

    def __init__(self, stream: trio.SocketStream, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        _keep_alive(stream)
        self.heard_at = trio.current_time()
        self._ids = itertools.count(1)  # never used twice: reuse races with the server
        self._calls: dict[int, _Call] = {}
        self._sending = trio.Lock()
        self.is_usable = True

    @property
    def in_flight(self) -> int:
        """Requests without an END yet, those given up on not counted."""
        return len(self._calls)

    async def call(self, method: str, args: list[Any] | JsonText) -> list[Any]:
        """Send one request and return the elements of all its DATA.

        There is no cancelling in the protocol: a caller that gives up leaves the request to
        run, and what still comes for it is thrown away.

        Raises:
          MorayError: the server's answer is an error.
          PeerUnreachable: the connection broke; whether the request took effect is unknown.
        """
        if not self.is_usable:
            raise PeerUnreachable(f"{self._peer}: connection is closed")
        msg_id = next(self._ids)
        if msg_id > fast.MAX_ID:
            self.reset()
            raise PeerUnreachable(f"{self._peer}: connection has used up its message ids")
        message = fast.Message(msg_id, fast.Status.DATA, method, args, uts=time.time_ns() // 1000)
        data = fast.encode(message)
        call = self._calls[msg_id] = _Call()
        try:
            async with self._sending:
                await self._send(data)
            await call.done.wait()
        finally:
            self._calls.pop(msg_id, None)
        if call.failure is not None:
            raise call.failure
        return call.rows

    async def _send(self, data: bytes) -> None:
        if not self.is_usable:
            raise PeerUnreachable(f"{self._peer}: connection is closed")
        failure = "does not read what is sent"
        sent = False
        try:
            with trio.move_on_after(SEND_GRACE_S, shield=True):
                await self._stream.send_all(data)
                sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            failure = str(exc.__cause__ or exc)
        finally:
            if not sent:
                self.reset()
        if not sent:
            # Who was told to end meanwhile should end, and not take it for a peer's fault.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise PeerUnreachable(f"{self._peer}: {failure}")

    async def receive(self) -> None:
        """Read answers until the connection ends or is closed."""
        decoder = fast.Decoder()
        reason = "closed by the server"
        try:
            while data := await self._stream.receive_some(_RECEIVE_BYTES):
                self.heard_at = trio.current_time()
                if _QUICKACK is not None:
                    self._stream.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                for message in decoder.feed(data):
                    self._accept(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            reason = str(exc.__cause__ or "connection lost")
        except fast.FastError as exc:
            log.error("moray sent something that is not Fast", peer=self._peer, error=str(exc))
            reason = str(exc)
        finally:
            self._end(reason)

    def _accept(self, message: fast.Message) -> None:
        call = self._calls.get(message.id)
        if call is None:
            return  # its caller gave up
        if message.status is fast.Status.ERROR:
            call.failure = read_error(message.data)
        else:
            # END may carry rows too, and an electric-moray may add nulls.
            call.rows += [row for row in message.data if row is not None]
        if message.status is not fast.Status.DATA:
            call.done.set()

    def close(self) -> None:
        """Close in the ordinary way a connection over which nothing is in flight."""
        self._end("closed")

    def reset(self) -> None:
        """Close at once with a reset, which a server survives even within a message."""
        self._close(with_reset=True)
        self._fail_calls("connection reset")

    def _end(self, reason: str) -> None:
        # A sender may be within a message.
        self._close(with_reset=self._sending.locked())
        self._fail_calls(reason)

    def _close(self, *, with_reset: bool) -> None:
        if self.is_usable and with_reset:
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.is_usable = False
        self._stream.socket.close()

    def _fail_calls(self, reason: str) -> None:
        for call in self._calls.values():
            if not call.done.is_set():
                call.failure = PeerUnreachable(f"{self._peer}: {reason}")
                call.done.set()
