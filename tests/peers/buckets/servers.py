"""A server of buckets-mdapi on loopback: what it answers is recorded, or kept in a dictionary."""

import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio
import trio.lowlevel

from rebalancer.domain.bucket_objects import BucketKey
from rebalancer.peers.buckets.mdapi import MdapiClient, open_mdapi
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status

NAME = "1.buckets-mdapi.lab"
CAPTURES = sorted((Path(__file__).parents[2] / "data" / "captures-buckets").glob("*.json"))
#: How a request ends without an answer.
CLOSED, SILENT = "closed", "timeout"
#: The elements of the DATA of an answer, the payload of an ERROR, or none.
Answer = list[Any] | dict[str, Any] | str


class Server(Protocol):
    """A server answers methods with one argument object."""

    async def answer(self, method: str, args: Any) -> Answer: ...


@asynccontextmanager
async def client_of(*servers: Server) -> AsyncIterator[MdapiClient]:
    """A client of a shard with one server, or of one that is replaced by each next connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, partial(_serve, list(servers)), 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        async with open_mdapi({1: NAME}, {NAME: f"127.0.0.1:{port}"}) as clients:
            yield clients[1]
        nursery.cancel_scope.cancel()


async def _serve(servers: list[Server], stream: trio.SocketStream) -> None:
    server = servers.pop(0) if len(servers) > 1 else servers[0]
    decoder = fast.Decoder()
    async with stream:
        async for data in stream:
            for message in decoder.feed(bytes(data)):
                assert message.version == 2
                assert message.uts is not None
                answer = await server.answer(message.method or "", message.data[0])
                if answer == CLOSED:
                    return
                if answer == SILENT:
                    await trio.sleep_forever()
                await stream.send_all(_encoded(message, answer))


def _encoded(request: Message, answer: Answer) -> bytes:
    if isinstance(answer, dict):
        return fast.encode(Message(request.id, Status.ERROR, request.method, answer, uts=1))
    data = [Message(request.id, Status.DATA, request.method, [row], uts=1) for row in answer]
    end = Message(request.id, Status.END, request.method, [], uts=1)
    return b"".join(map(fast.encode, [*data, end]))


def recorded(path: Path) -> tuple[str, Any, Answer]:
    """Method, argument object and answer of a capture."""
    capture = json.loads(path.read_text())
    payload = capture["request"]["payload"]
    if not capture["replies"]:
        answer: Answer = capture["connection_after"]
    elif capture["replies"][0]["status"] == "ERROR":
        answer = capture["replies"][0]["payload"]["d"]
    else:
        answer = [row for reply in capture["replies"] for row in reply["payload"]["d"]]
    args = payload["d"][0] if payload["d"] else {}
    return capture["request"]["method"], args, answer


@attrs.define
class Replay:
    """A server of captures: it answers each request that was recorded, and no other."""

    paths: Sequence[Path]

    async def answer(self, method: str, args: Any) -> Answer:
        for path in self.paths:
            known, known_args, answer = recorded(path)
            if (known, _without_id(known_args)) == (method, _without_id(args)):
                return answer
        raise AssertionError(f"{method} {args} was never recorded")


def _without_id(args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name != "request_id"}


def error(name: str, message: str = "") -> Answer:
    return [{"error": {"name": name, "message": message}}]


async def _nothing() -> None:
    pass


@attrs.define
class FakeMdapi:
    """A server with its rows in a dictionary, in both versions, with the traps of the real ones.

    Its mutable state: the rows, the requests so far, and what is switched on.
    """

    rows: dict[BucketKey, dict[str, Any]] = attrs.field(factory=dict)
    is_old: bool = False
    #: Runs between the condition of an update and the update.
    in_the_gap: Callable[[], Awaitable[None]] = _nothing
    #: How the answers to a method are lost, once each, after its effect.
    losses: list[tuple[str, str]] = attrs.field(factory=list)
    #: Errors to answer next instead of doing anything, by method.
    errors: list[tuple[str, Answer]] = attrs.field(factory=list)
    asked: list[str] = attrs.field(factory=list)
    at_work: int = 0
    most_at_work: int = 0
    _clock: int = 0

    async def answer(self, method: str, args: Any) -> Answer:
        self.asked.append(method)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await trio.lowlevel.checkpoint()
        try:
            for one in self.errors:
                if one[0] == method:
                    self.errors.remove(one)
                    return one[1]
            answer = await self._do(method, args)
            for lost in self.losses:
                if lost[0] == method:
                    self.losses.remove(lost)
                    return lost[1]
            return answer
        finally:
            self.at_work -= 1

    async def _do(self, method: str, args: Any) -> Answer:
        if self.is_old and method in ("batchupdateobjects", "listvnodes"):
            return {"name": "FastError", "message": f"Unsupported functon: {method}"}
        if method == "batchupdateobjects":
            assert args["objects"] == [], "a batch can freeze its shard"
            return [{"failed_vnodes": []}]
        if method == "listvnodes":
            return [{"vnodes": sorted({key.vnode for key in self.rows})}]
        assert method in ("getobject", "updateobject"), method
        key = BucketKey(args["vnode"], args["owner"], args["bucket_id"], args["name"])
        if key not in self.rows:
            return error("ObjectNotFound", "requested object not found")
        if self.rows[key]["headers"] is None:
            return CLOSED  # the handler panics
        if method == "getobject":
            return [copy.deepcopy(self.rows[key])]
        return await self._update(key, args)

    async def _update(self, key: BucketKey, args: Any) -> Answer:
        conditions = args["conditions"]
        if self.rows[key]["id"] not in conditions["if-match"]:
            return error("PreconditionFailedError", "if-match didn't match")
        if self.rows[key]["modified"] > conditions["if-unmodified-since"]:
            return error("PreconditionFailedError", "object was modified")
        await self.in_the_gap()
        row = self.rows[key]
        if not self.is_old and row["id"] != args["id"]:
            return error("ObjectNotFound", "requested object not found")
        for name in ("content_type", "headers"):
            row[name] = args[name]
        row["properties"] = args.get("properties")
        if not self.is_old and args.get("sharks") is not None:
            row["sharks"] = args["sharks"]
        self.modify(key)
        return [copy.deepcopy(row)]

    def modify(self, key: BucketKey) -> None:
        """Note that a row has changed."""
        self._clock += 1
        self.rows[key]["modified"] = f"2026-11-25T20:53:15.{self._clock:06d}Z"

    def add(self, key: BucketKey, object_id: str, sharks: Sequence[str], **columns: Any) -> None:
        """Have a row, as if a user had written it just now."""
        pairs = [shark.split(":") for shark in sharks]
        self.rows[key] = {
            "id": object_id,
            "name": key.name,
            "owner": key.owner,
            "bucket_id": key.bucket_id,
            "created": "2026-11-25T20:53:15.367705Z",
            "content_length": 5,
            "content_md5": "XUFAKrxLKna5cZ2REBfFkg==",
            "content_type": "text/plain",
            "headers": {"m-a": "b", "null-one": None},
            "sharks": [{"datacenter": dc, "manta_storage_id": node} for dc, node, *_ in pairs],
            "properties": {"roles": ["r"]},
            **columns,
        }
        self.modify(key)

    def sharks(self, key: BucketKey) -> list[str]:
        """The sharks of a row, as a database has them."""
        found = self.rows[key]["sharks"]
        return [f"{shark['datacenter']}:{shark['manta_storage_id']}" for shark in found]
