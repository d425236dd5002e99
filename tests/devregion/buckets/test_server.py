"""The traps of a buckets-mdapi that no single recorded exchange shows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.peers.moray.fast import Message, Status, encode
from rebalancer_devregion import postgres
from rebalancer_devregion.buckets import server
from rebalancer_devregion.buckets.methods import Behaviour
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.devregion.buckets.servers import an_mdapi, request, until_waiting
from tests.devregion.moray.shards import listen
from tests.peers.buckets import shards
from tests.peers.buckets.shards import BUCKET, OWNER, SHARKS, VNODES, connected, object_id

CAPTURES = Path(__file__).parents[2] / "data" / "captures-buckets"
KEY = {"owner": OWNER, "bucket_id": BUCKET, "vnode": 7, "name": "a"}
MOVED = [
    {"datacenter": "dc3", "manta_storage_id": "3.stor.lab"},
    {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"},
]
UPDATE = {**KEY, "id": object_id(1), "content_type": "text/plain", "headers": {}, "sharks": MOVED}
NOT_FOUND = [{"error": {"name": "ObjectNotFound", "message": "requested object not found"}}]


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        made.create_buckets(VNODES)
        yield made


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    with connected(running) as db:
        shards.clear(db)
        shards.insert(db, "a")
        shards.insert(db, "b")
    return running


@contextmanager
def locked(cluster: Cluster, name: str) -> Iterator[None]:
    """Somebody else's transaction has locked a row."""
    with connected(cluster) as db:
        db.execute("BEGIN")
        table = "manta_bucket_7.manta_bucket_object"
        db.execute(f"SELECT 1 FROM {table} WHERE name = '{name}' FOR UPDATE".encode())
        yield


async def is_silent(mdapi: Any) -> bool:
    """Tell whether a request that needs no row gets no answer for a while."""
    with trio.move_on_after(0.1):
        await mdapi.call("listvnodes")
        return False
    return True


def sharks_of(cluster: Cluster, name: str) -> list[str]:
    with connected(cluster) as db:
        row = shards.row_of(db, name)
    assert row is not None
    return list(row[1])


async def test_a_failed_batch_freezes_the_shard(cluster: Cluster) -> None:
    """A later member's condition failed: the transaction of the first stays open, with its lock.

    Until its connection is used again, updates of that row wait, and all other requests with them.
    """
    capture = json.loads((CAPTURES / "server" / "290_batch_conflict_after_update.json").read_text())
    wrong = {**UPDATE, "name": "b", "conditions": {"if-match": [object_id(9)]}}
    members = [one | {"request_id": object_id(5)} for one in (UPDATE, wrong)]
    async with an_mdapi(cluster) as mdapi, trio.open_nursery() as nursery:
        (answer,) = await mdapi.call("batchupdateobjects", objects=members)
        (failed,) = answer["failed_vnodes"]
        (recorded,) = capture["reply"]["data"][0]["failed_vnodes"]
        assert failed["error"]["error"]["name"] == recorded["error"]["error"]["name"]
        assert failed["objects"][1].keys() == recorded["objects"][1].keys()
        assert failed["objects"][1]["conditions"].keys() == (
            recorded["objects"][1]["conditions"].keys()
        )
        assert sharks_of(cluster, "a") == list(SHARKS)

        for _ in range(server.THREADS):
            nursery.start_soon(lambda: mdapi.call("updateobject", **UPDATE))
        await until_waiting(cluster, server.THREADS)
        assert await is_silent(mdapi)

        with connected(cluster) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE state = 'idle in transaction'"
            )
        assert await mdapi.call("listvnodes") == [{"vnodes": list(VNODES)}]


async def test_a_pool_that_comes_round_ends_what_a_failure_left_open(cluster: Cluster) -> None:
    """The connection's next request begins with the end of its last one."""
    wrong = {**UPDATE, "name": "b", "conditions": {"if-match": [object_id(9)]}}
    members = [one | {"request_id": object_id(5)} for one in (UPDATE, wrong)]
    async with an_mdapi(cluster, pool=1) as mdapi:
        await mdapi.call("batchupdateobjects", objects=members)
        (row,) = await mdapi.call("updateobject", **UPDATE)

    assert row["sharks"] == MOVED


