"""This module is a Fast connection, with many requests in flight, which cuts no message.

A Moray server that holds an unread part of a message when the stream ends, by a FIN or by a reset,
dies, for all of its clients.  So one task owns all writing: a message once begun is finished,
whether or not its caller still waits, and the socket is closed only when the peer's kernel has
everything that was sent.  A message that fits into the kernel's buffer is handed over in one piece,
so that even the end of this process does not cut it.
"""

import fcntl
import itertools
import select
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from rebalancer import jsontext
from rebalancer.errors import PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.log import get_logger
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.errors import read_error
from rebalancer.threads import Work, run_sync

#: A peer that has taken no byte of a message for so many seconds is dead.  A living one that is
#: busy takes the rest some seconds later.
SEND_GRACE_S = 600.0
#: Once the owner is cancelled, a message that has begun gets this many seconds to leave; no other
#: is begun.  SMF kills a service 30 s after the signal to stop.
STOP_GRACE_S = 20.0
#: The kernel's buffer for what we send.  A socket counts as writable while a third of its buffer
#: is free (as Linux counts, which doubles it and limits it to twice 208 KiB), so that a message of
#: 64 KiB is taken whole.
SEND_BUFFER_BYTES = 256 << 10
_RECEIVE_BYTES = 64 << 10
#: Pauses between two looks at whether the peer's kernel has everything.
_LOOK_S = 0.01
# The server writes DATA and END as two small segments without TCP_NODELAY, so END waits for
# the acknowledgement of DATA, which a receiver delays by 40 ms unless told not to, after each
# read.  illumos has no such option; there only pipelining helps.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)

# A server that vanished is noticed after a minute, however long its answer may take.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

log = get_logger()


