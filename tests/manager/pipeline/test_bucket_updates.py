"""What becomes of the update of a bucket object, by the way it is made, on a real PostgreSQL.

docs/buckets.md has the table; it must say what happens here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from typing import Any

import attrs
import psycopg
import pytest
import trio

from rebalancer.domain.bucket_objects import read_key
from rebalancer.domain.objects import Shark
from rebalancer.domain.records import id_of
from rebalancer.jsontext import loads
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.pipeline.stages import update_records
from rebalancer.manager.pipeline.stages.update_records import RecordUpdater
from rebalancer.manager.store.records import WRITTEN, Update
from rebalancer.peers.buckets import mdapi
from rebalancer.peers.buckets.database import BucketsPrimary
from rebalancer.peers.buckets.mdapi import open_mdapi
from rebalancer.peers.buckets.tier import BucketsShard
from rebalancer.peers.names import Endpoint
from rebalancer.peers.postgres import PostgresPrimary
from rebalancer.peers.protocols import RecordStore
from rebalancer_devregion import postgres
from rebalancer_devregion.buckets import server
from rebalancer_devregion.buckets.methods import Behaviour
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.devregion.buckets.servers import WAIT_S, Mdapi, an_mdapi
from tests.manager.world import ORIGIN
from tests.peers.buckets import shards
from tests.peers.buckets.servers import NAME
from tests.peers.buckets.shards import BUCKET, OWNER, SHARKS, connected, key_of, object_id
from tests.test_docs import ROOT, rows

DESTINATION = Shark("dc3", "3.stor.lab")
MOVED = ["dc3:3.stor.lab", SHARKS[1]]
TABLE = "manta_bucket_7.manta_bucket_object"
SQL, NEW, OLD = WAYS = ("sql", "mdapi", "mdapi, too old")
#: Of a client of ours, instead of seconds.
SOON_S = 0.1


class Limiter(UpdateLimiter):
    """A limiter that lets a test see that a call has failed."""

    def __init__(self, patience_s: float) -> None:
        super().__init__(8, patience_s)
        self.has_failed = trio.Event()

    def failed(self, shard: int, detail: str) -> None:
        super().failed(shard, detail)
        self.has_failed.set()


@attrs.define
class Relay:
    """A relay from a client to its server.

    Mutable state: how many answers to updates are still to be lost, with their connections.
    """

    target: tuple[str, int]
    losses: int = 0

    async def serve(self, client: trio.SocketStream) -> None:
        async with (
            client,
            await trio.open_tcp_stream(*self.target) as there,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._back, client, there, nursery.cancel_scope, self.losses)
            with suppress(trio.BrokenResourceError):
                await self._forth(client, there)
            nursery.cancel_scope.cancel()

    async def _forth(self, client: trio.SocketStream, there: trio.SocketStream) -> None:
        while data := await client.receive_some(1 << 16):
            is_update = any(word in data for word in (b"UPDATE manta", b"updateobject"))
            await there.send_all(data)
            if self.losses and is_update:
                self.losses -= 1
                await trio.sleep_forever()

    async def _back(
        self,
        client: trio.SocketStream,
        there: trio.SocketStream,
        scope: trio.CancelScope,
        losses: int,
    ) -> None:
        with suppress(trio.BrokenResourceError):
            while (data := await there.receive_some(1 << 16)) and self.losses >= losses:
                await client.send_all(data)
        scope.cancel()


@attrs.frozen
class Rig:
    """A rig has one object, one way to update it, and who else is about."""

    way: str
    cluster: Cluster
    store: RecordStore
    mdapi: Mdapi
    relay: Relay
    limiter: Limiter
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when a condition holds, or the update has ended."""
        with trio.fail_after(WAIT_S):
            while not (self.ended.is_set() or condition()):  # noqa: ASYNC110
                await trio.sleep(0.002)


Meanwhile = Callable[..., Awaitable[None]]