async def test_a_batch_updates_vnode_by_vnode(cluster: Cluster) -> None:
    """One that fails keeps no other from its update."""
    gone = {**UPDATE, "vnode": 0}
    members = [one | {"request_id": object_id(5)} for one in (gone, UPDATE)]
    async with an_mdapi(cluster) as mdapi:
        (answer,) = await mdapi.call("batchupdateobjects", objects=members)
        (too_many,) = await mdapi.call("batchupdateobjects", objects=members * 501)

    (failed,) = answer["failed_vnodes"]
    assert (failed["vnode"], failed["error"]) == (0, NOT_FOUND[0])
    assert sharks_of(cluster, "a") == ["dc3:3.stor.lab", "dc2:2.stor.lab"]
    assert too_many["error"]["name"] == "LimitConstraintError"


async def test_requests_that_wait_for_a_row_stop_all_clients(cluster: Cluster) -> None:
    """There are two threads for all: with both waiting nobody gets an answer, as recorded."""
    async with an_mdapi(cluster) as mdapi, trio.open_nursery() as nursery:
        with locked(cluster, "a"):
            for _ in range(server.THREADS):
                nursery.start_soon(lambda: mdapi.call("updateobject", **UPDATE))
            await until_waiting(cluster, server.THREADS)
            assert await is_silent(mdapi)
        assert await mdapi.call("getobject", **{**KEY, "name": "zz"}) == NOT_FOUND