def _prepare(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    # trio has the kernel take 16 KiB that cannot leave at once, and no more.
    if (low_water := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        stream.setsockopt(socket.IPPROTO_TCP, low_water, 0)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # Not all platforms let a program choose them.
        if (option := getattr(socket, name, None)) is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


@attrs.define(eq=False)
class _Call:
    """A request under way.  Its mutable state: the rows so far, and how it ended."""

    message: bytes
    rows: list[Any] = attrs.field(factory=list)
    done: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None


class Connection:
    """Requests over one stream.

    Mutable state: the calls in flight by id, those whose messages have not begun to be sent,
    whether the connection takes further calls and whether it ends, and when something last came
    over it.  The owner runs `run` in a task for as long as it uses the connection.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        peer: str,
        loads: Callable[[bytes], Any] = jsontext.loads,
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._loads = loads
        _prepare(stream)
        self._room = select.poll()
        self._room.register(stream.socket.fileno(), select.POLLOUT)
        self.heard_at = trio.current_time()
        #: What the server's clock said in its last message, if it did: microseconds.
        self.peer_uts: Any = None
        self._ids = itertools.count(1)  # never used twice: reuse races with the server
        self._calls: dict[int, _Call] = {}
        self._unsent: deque[_Call] = deque()
        self._has_unsent = trio.Event()
        self._between_messages = trio.CancelScope()
        self._is_ending = False
        self._is_broken = False
        self.is_usable = True

    @property
    def in_flight(self) -> int:
        """Return how many requests have no END yet, those given up on not counted."""
        return len(self._calls)

    async def call(self, method: str, args: list[Any] | JsonText) -> list[Any]:
        """Send one request and return the elements of all its DATA.

        There is no cancelling in the protocol: a caller that gives up leaves the request to
        run once its message has begun to be sent, and what still comes for it is thrown away.

        Raises:
          MorayError: the server's answer is an error.
          PeerUnreachable: the connection broke; whether the request took effect is unknown.
        """
        if not self.is_usable:
            raise PeerUnreachable(f"{self._peer}: connection is closed")
        msg_id = next(self._ids)
        if msg_id > fast.MAX_ID:
            self.retire()
            raise PeerUnreachable(f"{self._peer}: connection has used up its message ids")
        message = fast.Message(msg_id, fast.Status.DATA, method, args, uts=time.time_ns() // 1000)
        call = _Call(fast.encode(message))
        self._calls[msg_id] = call
        self._unsent.append(call)
        self._has_unsent.set()
        try:
            await call.done.wait()
        finally:
            self._calls.pop(msg_id, None)
            if call in self._unsent:
                self._unsent.remove(call)
            self._end_if_retired()
        if call.failure is not None:
            raise call.failure
        return call.rows

    async def run(self) -> None:
        """Send requests and read answers until the connection ends, then close it.

        Cancelled, it finishes the message that has begun, within `STOP_GRACE_S`.
        """
        work = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_cancelled, work)
            with work:
                await self._work()
            nursery.cancel_scope.cancel()

    async def _end_when_cancelled(self, work: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._end("this program does not go on with it")
            work.deadline = min(work.deadline, trio.current_time() + STOP_GRACE_S)

    async def _work(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                await self._send_messages()
                await self._all_acknowledged()
                nursery.cancel_scope.cancel()
        finally:
            self._end("closed")
            self._stream.socket.close()

    # --- sending ---------------------------------------------------------------------------

    async def _send_messages(self) -> None:
        """Send one message after the other, each of them whole, until the connection ends."""
        while (message := await self._next_message()) is not None:
            try:
                await self._send_whole(message)
            except (OSError, trio.ClosedResourceError) as exc:
                self._is_broken = True
                self._end(str(exc))
            except trio.TooSlowError:
                log.error("moray does not read what is sent", peer=self._peer)
                self._abandon()

    async def _next_message(self) -> bytes | None:
        """Take the next message as soon as the kernel has room; None when the connection ends."""
        while not self._is_ending:
            with trio.CancelScope() as self._between_messages:
                await self._has_unsent.wait()
                if not self._room.poll(0):  # a turn of the event loop less for each message
                    await trio.lowlevel.wait_writable(self._stream.socket)
            # Without an await from here on, so that what is taken is sent.
            call = self._unsent.popleft() if self._unsent and not self._is_ending else None
            if not self._unsent:
                self._has_unsent = trio.Event()
            if call is not None:
                return call.message
        return None

    async def _send_whole(self, message: bytes) -> None:
        """Hand a message to the kernel.

        Raises:
          OSError: the connection is broken.
          TooSlowError: the peer has taken nothing for `SEND_GRACE_S`.
        """
        rest = memoryview(message)
        try:
            while rest:
                with trio.fail_after(SEND_GRACE_S):
                    rest = rest[await self._stream.socket.send(rest) :]
        except trio.Cancelled:
            log.error("a message is cut at the end: its server took no more", peer=self._peer)
            self._abandon()
            raise

    async def _all_acknowledged(self) -> None:
        """Wait until the peer's kernel has all that was sent: then closing cuts nothing.

        A socket that is closed earlier may send a reset instead of the rest.  Where the system
        cannot tell how much is left, the kernel is trusted with it.
        """
        left, since = self._unacknowledged(), trio.current_time()
        while left and not self._is_broken and trio.current_time() - since < SEND_GRACE_S:
            # Not trio's time, which stands still in tests: the kernel needs its own.
            await run_sync(Work.OTHER, time.sleep, _LOOK_S)
            before, left = left, self._unacknowledged()
            if left < before:
                since = trio.current_time()

    def _unacknowledged(self) -> int:
        """Return how many bytes the peer's kernel lacks; 0 also if the connection is broken."""
        descriptor, poll = self._stream.socket.fileno(), select.poll()
        poll.register(descriptor, 0)  # errors and the end of both directions are always told
        try:
            answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return 0 if poll.poll(0) else int(struct.unpack("i", answer)[0])

    # --- receiving -------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Read answers until the stream ends; after what is no Fast, only throw away what comes.

        Bytes left unread when the socket is closed would make the kernel send a reset.
        """
        decoder: fast.Decoder | None = fast.Decoder(self._loads)
        reason = "closed by the server"
        try:
            while data := await self._stream.receive_some(_RECEIVE_BYTES):
                self.heard_at = trio.current_time()
                if _QUICKACK is not None:
                    self._stream.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                if decoder is not None and not self._read(decoder, data):
                    decoder = None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._is_broken = True
            reason = str(exc.__cause__ or "connection lost")
        self._end(reason)

    def _read(self, decoder: fast.Decoder, data: bytes) -> bool:
        """Take answers from `data`; if it is no Fast, returns False and ends the connection."""
        try:
            for message in decoder.feed(data):
                self._accept(message)
        except fast.FastError as exc:
            log.error("moray sent something that is not Fast", peer=self._peer, error=str(exc))
            self._end(str(exc))
            return False
        return True

    def _accept(self, message: fast.Message) -> None:
        self.peer_uts = message.uts
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

    # --- the end ---------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no further calls, and end when those in flight have ended."""
        self.is_usable = False
        self._end_if_retired()

    def _end_if_retired(self) -> None:
        if not (self.is_usable or self._calls):
            self._end("closed")

    def _end(self, reason: str) -> None:
        """Begin no further message, and let `run` close the socket after the one under way."""
        self.is_usable = False
        self._is_ending = True
        self._between_messages.cancel()
        self._unsent.clear()
        for call in self._calls.values():
            if not call.done.is_set():
                call.failure = PeerUnreachable(f"{self._peer}: {reason}")
                call.done.set()

    def _abandon(self) -> None:
        """Have the socket closed with a reset, which a server survives if it has read the part."""
        self._is_broken = True
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end("does not read what is sent")