def at_once(statement: str) -> Meanwhile:
    """Somebody's change is there before the update begins."""

    async def change(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
        with connected(rig.cluster) as db:
            db.execute(statement.encode())
        await trio.lowlevel.checkpoint()
        task_status.started()

    return change


def in_flight(statement: str) -> Meanwhile:
    """Somebody has changed the row, and commits when the update waits for that."""

    async def change(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
        with connected(rig.cluster) as db, connected(rig.cluster) as other:
            db.execute("BEGIN")
            db.execute(statement.encode())
            task_status.started()
            await rig.until(lambda: busy(other, "wait_event_type = 'Lock'"))
            db.execute("COMMIT")

    return change


def busy(db: psycopg.Connection[Any], condition: str) -> bool:
    """Tell whether another connection does something."""
    statement = f"SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition}"
    return db.execute(statement.encode()).fetchone() is not None


async def locked_for_long(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
    """Somebody holds the row for longer than the update waits."""
    with connected(rig.cluster) as db:
        db.execute("BEGIN")
        db.execute(f"SELECT 1 FROM {TABLE} WHERE name = 'a' FOR UPDATE".encode())
        task_status.started()
        await rig.until(rig.limiter.has_failed.is_set)
        db.execute("COMMIT")


async def locked_for_ever(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
    """Somebody holds the row until the update is given up."""
    with connected(rig.cluster) as db:
        db.execute("BEGIN")
        db.execute(f"SELECT 1 FROM {TABLE} WHERE name = 'a' FOR UPDATE".encode())
        task_status.started()
        await rig.ended.wait()
        db.execute("COMMIT")


async def overloaded(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
    """All connections to the database are taken, until the update has noticed."""
    with ExitStack() as stack:
        if rig.way == SQL:
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(connected(rig.cluster))
            task_status.started()
            await rig.until(rig.limiter.has_failed.is_set)
            return
        db = stack.enter_context(connected(rig.cluster))
        db.execute("BEGIN")
        db.execute(f"SELECT 1 FROM {TABLE} WHERE name = 'b' FOR UPDATE".encode())
        async with trio.open_nursery() as nursery:
            args = {**ARGS, "name": "b", "content_type": "t", "headers": {}, "id": object_id(1)}
            nursery.start_soon(lambda: rig.mdapi.call("updateobject", **args))
            with connected(rig.cluster) as other:
                await rig.until(lambda: busy(other, "wait_event_type = 'Lock'"))
            task_status.started()
            await rig.until(rig.limiter.has_failed.is_set)
            db.execute("COMMIT")


ARGS = {"owner": OWNER, "bucket_id": BUCKET, "vnode": 7}


async def loses_the_answer(rig: Rig, *, task_status: trio.TaskStatus[None]) -> None:
    """The connection breaks when the update was made, and before its answer has come."""
    rig.relay.losses = 1
    await trio.lowlevel.checkpoint()
    task_status.started()


HEADERS = f"UPDATE {TABLE} SET headers = 'm-a=>user', modified = now() WHERE name = 'a'"
OVERWRITE = (
    f"UPDATE {TABLE} SET id = '{object_id(2)}', sharks = '{{dc1:8.stor.lab,dc2:2.stor.lab}}',"
    " created = now(), modified = now() WHERE name = 'a'"
)
DELETE = f"DELETE FROM {TABLE} WHERE name = 'a'"
MOVE = f"UPDATE {TABLE} SET sharks = '{{dc1:8.stor.lab,dc2:2.stor.lab}}' WHERE name = 'a'"
CASES: Mapping[str, Meanwhile] = {
    "nobody touches the object": at_once("SELECT 1"),
    "its user changes headers before": at_once(HEADERS),
    "its user changes headers just then": in_flight(HEADERS),
    "its user overwrites it before": at_once(OVERWRITE),
    "its user overwrites it just then": in_flight(OVERWRITE),
    "its user deletes it before": at_once(DELETE),
    "its user deletes it just then": in_flight(DELETE),
    "somebody else moves it before": at_once(MOVE),
    "somebody else moves it just then": in_flight(MOVE),
    "its row is locked for longer than we wait": locked_for_long,
    "its row is locked until we give up": locked_for_ever,
    "the server has no connection left": overloaded,
    "the answer is lost": loses_the_answer,
    "its headers are NULL": at_once(f"UPDATE {TABLE} SET headers = NULL WHERE name = 'a'"),
    "no double holds one of its numbers": at_once(
        f"UPDATE {TABLE} SET properties = '{{\"x\": 0.12345678901234567890}}' WHERE name = 'a'"
    ),
    "a shark has a port": at_once(
        f"UPDATE {TABLE} SET sharks = '{{dc1:1.stor.lab:80,dc2:2.stor.lab}}' WHERE name = 'a'"
    ),
}


#: Changes by others that are there when the update ends.
THEIRS = {
    "its user changes headers before": "user",
    "its user changes headers just then": "user",
    "somebody else moves it just then": "8.stor.lab",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        made.create_buckets((0, 7, 12))
        yield made


@pytest.fixture
def cluster(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(mdapi, "CALL_S", 5 * SOON_S)
    monkeypatch.setattr(server, "CLAIM_S", SOON_S)
    monkeypatch.setattr(update_records, "FIRST_PAUSE_S", 0.002)
    settings = {**PostgresPrimary._SETTINGS, "lock_timeout": f"{round(SOON_S * 1000)}"}
    monkeypatch.setattr(PostgresPrimary, "_SETTINGS", settings)
    return running


@asynccontextmanager
async def a_rig(cluster: Cluster, way: str, patience_s: float) -> AsyncIterator[Rig]:
    behaviour = Behaviour(is_old=way == OLD)
    async with an_mdapi(cluster, behaviour, pool=1) as served, trio.open_nursery() as nursery:
        target = (cluster.host, cluster.port) if way == SQL else served.address
        relay = Relay(target)
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay.serve, 0, host="127.0.0.1"))
        where = Endpoint("127.0.0.1", listener.socket.getsockname()[1])
        async with open_mdapi({1: NAME}, {NAME: f"{where.host}:{where.port}"}) as clients:
            database = where if way == SQL else Endpoint(cluster.host, cluster.port)
            with closing(BucketsPrimary("1.lab", database)) as primary:
                store = BucketsShard(primary, primary if way == SQL else clients[1], [primary])
                yield Rig(way, cluster, store, served, relay, Limiter(patience_s))
        nursery.cancel_scope.cancel()


async def discovered(cluster: Cluster, names: Sequence[str]) -> list[Update]:
    """The updates of objects, as discovery found them."""
    keys = [str(key_of(name)) for name in names]
    with closing(BucketsPrimary("1.lab", Endpoint(cluster.host, cluster.port))) as primary:
        found = await primary.rows_of(keys)
    return [
        Update(number, str(id_of(loads(row.value))), row.key, -1, row.etag, row.value, DESTINATION)
        for number, row in enumerate(found)
    ]


async def seen(rig: Rig, case: str) -> str:
    """How the update ended, and what it has done to the row besides."""
    (update,) = await discovered(rig.cluster, "a")
    async with trio.open_nursery() as nursery:
        await nursery.start(CASES[case], rig)
        with trio.fail_after(WAIT_S):
            updater = RecordUpdater(-1, rig.store, Evacuate(ORIGIN), rig.limiter)
            await updater.update([update])
        rig.ended.set()
    with connected(rig.cluster) as db:
        while busy(db, "state = 'active' AND query LIKE 'UPDATE manta%'"):  # noqa: ASYNC110
            await trio.sleep(0.002)
        row = shards.row_of(db, "a")
        assert shards.deleted_rows(db) == 0
    result = update.result
    assert result is not None
    words = ["complete" if result is WRITTEN else str(result.reason)]
    is_moved = row is not None and row[1] == MOVED
    if is_moved != (result is WRITTEN):
        assert is_moved
        words.append("made later")
    if THEIRS.get(case, "") not in str(row):
        words.append("their change is lost")
    return "; ".join(words)


@pytest.fixture(scope="module")
def page() -> dict[str, tuple[str, ...]]:
    """The rows of the page's table by what happens."""
    found = [row for row in rows(ROOT / "docs" / "buckets.md") if len(row) == 1 + len(WAYS)]
    return {row[0]: row for row in found}


@pytest.mark.parametrize("case", CASES)
async def test_the_page_says_what_happens(
    case: str, page: Mapping[str, tuple[str, ...]], cluster: Cluster
) -> None:
    """By each way."""
    ends = []
    for way in WAYS:
        with connected(cluster) as db:
            shards.clear(db)
            for name in "ab":
                shards.insert(db, name, sharks=SHARKS)
        patience_s = 1e-9 if CASES[case] is locked_for_ever else 60.0
        async with a_rig(cluster, way, patience_s) as rig:
            ends.append(await seen(rig, case))
    expected = (case, *ends)

    assert page.get(case) == expected, "| " + " | ".join(expected) + " |"


def test_the_page_has_no_other_row(page: Mapping[str, tuple[str, ...]]) -> None:
    """And every case has its row."""
    assert list(page)[2:] == list(CASES)


@pytest.mark.parametrize("way", [SQL, NEW])
async def test_several_objects_of_one_assignment(cluster: Cluster, way: str) -> None:
    """One that its user overwrote keeps no other from its update, by either way."""
    names = "abcd"
    with connected(cluster) as db:
        shards.clear(db)
        for name in names:
            shards.insert(db, name, sharks=SHARKS)
    updates = await discovered(cluster, names)
    with connected(cluster) as db:
        shards.insert(db, "b", 2, sharks=SHARKS)
    async with a_rig(cluster, way, 60.0) as rig:
        await RecordUpdater(-1, rig.store, Evacuate(ORIGIN), rig.limiter).update(updates)
    with connected(cluster) as db:
        moved = [shards.row_of(db, name)[1] == MOVED for name in names]  # type: ignore[index]

    assert moved == [True, False, True, True]
    ends = {read_key(update.key).name: update.result for update in updates}
    assert [ends[name] is WRITTEN for name in names] == moved
    assert str(ends["b"] and ends["b"].reason) == "overwritten"