async def test_a_pool_without_connections_is_overloaded(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After half a second."""
    monkeypatch.setattr(server, "CLAIM_S", 0.01)
    async with an_mdapi(cluster, pool=1) as mdapi, trio.open_nursery() as nursery:
        with locked(cluster, "a"):
            nursery.start_soon(lambda: mdapi.call("updateobject", **UPDATE))
            await until_waiting(cluster)
            (row,) = await mdapi.call("listvnodes")
        assert row["error"]["name"] == "OverloadedError"


async def test_a_connection_that_the_database_ended_is_replaced(cluster: Cluster) -> None:
    """One request fails for it."""
    async with an_mdapi(cluster, pool=1) as mdapi:
        await mdapi.call("listvnodes")
        with connected(cluster) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        (row,) = await mdapi.call("listvnodes")
        assert row["error"]["name"] == "PostgresError"
        assert await mdapi.call("listvnodes") == [{"vnodes": list(VNODES)}]


async def test_a_database_that_is_not_there_is_a_failure() -> None:
    """Of each request."""
    async with an_mdapi(Cluster(Path(), "127.0.0.1", 1)) as mdapi:
        (row,) = await mdapi.call("listvnodes")

    assert row["error"]["name"] == "PostgresError"


async def test_an_overwrite_and_a_deletion_leave_garbage(cluster: Cluster) -> None:
    """With the sharks of the row that was there: their files will be deleted."""
    new = {**UPDATE, "id": object_id(2), "content_length": 5, "content_md5": "AA=="}
    async with an_mdapi(cluster) as mdapi:
        await mdapi.call("createobject", **new)
        (deleted,) = await mdapi.call("deleteobject", **KEY)
        assert await mdapi.call("getobject", **KEY) == NOT_FOUND
        (batch,) = await mdapi.call("getgcbatch")
        assert await mdapi.call("deletegcbatch", batch_id=batch["batch_id"]) == ["ok"]
        (after,) = await mdapi.call("getgcbatch")

    assert deleted["id"] == object_id(2)
    assert {one["id"]: one["sharks"] for one in batch["garbage"]} == {
        object_id(1): [
            {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"},
            {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"},
        ],
        object_id(2): MOVED,
    }
    assert after["garbage"] == []


async def test_an_object_without_a_file_leaves_no_garbage(cluster: Cluster) -> None:
    """Its file, if it has one, stays."""
    with connected(cluster) as db:
        shards.insert(db, "empty", size=0)
    async with an_mdapi(cluster) as mdapi:
        await mdapi.call("deleteobject", **{**KEY, "name": "empty"})
        (batch,) = await mdapi.call("getgcbatch")

    assert batch["garbage"] == []


async def test_digits_that_no_double_holds_are_lost(cluster: Cluster) -> None:
    """On the way through the server, which reads properties before it shows them."""
    with connected(cluster) as db:
        shards.insert(
            db, "exact", properties='{"x": 0.12345678901234567890, "n": 123456789012345678901234}'
        )
    async with an_mdapi(cluster) as mdapi:
        (row,) = await mdapi.call("getobject", **{**KEY, "name": "exact"})

    assert row["properties"] == {"x": 0.12345678901234568, "n": 1.2345678901234568e23}


async def test_pipelined_requests_are_answered_in_order(cluster: Cluster) -> None:
    """However their bytes are cut, and after the client has ended its own side."""
    data = b"".join(
        encode(Message(number, Status.DATA, "listvnodes", [{"request_id": OWNER}], uts=1))
        for number in (3, 1, 2)
    )
    async with an_mdapi(cluster) as mdapi, await trio.open_tcp_stream(*mdapi.address) as stream:
        for cut in (data[:7], data[7:40], data[40:]):
            await stream.send_all(cut)
        await stream.send_eof()
        found = await listen(stream, 3)

    ends = [message.id for message in found if message.status is Status.END]
    assert ends == [3, 1, 2]


async def test_a_message_without_a_time_closes_the_connection(cluster: Cluster) -> None:
    """Without a word."""
    data = encode(Message(1, Status.DATA, "listvnodes", [{"request_id": OWNER}]))
    async with an_mdapi(cluster) as mdapi, await trio.open_tcp_stream(*mdapi.address) as stream:
        await stream.send_all(data)
        assert await listen(stream, 1) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"headers": {"a": 1}}, "invalid type: integer `1`, expected a string"),
        ({"owner": "a"}, "UUID parsing failed"),
        ({"sharks": {}}, "invalid type: map, expected a sequence"),
        ({"sharks": ["dc:1"]}, 'invalid type: string "dc:1", expected struct'),
        ({"vnode": 1.5}, "invalid type: floating point `1.5`, expected u64"),
        ({"vnode": True}, "invalid type: boolean `true`, expected u64"),
        ({"conditions": {"if-match": "a"}}, 'invalid type: string "a", expected a sequence'),
        ({"conditions": {"if-unmodified-since": "2026-13-01T00:00:00Z"}}, "out of range"),
    ],
)
async def test_arguments_of_another_type_are_refused(
    cluster: Cluster, args: dict[str, Any], message: str
) -> None:
    """The request ends in an ERROR, and the connection stays."""
    async with an_mdapi(cluster) as mdapi, await trio.open_tcp_stream(*mdapi.address) as stream:
        await stream.send_all(request("updateobject", **{**UPDATE, **args}))
        (error,) = await listen(stream, 1)
        await stream.send_all(request("listvnodes"))
        assert len(await listen(stream, 1)) == 2

    assert (error.status, error.data["name"]) == (Status.ERROR, "FastError")
    assert message in error.data["message"]


async def test_a_users_change_can_be_put_into_the_gap(cluster: Cluster) -> None:
    """Between condition and update, where nothing sees it."""

    def change(_args: dict[str, Any]) -> None:
        with connected(cluster) as db:
            shards.insert(db, "a", headers='"m-a"=>"user"')

    async with an_mdapi(cluster, Behaviour(in_the_gap=change)) as mdapi:
        (before,) = await mdapi.call("getobject", **KEY)
        conditions = {"if-match": [before["id"]], "if-unmodified-since": before["modified"]}
        args = {**UPDATE, "headers": before["headers"], "conditions": conditions}
        (after,) = await mdapi.call("updateobject", **args)

    assert after["headers"] == before["headers"]
    assert after["sharks"] == MOVED


async def test_no_row_is_locked_by_a_condition_that_fails(cluster: Cluster) -> None:
    """Its transaction stays open all the same."""
    args = {**UPDATE, "conditions": {"if-match": [object_id(9)]}}
    async with an_mdapi(cluster) as mdapi:
        await mdapi.call("updateobject", **args)
        with connected(cluster) as db:
            open_ones = db.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            ).fetchone()
            db.execute("SELECT 1 FROM manta_bucket_7.manta_bucket_object FOR UPDATE NOWAIT")

    assert open_ones == (1,)
