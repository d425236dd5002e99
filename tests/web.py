"""A client of an application, without a socket between them; or a socket, for who blocks."""

import json as codec
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any
from urllib.parse import unquote

import attrs
import trio

from rebalancer.daemon import Listen, listen
from rebalancer.serving.app import Answer, Application, Request


@attrs.frozen
class Reply:
    """What was answered."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @classmethod
    async def of(cls, answer: Answer) -> "Reply":
        if isinstance(answer.body, bytes):
            content = answer.body
        else:
            content = b"".join([piece async for piece in answer.body])
        headers = {"Content-Type": answer.content_type, **answer.headers}
        return cls(answer.status, headers, content)

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"]

    async def get_data(self, as_text: bool = False) -> Any:
        return self.content.decode() if as_text else self.content

    async def get_json(self) -> Any:
        return codec.loads(self.content)


@attrs.frozen
class Client:
    """Asks `app`."""

    app: Application

    async def open(
        self,
        target: str,
        *,
        method: str = "GET",
        json: Any = None,
        data: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        path, _, query = target.partition("?")
        content = codec.dumps(json).encode() if data is None and json is not None else data or b""
        content = content.encode() if isinstance(content, str) else content
        request = Request(
            method,
            unquote(path),
            query,
            {name.lower(): value for name, value in (headers or {}).items()},
            content if len(content) <= self.app.max_body_bytes else None,
        )
        return await Reply.of(await self.app.begin(request)[1])

    async def get(self, target: str, **given: Any) -> Reply:
        return await self.open(target, method="GET", **given)

    async def post(self, target: str, **given: Any) -> Reply:
        return await self.open(target, method="POST", **given)

    async def put(self, target: str, **given: Any) -> Reply:
        return await self.open(target, method="PUT", **given)

    async def delete(self, target: str, **given: Any) -> Reply:
        return await self.open(target, method="DELETE", **given)

    async def patch(self, target: str, **given: Any) -> Reply:
        return await self.open(target, method="PATCH", **given)


@contextmanager
def served_in_thread(
    open_app: Callable[[], AbstractAsyncContextManager[Application]],
) -> Iterator[str]:
    """The URL of an application that a thread of its own opens and serves."""
    started = Future[tuple[str, trio.Event, trio.lowlevel.TrioToken]]()

    async def serve() -> None:
        stopping = trio.Event()
        async with open_app() as app, trio.open_nursery() as nursery:
            address = await listen(nursery, app, Listen("127.0.0.1", 0), stopping)
            started.set_result((address, stopping, trio.lowlevel.current_trio_token()))

    def run() -> None:
        try:
            trio.run(serve)
        except Exception as exc:
            if started.done():
                raise
            started.set_exception(exc)

    thread = threading.Thread(target=run)
    thread.start()
    address, stopping, token = started.result()
    yield f"http://{address}"
    trio.from_thread.run_sync(stopping.set, trio_token=token)
    thread.join()
