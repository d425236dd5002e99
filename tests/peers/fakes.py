"""Stand-ins for Moray and for agents, in the process of a test.

They implement `rebalancer.peers.protocols` and pass the tests of `test_moray_conformance.py` and
`test_agent_conformance.py`, as the real clients and servers do.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import trio
from outcome import capture

from rebalancer.agent_protocol import Assignment, AssignmentReport
from rebalancer.errors import PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.peers import scan
from rebalancer.peers.agents import PostAnswer
from rebalancer.peers.metadata import Put, Record
from rebalancer.peers.moray.errors import MorayError, read_error
from rebalancer.peers.protocols import AgentService
from rebalancer_devregion.moray.errors import MorayError as ServerError
from rebalancer_devregion.moray.store import ShardStore

T = TypeVar("T")


class StoredShard(scan.DirectoryShard):
    """A shard's file behind the client's methods: a `MorayShard`.

    Effects first, answers after: a caller that is cancelled is one whose answer was lost.  Mutable
    state: the file, and whether the shard is away.
    """

    def __init__(self, store: ShardStore, name: str = "1.moray.lab") -> None:
        self.name, self.store = name, store
        self.is_away = False
        self.connections = 10

    def resize(self, connections: int) -> None:
        self.connections = connections

    async def call(self, _method: str, _keys: Sequence[str], effect: Callable[[], T]) -> T:
        """Have the effect of a call on these keys, then answer."""
        if self.is_away:
            await trio.sleep(0.01)
            raise PeerUnreachable(f"{self.name} is away")
        outcome = capture(effect)
        await trio.sleep(0.01)
        try:
            return outcome.unwrap()
        except ServerError as exc:
            raise read_error(exc.payload) from exc

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = scan.STATEMENT_S
    ) -> list[dict[str, Any]]:
        return await self.call("sql", [], lambda: self.store.sql(statement, values))

    async def get_object(self, bucket: str, key: str) -> Record | None:
        try:
            row = await self.call("get", [key], lambda: self.store.get(bucket, key))
        except MorayError as exc:
            if exc.is_missing:
                return None
            raise
        return to_record(row)

    async def find_objects(self, bucket: str, filter_text: str, limit: int) -> list[Record]:
        options = {"limit": limit, "sort": {"attribute": "_id", "order": "ASC"}, "no_count": True}
        rows = await self.call("find", [], lambda: self.store.find(bucket, filter_text, options))
        return [to_record(row) for row in rows]

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        write = lambda: self.store.put(bucket, key, parsed(value), etag)  # noqa: E731
        return await self.call("put", [key], write)

    async def batch(self, puts: Sequence[Put]) -> None:
        requests = [request(put) for put in puts]
        await self.call("batch", [put.key for put in puts], lambda: self.store.batch(requests, {}))


def to_record(row: Mapping[str, Any]) -> Record:
    return Record(row["key"], row["value"], row["_etag"])


def parsed(value: Mapping[str, Any] | JsonText) -> Mapping[str, Any]:
    """A value as a server takes it, whichever way it was going to be sent."""
    found: Mapping[str, Any] = json.loads(value) if isinstance(value, JsonText) else value
    return found


def request(put: Put) -> dict[str, Any]:
    """A write of a batch as the embedded server takes it."""
    value, options = parsed(put.value), {"etag": put.etag}
    return {"bucket": put.bucket, "key": put.key, "value": value, "options": options}


@attrs.define(eq=False, slots=False)
class RelayedAgents:
    """Agents in front of others: what a subclass does not answer itself, those behind answer."""

    behind: AgentService

    async def ping(self, shark: str) -> frozenset[str]:
        return await self.behind.ping(shark)

    async def limit_bandwidth(self, shark: str, bytes_per_s: int | None) -> bool:
        return await self.behind.limit_bandwidth(shark, bytes_per_s)

    async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
        return await self.behind.post(shark, assignment)

    async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
        return await self.behind.get(shark, assignment_id)

    async def delete(self, shark: str, assignment_id: str) -> None:
        await self.behind.delete(shark, assignment_id)
