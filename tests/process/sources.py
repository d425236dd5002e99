"""A source node for an agent alone: whole objects, then, on demand, halves and silence."""

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

OWNER = "0a1b2c3d-0000-4000-8000-000000000001"


def object_id(content: bytes) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, content[:40].hex()))


def task(content: bytes, **fields: Any) -> dict[str, Any]:
    """The task to pull `content`, as a manager posts it."""
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    source = {"datacenter": "dc1", "manta_storage_id": "source.lab"}
    made = {"object_id": object_id(content), "owner": OWNER, "md5sum": md5, "source": source}
    return {**made, **fields}


@attrs.define(eq=False)
class Source:
    """Mutable state: how many requests are still answered whole, and who was asked for."""

    contents: dict[str, bytes]
    address: str = ""
    asked: list[str] = attrs.field(factory=list)
    _whole: int = 1_000_000
    _hanging: trio.Event = attrs.field(factory=trio.Event)

    def hang_after(self, requests: int) -> None:
        """Answer so many more requests whole, the others by half."""
        self._whole = requests
        self._hanging = trio.Event()

    async def is_hanging(self) -> None:
        """Return when a client waits for the other half."""
        with trio.fail_after(20):
            await self._hanging.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                try:
                    data = await stream.receive_some()
                except trio.BrokenResourceError:
                    return
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            name = head.split(b" ")[1].decode().rpartition("/")[2]
            self.asked.append(name)
            await self._answer(stream, self.contents[name])

    async def _answer(self, stream: trio.SocketStream, content: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        self._whole -= 1
        if self._whole >= 0:
            await stream.send_all(head + content)
            return
        await stream.send_all(head + content[: len(content) // 2])
        self._hanging.set()
        await trio.sleep_forever()


@asynccontextmanager
async def open_source(contents: Sequence[bytes]) -> AsyncIterator[Source]:
    """A source that has `contents`, on a port of its own."""
    source = Source({object_id(content): content for content in contents})
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, source.serve, 0, host="127.0.0.1")
        )
        source.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        yield source
        nursery.cancel_scope.cancel()
