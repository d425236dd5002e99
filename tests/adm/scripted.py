"""A manager that answers as it is told, on a real socket."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.adm.client import Access, Manager, open_manager
from tests.peers.test_http import answer


@attrs.define
class Scripted:
    """Mutable state: what is answered, and what was asked for."""

    replies: Mapping[str, Callable[[], bytes]]
    url: str = ""
    asked: list[str] = attrs.field(factory=list)
    headers: list[str] = attrs.field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        head = bytearray()
        while b"\r\n\r\n" not in head:
            if not (piece := await stream.receive_some()):
                return
            head += piece
        line, *headers = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        self.asked.append(line.removesuffix(" HTTP/1.1"))
        self.headers += headers
        path = line.split()[1]
        reply = self.replies.get(path)
        await stream.send_all(answer(404, "Not Found") if reply is None else reply())


@asynccontextmanager
async def scripted(**replies: Any) -> AsyncIterator[tuple[Scripted, Manager]]:
    """A manager that answers each path (without its slash) with a text, or what a call returns."""
    script = Scripted(
        {
            f"/{path}": partial(answer, 200, reply) if isinstance(reply, str) else reply
            for path, reply in replies.items()
        }
    )
    async with trio.open_nursery() as nursery:
        start = partial(trio.serve_tcp, script.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(start)
        script.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with open_manager(Access(script.url)) as manager:
            yield script, manager
        nursery.cancel_scope.cancel()
