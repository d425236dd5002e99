"""A shard's server in a test, and conversations with it byte by byte."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore


@attrs.frozen
class Shard:
    server: ShardServer
    address: tuple[str, int]

    async def converse(self, data: bytes, answers: int = 1) -> list[Message]:
        """Send bytes; the messages up to the last of so many ENDs and ERRORs, or of the stream."""
        return await converse(self.address, data, answers)

    async def call(self, method: str, *args: Any) -> list[Any]:
        """The rows of one request.

        Raises:
          Refused: the answer was an ERROR.
        """
        *rows, last = await self.converse(request(method, *args))
        if last.status is Status.ERROR:
            raise Refused(last.data, [row.data[0] for row in rows])
        return [item for row in rows for item in row.data]


class Refused(Exception):
    """An ERROR: its payload, and the rows before it."""

    def __init__(self, payload: dict[str, Any], rows: list[Any]) -> None:
        super().__init__(f"{payload['name']}: {payload['message']}")
        self.payload, self.rows = payload, rows


def request(method: str, *args: Any, number: int = 1) -> bytes:
    return fast.encode(Message(number, Status.DATA, method, list(args)))


async def converse(address: tuple[str, int], data: bytes, answers: int = 1) -> list[Message]:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(data)
        with trio.fail_after(10):
            return await listen(stream, answers)


async def listen(stream: trio.SocketStream, answers: int) -> list[Message]:
    decoder, found = fast.Decoder(), list[Message]()
    while ended(found) < answers and (received := await stream.receive_some(1 << 16)):
        found += decoder.feed(received)
    return found


def ended(messages: Iterable[Message]) -> int:
    return sum(message.status is not Status.DATA for message in messages)


@asynccontextmanager
async def a_shard(folder: Path) -> AsyncIterator[Shard]:
    store = ShardStore(folder / "1.sqlite")
    server = ShardServer(store)
    try:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.serve, "127.0.0.1", 0)
            yield Shard(server, address)
            nursery.cancel_scope.cancel()
    finally:
        store.close()
