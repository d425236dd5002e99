"""This server speaks Fast over TCP, as strict with clients as the real server is fragile.

Where a real Moray would exit, for all of its clients, `serve_shard` raises `MorayDied`, which
ends the region: that is a finding about the client, not something to be tolerated.
"""

import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import attrs
import trio

from rebalancer.log import get_logger
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.faults import Faults
from rebalancer_devregion.moray.javascript import well_formed
from rebalancer_devregion.moray.methods import find_method, headers_of
from rebalancer_devregion.moray.store import ShardStore

log = get_logger()

#: Requests of one connection at a time; further ones wait in its socket.
PIPELINE = 64
#: Python's calls within calls; a value nested once takes two of them.
DEPTH = 10_000
#: What is left of a connection that was reset can be read at once.
REST_S = 0.2

Hook = Callable[[str, list[Any]], Awaitable[None]]


class MorayDied(Exception):
    """A client did what kills a real Moray."""


async def _no_hook(_method: str, _args: list[Any]) -> None:
    return


@attrs.define(eq=False)
class _Client:
    """A client is one connection.  Mutable state: the ids in flight, and who may write now."""

    stream: trio.abc.Stream
    number: int
    busy: set[int] = attrs.field(factory=set)
    slots: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(PIPELINE))
    sending: trio.Lock = attrs.field(factory=trio.Lock)

    async def send(self, request: Message, status: Status, data: Any) -> None:
        """Send one message: those of different answers take turns."""
        message = Message(
            request.id, status, request.method, data, request.version, time.time_ns() // 1000
        )
        try:
            self.sending.acquire_nowait()
        except trio.WouldBlock:
            await self.sending.acquire()
        try:
            await self.stream.send_all(fast.encode(message))
        finally:
            self.sending.release()


