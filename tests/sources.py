"""A source node that answers what a test tells it to, and tasks to pull from it."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

ASSIGNMENT = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
OWNER = "0A1B2C3D-0000-1000-8000-00000000000F"


def uuid(number: int) -> str:
    return f"00000000-0000-1000-8000-{number:012d}"


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def task(number: int, content: bytes, **changes: Any) -> dict[str, Any]:
    """The task to pull `content` as object `number`, as a manager posts it."""
    made = {
        "object_id": uuid(number),
        "owner": OWNER,
        "md5sum": md5(content),
        "source": {"datacenter": "dc1", "manta_storage_id": "2.stor.lab"},
    }
    return {**made, **changes}


BUCKET = "b0c1d2e3-0000-4000-8000-00000000000b"


def hash_of(number: int) -> str:
    """The MD5 of the name of a bucket object, as its path has it."""
    return hashlib.md5(f"object {number}".encode()).hexdigest()


def bucket_task(number: int, content: bytes, **changes: Any) -> dict[str, Any]:
    """The task to pull `content` as bucket object `number`."""
    of_bucket = {"owner": OWNER.lower(), "bucket_id": BUCKET, "object_name_hash": hash_of(number)}
    return task(number, content, **{**of_bucket, **changes})


def bucket_path(number: int, owner: str = OWNER.lower()) -> str:
    """The path of a bucket object on a storage node, below its root."""
    return f"v2/{owner}/{BUCKET}/{uuid(number)[:2]}/{uuid(number)},{hash_of(number)}"


@attrs.frozen
class Answer:
    """Bytes to send, and more a moment later; whether the connection is kept; or silence.

    With `until`, what is late is sent when that happens.
    """

    data: bytes
    late: bytes = b""
    until: trio.Event | None = None
    keep: bool = True
    hang: bool = False


def ok(content: bytes, *headers: str) -> bytes:
    """A whole answer, with its length."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


@attrs.define(eq=False)
class Source:
    """Mutable state: the requests so far, and their connections, in all and at a time."""

    answer: Callable[[int, str], Answer]
    port: int = 0
    paths: list[str] = attrs.field(factory=list)
    requests: list[bytes] = attrs.field(factory=list)
    connections: int = 0
    at_work: int = 0
    most_at_once: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.at_work += 1
        self.most_at_once = max(self.at_work, self.most_at_once)
        try:
            await self._serve(stream)
        finally:
            self.at_work -= 1

    async def _serve(self, stream: trio.SocketStream) -> None:
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
            self.requests.append(head)
            self.paths.append(head.split(b" ")[1].decode())
            answer = self.answer(len(self.paths) - 1, self.paths[-1])
            try:
                await stream.send_all(answer.data)
                if answer.late:
                    if answer.until is None:
                        await trio.sleep(0.05)
                    else:
                        await answer.until.wait()
                    await stream.send_all(answer.late)
            except trio.BrokenResourceError:
                return
            if answer.hang:
                await trio.sleep_forever()
            if not answer.keep:
                return


@asynccontextmanager
async def open_source(answer: Callable[[int, str], Answer]) -> AsyncIterator[Source]:
    """A source on a port of its own; `answer` gets the number of the request and its path."""
    source = Source(answer)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, source.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        source.port = listener.socket.getsockname()[1]
        yield source
        nursery.cancel_scope.cancel()
