"""An agent in this process, and a source that answers what a test tells it to."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.agent.api import Agent, make_api
from rebalancer.agent.main import open_agent
from rebalancer.config import AgentConfig, read_agent

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


@attrs.frozen
class Answer:
    """Bytes to send, and more a moment later; whether the connection is kept; or silence."""

    data: bytes
    late: bytes = b""
    keep: bool = True
    hang: bool = False


def ok(content: bytes, *headers: str) -> bytes:
    """A whole answer, with its length."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


@attrs.define(eq=False)
class Source:
    """Mutable state: the requests so far, and how many connections carried them."""

    answer: Callable[[int, str], Answer]
    port: int = 0
    paths: list[str] = attrs.field(factory=list)
    requests: list[bytes] = attrs.field(factory=list)
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
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
                    await trio.sleep(0.05)
                    await stream.send_all(answer.late)
            except trio.BrokenResourceError:
                return
            if answer.hang:
                await trio.sleep_forever()
            if not answer.keep:
                return


@attrs.frozen
class Rig:
    """An agent at work, its API, its folders and its source."""

    agent: Agent
    client: Any
    folder: Path
    source: Source

    @property
    def temporary(self) -> list[Path]:
        return list((self.folder / "manta" / "rebalancer").iterdir())

    def path(self, number: int) -> Path:
        return self.folder / "manta" / OWNER / uuid(number)

    async def post(self, tasks: Sequence[dict[str, Any]], name: str = ASSIGNMENT) -> Any:
        return await self.client.post("/assignments", json={"id": name, "tasks": list(tasks)})

    async def stats(self, name: str = ASSIGNMENT) -> dict[str, Any]:
        body = await (await self.client.get(f"/assignments/{name}")).get_json()
        stats: dict[str, Any] = body["stats"]
        return stats

    async def finish(self, name: str = ASSIGNMENT) -> list[dict[str, Any]]:
        """The failed tasks, once the assignment is complete."""
        with trio.fail_after(20):
            while not isinstance((stats := await self.stats(name))["state"], dict):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert stats["complete"] == stats["total"]
        failed: list[dict[str, Any]] = stats["state"]["Complete"] or []
        assert stats["failed"] == len(failed)
        return failed

    async def outcome(self, *tasks: dict[str, Any]) -> dict[str, Any]:
        """Post tasks; the statuses of those that failed, by object."""
        reply = await self.post(tasks)
        assert reply.status_code == 200, await reply.get_data(as_text=True)
        return {failed["object_id"]: failed["status"] for failed in await self.finish()}


def settings(folder: Path, port: int, **source: Any) -> AgentConfig:
    """A configuration for folders of the test, with the source behind 2.stor.lab."""
    text = f"""
        [storage]
        manta_root = "{folder}/manta"
        state_dir = "{folder}/state"
        reserve_mb = 0
        [source]
        retries = 0
        [hosts]
        "2.stor.lab" = "127.0.0.1:{port}"
    """
    config, unknown = read_agent(text, "test")
    assert unknown == []
    return attrs.evolve(config, source=attrs.evolve(config.source, **source))


@asynccontextmanager
async def open_rig(
    folder: Path,
    answer: Callable[[int, str], Answer],
    *,
    change: Callable[[AgentConfig], AgentConfig] = lambda config: config,
    **source_options: Any,
) -> AsyncIterator[Rig]:
    """An agent that works, and its source."""
    source = Source(answer)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, source.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        source.port = listener.socket.getsockname()[1]
        config = change(settings(folder, source.port, **source_options))
        with open_agent(config) as agent:
            agent.worker.resume()
            async with trio.open_nursery() as work:
                work.start_soon(agent.worker.run)
                yield Rig(agent, make_api(agent).test_client(), folder, source)
                work.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