@attrs.define(eq=False)
class ShardServer:
    """A shard server is one shard's Moray.

    Mutable state: what it is asked to do by tests (`before_reply`, `faults`, `delay_end_s`, whether
    it is too busy to read), the updates running now and the most that ever ran at once, who listens
    to notifications.
    """

    store: ShardStore
    before_reply: Hook = _no_hook
    faults: Faults = attrs.field(factory=Faults)
    #: How long END stays behind DATA.  A real server leaves Nagle's algorithm on, so that its
    #: END waits for the acknowledgement of DATA: 0.04 s, unless a client acknowledges at once.
    delay_end_s: float = 0.0
    updates: int = 0
    peak_updates: int = 0
    #: What a client did that costs a real server no more than the connection.
    offences: list[str] = attrs.field(factory=list)
    _storing: trio.Lock = attrs.field(factory=trio.Lock)
    _busy: trio.Event | None = None
    _clients: "count[int]" = attrs.field(factory=lambda: count(1))
    _listeners: dict[str, trio.Event] = attrs.field(factory=dict)

    async def serve(
        self,
        host: str,
        port: int,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve for ever; `task_status` tells the address.

        Raises:
          MorayDied: a client did what kills a real Moray.
        """
        # Values may be nested as deeply as JavaScript takes them.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), DEPTH))
        (listener,) = await trio.open_tcp_listeners(port, host=host)
        task_status.started(listener.socket.getsockname()[:2])
        await trio.serve_listeners(self._connection, [listener])

    def be_busy(self) -> None:
        """Stop reading, but for at most a piece of each connection, until `be_free`.

        A real server is one thread, which reads nothing while it works on a large message.
        """
        self._busy = trio.Event()

    def be_free(self) -> None:
        """Read again, after `be_busy`."""
        if self._busy is not None:
            self._busy.set()

    async def _connection(self, stream: trio.abc.Stream) -> None:
        # Our own stream wrapper sets TCP_NODELAY; the delay of END is imitated on demand only.
        decoder, client = fast.Decoder(), _Client(stream, next(self._clients))
        try:
            async with trio.open_nursery() as nursery:
                while data := await stream.receive_some(64 << 10):
                    if self._busy is not None:
                        await self._busy.wait()
                    for message in self._decode(decoder, bytes(data)):
                        if message.status is Status.ERROR:
                            continue  # an old way to cancel, which is ignored
                        if message.status is Status.END or message.id in client.busy:
                            self._offended(f"{message.status.name} with id {message.id} in flight")
                            nursery.cancel_scope.cancel()
                            break
                        client.busy.add(message.id)
                        await client.slots.acquire()
                        nursery.start_soon(self._request, client, message)
                if not decoder.is_between_messages:
                    raise _death("the client closed within a message")
        except* (trio.BrokenResourceError, ConnectionError):
            await self._after_reset(stream, decoder)

    async def _after_reset(self, stream: trio.abc.Stream, decoder: fast.Decoder) -> None:
        """Look whether a connection was reset within a message.

        A real server survives that if it has read the part already, and dies if it still holds it.
        Which of them it is depends on luck, so that a client may do neither.

        Raises:
          MorayDied: it was.
        """
        with suppress(trio.BrokenResourceError), trio.move_on_after(REST_S):
            # What came before the reset may not have been read yet.
            while data := await stream.receive_some(64 << 10):
                self._decode(decoder, bytes(data))
        if not decoder.is_between_messages:
            raise _death("the client reset the connection within a message")

    def _offended(self, what: str) -> None:
        log.error("a client lost its connection", cause=what)
        self.offences.append(what)

    def _decode(self, decoder: fast.Decoder, data: bytes) -> list[Message]:
        try:
            return list(decoder.feed(data))
        except fast.FastError as exc:
            raise _death(f"{type(exc).__name__}: {exc}") from exc

    async def _request(self, client: _Client, message: Message) -> None:
        try:
            if not isinstance(message.method, str):
                await client.send(message, Status.ERROR, _malformed(client, message).payload)
                raise _death("a request without a method")
            failure: MorayError | None = None
            try:
                await self._answer(client, message, message.method)
            except MorayError as exc:
                failure = exc
                for row in failure.rows:
                    await client.send(message, Status.DATA, [row])
            except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as exc:
                # A fault of ours is no reason to die where a real server answers.
                log.exception("a request that this server cannot do", method=message.method)
                self.offences.append(f"{message.method}: {exc!r}")
                failure = MorayError("Error", f"this region cannot do that: {exc}")
            if failure is None:
                await client.send(message, Status.END, [])
            else:
                await client.send(message, Status.ERROR, failure.payload)
        finally:
            client.busy.discard(message.id)
            client.slots.release()

    async def _answer(self, client: _Client, message: Message, method: str) -> None:
        """Run a request and send its rows.

        Raises:
          MorayError: what the request is answered with instead of END.
        """
        pool = await self.faults.claim()
        try:
            rows = await self._rows(message, method)
            for row in rows:
                await client.send(message, Status.DATA, [row])
            if self.delay_end_s and rows:
                await trio.sleep(self.delay_end_s)
        finally:
            if pool is not None:
                pool.release()

    async def _rows(self, message: Message, name: str) -> list[Any]:
        args: list[Any] = well_formed(message.data)
        method = find_method(name, args, message.id)
        if name == "getObject" and args[2].get("noCache") is not True:
            raise _death("getObject without noCache")
        if any("x-muskie-prev-metadata" in headers for headers in headers_of(name, args)):
            raise _death("a write that would queue the old data for deletion")
        if name in ("listen", "unlisten"):
            return await self._notifications(name, args)
        is_update = name in ("putObject", "batch")
        self.updates += is_update
        self.peak_updates = max(self.peak_updates, self.updates)
        try:
            await self.before_reply(name, args)
            self.faults.before(name)
            await self.faults.unlocked(name, args)
            run = partial(method.run, self.store, *args)
            if method.writes:
                async with self._storing:
                    rows: list[Any] = await trio.to_thread.run_sync(run)
            else:
                rows = await trio.to_thread.run_sync(run)
        finally:
            self.updates -= is_update
        self.faults.after(name, rows)
        return rows

    async def _notifications(self, name: str, args: list[Any]) -> list[Any]:
        """Answer `listen` when its request's id is told `unlisten`: nobody notifies here."""
        if name == "listen":
            stop = self._listeners.setdefault(str(args[1].get("req_id")), trio.Event())
            await stop.wait()
        elif (listener := self._listeners.pop(args[0], None)) is not None:
            listener.set()
        return []


def _malformed(client: _Client, message: Message) -> MorayError:
    """Return the error of a request without a method, which the server sends before it exits."""
    request = {
        "status": int(message.status),
        "msgid": message.id,
        "data": {"m": {} if message.uts is None else {"uts": message.uts}, "d": message.data},
        "version": message.version,
        "connId": client.number,
    }
    info = {"fastReason": "bad_data", "rpcMsgid": message.id, "rpcMessage": request}
    return MorayError("FastError", "RPC request is not well-formed", info=info)


def _death(cause: str) -> MorayDied:
    log.critical("a real Moray would have died", cause=cause)
    return MorayDied(cause)


async def serve_shard(
    store: ShardStore,
    host: str,
    port: int,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one shard for ever.

    Raises:
      MorayDied: a client did what kills a real Moray.
    """
    await ShardServer(store).serve(host, port, task_status)
