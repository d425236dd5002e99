"""Fast over TCP in front of a shard's records, as strict as the real server is fragile.

Where a real Moray would exit, for all of its clients, `serve_shard` raises `MorayDied`, which
ends the region: that is a finding about the client, not something to be tolerated.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.devregion.moray.errors import MorayError
from rebalancer.devregion.moray.store import ABSENT, BUCKETS, ShardStore
from rebalancer.log import get_logger
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status

log = get_logger()

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
#: Requests of one connection at a time; further ones wait in its socket.
PIPELINE = 64

Hook = Callable[[str, list[Any]], Awaitable[None]]


class MorayDied(Exception):
    """A client did what kills a real Moray."""


async def _no_hook(_method: str, _args: list[Any]) -> None:
    return


@attrs.define(eq=False)
class ShardServer:
    """One shard's server.

    Mutable state: what it is asked to do by tests (`before_reply`, `delay_end_s`), the updates
    running now and the most that ever ran at once.
    """

    store: ShardStore
    before_reply: Hook = _no_hook
    #: Imitates Nagle's algorithm against delayed acknowledgements.
    delay_end_s: float = 0.0
    updates: int = 0
    peak_updates: int = 0
    _storing: trio.Lock = attrs.field(factory=trio.Lock)

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
        (listener,) = await trio.open_tcp_listeners(port, host=host)
        task_status.started(listener.socket.getsockname()[:2])
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        # Our own stream wrapper sets TCP_NODELAY; the delay of END is imitated on demand only.
        decoder, busy = fast.Decoder(), set[int]()
        slots, sending = trio.Semaphore(PIPELINE), trio.Lock()
        try:
            async with trio.open_nursery() as nursery:
                while data := await stream.receive_some(64 << 10):
                    for message in self._decode(decoder, data):
                        if message.status is Status.END or message.id in busy:
                            nursery.cancel_scope.cancel()
                            break
                        if message.status is Status.ERROR:
                            continue  # an old way to cancel, which is ignored
                        busy.add(message.id)
                        await slots.acquire()
                        nursery.start_soon(self._request, stream, sending, message, busy, slots)
                if not decoder.is_between_messages:
                    raise _death("the client closed within a message")
        except* (trio.BrokenResourceError, ConnectionError):
            pass  # a reset, even within a message, is harmless

    def _decode(self, decoder: fast.Decoder, data: bytes) -> list[Message]:
        try:
            return list(decoder.feed(data))
        except fast.FastError as exc:
            raise _death(f"{type(exc).__name__}: {exc}") from exc

    async def _request(
        self,
        stream: trio.SocketStream,
        sending: trio.Lock,
        message: Message,
        busy: set[int],
        slots: trio.Semaphore,
    ) -> None:
        try:
            if not isinstance(message.method, str):
                raise _death("a request without a method")
            rows: list[Any] = []
            failure: MorayError | None = None
            try:
                rows = await self._answer(message)
            except MorayError as exc:
                failure = exc
            async with sending:
                for row in rows:
                    await _send(stream, message, Status.DATA, [row])
                if self.delay_end_s and rows:
                    await trio.sleep(self.delay_end_s)
                if failure is None:
                    await _send(stream, message, Status.END, [])
                else:
                    await _send(stream, message, Status.ERROR, failure.payload)
        finally:
            busy.discard(message.id)
            slots.release()

    async def _answer(self, message: Message) -> list[Any]:
        method, args = str(message.method), message.data
        if method not in _METHODS:
            info = {"fastReason": "bad_method", "rpcMethod": method, "rpcMsgid": message.id}
            text = f'unsupported RPC method: "{method}"'
            raise MorayError("FastError", text, info=info)
        signature, run = _METHODS[method]
        _check_arguments(method, signature, args)
        if method == "getObject" and args[2].get("noCache") is not True:
            raise _death("getObject without noCache")
        if "x-muskie-prev-metadata" in str(args):
            raise _death("a write that would queue the old data for deletion")
        is_update = method in ("putObject", "batch")
        self.updates += is_update
        self.peak_updates = max(self.peak_updates, self.updates)
        try:
            await self.before_reply(method, args)
            async with self._storing:
                return await trio.to_thread.run_sync(partial(run, self.store, *args))
        finally:
            self.updates -= is_update


async def _send(stream: trio.SocketStream, request: Message, status: Status, data: Any) -> None:
    message = Message(
        request.id, status, request.method, data, request.version, time.time_ns() // 1000
    )
    await stream.send_all(fast.encode(message))


def _death(cause: str) -> MorayDied:
    log.critical("a real Moray would have died", cause=cause)
    return MorayDied(cause)


# --- methods -----------------------------------------------------------------------------

_KINDS: Mapping[str, tuple[type, str, str]] = {
    "bucket": (str, "a nonempty string", "string"),
    "key": (str, "a nonempty string", "string"),
    "filter": (str, "a nonempty string", "string"),
    "statement": (str, "a nonempty string", "string"),
    "value": (dict, "an object", "object"),
    "requests": (list, "an array", "array"),
    "values": (list, "an array", "array"),
    "options": (dict, "a valid options object", "object"),
}


def _check_arguments(method: str, names: tuple[str, ...], args: list[Any]) -> None:
    if len(args) != len(names):
        plural = "" if len(names) == 1 else "s"
        raise MorayError("InvocationError", f"{method} expects {len(names)} argument{plural}")
    for position, (name, value) in enumerate(zip(names, args, strict=True)):
        kind, expected, short = _KINDS[name]
        problem = None
        if not isinstance(value, kind):
            problem = f"{name} should be {short}"
        elif name == "options" and not _is_request_id(args[position].get("req_id", _NO_ID)):
            problem = 'options.req_id should match format "uuid"'
        if problem is not None:
            raise MorayError(
                "InvocationError",
                f'{method} expects "{name}" (args[{position}]) to be {expected}: {problem}',
            )


_NO_ID = object()


def _is_request_id(value: Any) -> bool:
    return value is _NO_ID or (isinstance(value, str) and _UUID.fullmatch(value) is not None)


def _put(
    store: ShardStore, bucket: str, key: str, value: Any, options: Mapping[str, Any]
) -> list[Any]:
    return [{"etag": store.put(bucket, key, value, options.get("etag", ABSENT))}]


def _get(store: ShardStore, bucket: str, key: str, _options: Mapping[str, Any]) -> list[Any]:
    return [store.get(bucket, key)]


def _find(store: ShardStore, bucket: str, text: str, options: Mapping[str, Any]) -> list[Any]:
    return store.find(bucket, text, options)


def _batch(store: ShardStore, requests: list[Any], options: Mapping[str, Any]) -> list[Any]:
    return [{"etags": store.batch(requests, options)}]


def _sql(
    store: ShardStore, statement: str, values: list[Any], _options: Mapping[str, Any]
) -> list[Any]:
    return store.sql(statement, values)


def _delete(store: ShardStore, bucket: str, key: str, options: Mapping[str, Any]) -> list[Any]:
    store.delete(bucket, key, options.get("etag", options.get("_etag", ABSENT)))
    return [{}]


def _ping(_store: ShardStore, _options: Mapping[str, Any]) -> list[Any]:
    return []


def _version(_store: ShardStore, _options: Mapping[str, Any]) -> list[Any]:
    return [{"version": 2}]


def _list_buckets(_store: ShardStore, _options: Mapping[str, Any]) -> list[Any]:
    return [{"name": name} for name in BUCKETS]


_METHODS: Mapping[str, tuple[tuple[str, ...], Callable[..., list[Any]]]] = {
    "putObject": (("bucket", "key", "value", "options"), _put),
    "getObject": (("bucket", "key", "options"), _get),
    "findObjects": (("bucket", "filter", "options"), _find),
    "delObject": (("bucket", "key", "options"), _delete),
    "batch": (("requests", "options"), _batch),
    "sql": (("statement", "values", "options"), _sql),
    "ping": (("options",), _ping),
    "version": (("options",), _version),
    "listBuckets": (("options",), _list_buckets),
}


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
