"""This module has agents that copy nothing: an assignment is done when it comes.

Any number of them answer on one port and are told apart by the Host of a request, so that what a
manager does costs its neighbours next to nothing.
"""

import json
import re
import socket
from collections.abc import Awaitable, Callable

import attrs
import trio

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost: *([^\r:]+)", re.IGNORECASE)


@attrs.frozen
class Request:
    """A request has a body that is whole."""

    method: bytes
    path: bytes
    host: str
    body: bytes


@attrs.frozen
class Answer:
    """An answer is what a request is answered with."""

    body: bytes = b""
    status: int = 200


def listen(host: str) -> trio.SocketListener:
    """Make a listening socket on any free port, behind which a thousand clients may wait."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, 0))
    made.listen(4096)
    made.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


async def serve_http(
    listener: trio.SocketListener, answer: Callable[[Request], Awaitable[Answer]]
) -> None:
    """Answer requests for ever, those of a connection one after the other."""

    async def serve(stream: trio.SocketStream) -> None:
        buffer = b""
        try:
            async for data in stream:
                buffer += data
                while (end := buffer.find(b"\r\n\r\n") + 4) > 3:
                    head = buffer[:end]
                    found, host = _LENGTH.search(head), _HOST.search(head)
                    whole = end + (int(found[1]) if found else 0)
                    if len(buffer) < whole:
                        break
                    method, path, _ = head.split(b" ", 2)
                    name = "" if host is None else host[1].decode()
                    made = await answer(Request(method, path, name, buffer[end:whole]))
                    buffer = buffer[whole:]
                    first = f"HTTP/1.1 {made.status} Any\r\ncontent-length: {len(made.body)}"
                    await stream.send_all(f"{first}\r\n\r\n".encode() + made.body)
        except trio.BrokenResourceError:
            return  # the client is gone

    await trio.serve_listeners(serve, [listener])


@attrs.define
class Agents:
    """This is all the agents there are.

    Mutable state: how many tasks each assignment has.
    """

    tasks: dict[bytes, int] = attrs.field(factory=dict)

    async def answer(self, request: Request) -> Answer:
        """Do what an agent does with an assignment, but for the copies."""
        name = request.path.rpartition(b"/")[2]
        if request.method == b"POST":
            posted = json.loads(request.body)
            self.tasks[posted["id"].encode()] = len(posted["tasks"])
            return Answer(json.dumps(posted["id"]).encode())
        if request.method == b"DELETE":
            return Answer(status=404 if self.tasks.pop(name, None) is None else 200)
        if (count := self.tasks.get(name)) is None:
            return Answer(status=404)
        stats = {"state": {"Complete": None}, "failed": 0, "complete": count, "total": count}
        return Answer(json.dumps({"uuid": name.decode(), "stats": stats}).encode())


async def serve_agents() -> None:
    """Serve the agents for ever, and print their port."""
    listener = listen("127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await serve_http(listener, Agents().answer)
