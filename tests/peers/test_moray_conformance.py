"""What the manager relies on of a shard's Moray, asked of every Moray that there is here.

That is the fakes of tests, the embedded region's server through the real client, and, where
REBALANCER_TEST_MORAY=host:port names one, a real server.  That one gets a bucket of its own, which
is removed at the end.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer import jsontext
from rebalancer.errors import PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.peers.metadata import Put
from rebalancer.peers.moray.client import open_moray
from rebalancer.peers.moray.errors import MorayError
from rebalancer.peers.names import locate
from rebalancer.peers.protocols import MorayShard
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore
from tests.manager.world import FakeMoray, make_world, record
from tests.peers.cuts import behind_a_link, cut_for_good
from tests.peers.fakes import StoredShard

REAL = os.environ.get("REBALANCER_TEST_MORAY", "")
BUCKET = f"rebalancer_test_{os.getpid()}"
CONFIG = {"index": {"name": {"type": "string"}, "size": {"type": "number"}}}
NAME = "1.moray.lab"


@attrs.frozen
class Subject:
    """A shard, and how to break all connections to it, for good."""

    shard: MorayShard
    cut: Callable[[], None]


@asynccontextmanager
async def stored(folder: Path) -> AsyncIterator[Subject]:
    store = ShardStore(folder / "1.sqlite")
    store.create_bucket(BUCKET, CONFIG)
    shard = StoredShard(store)
    yield Subject(shard, lambda: setattr(shard, "is_away", True))
    store.close()


@asynccontextmanager
async def of_a_world(folder: Path) -> AsyncIterator[Subject]:
    world = make_world(folder, [], shards=1)
    world.shards[1].create_bucket(BUCKET, CONFIG)
    shard = FakeMoray(world, 1, world.shards[1])
    yield Subject(shard, lambda: setattr(shard, "is_away", True))
    world.close()


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Subject]:
    store = ShardStore(folder / "1.sqlite")
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(ShardServer(store).serve, "127.0.0.1", 0)
        async with connected(host, port) as subject:
            yield subject
        nursery.cancel_scope.cancel()
    store.close()


@asynccontextmanager
async def real(_folder: Path) -> AsyncIterator[Subject]:
    server = locate(REAL, {}, 2020)
    async with connected(server.host, server.port) as subject:
        yield subject


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Subject]:
    """The client of a server, by a link that can be cut; the bucket is removed at the end."""
    async with behind_a_link(host, port, framed=True) as link:
        hosts = {NAME: f"{link.host}:{link.port}"}
        async with open_moray({1: NAME}, hosts, connections=2) as clients:
            # The manager makes no buckets, so that its client has no method for them.
            await clients[1]._call("createBucket", [BUCKET, CONFIG, {}])
            yield Subject(clients[1], lambda: cut_for_good(link))
            link.heal()
            await clients[1]._call("delBucket", [BUCKET, {}])


KINDS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "stored": stored,
    "world": of_a_world,
    "embedded": embedded,
    **({"real": real} if REAL else {}),
}


@pytest.fixture(params=list(KINDS))
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async with KINDS[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def shard(subject: Subject) -> MorayShard:
    return subject.shard


def value(number: int, **fields: Any) -> dict[str, Any]:
    # Without sharks: a world refuses a name without a copy.
    return {**record(number), "sharks": [], "name": f"n{number}", "size": number, **fields}


async def test_a_record_is_read_as_it_was_put(shard: MorayShard) -> None:
    """Key, value and the etag that the put returned."""
    etag = await shard.put_object(BUCKET, "a", value(1), None)
    found = await shard.get_object(BUCKET, "a")

    assert found is not None
    assert (found.key, found.value, found.etag) == ("a", value(1), etag)


async def test_text_is_put_as_the_value_that_it_spells(shard: MorayShard) -> None:
    """A rewritten record is sent as text, to keep its spelling."""
    await shard.put_object(BUCKET, "a", JsonText(jsontext.dumps(value(1))), None)
    found = await shard.get_object(BUCKET, "a")

    assert found is not None
    assert found.value == value(1)


async def test_a_missing_key_is_none(shard: MorayShard) -> None:
    """It is no error, as a missing bucket is."""
    assert await shard.get_object(BUCKET, "missing") is None


async def test_a_put_on_an_older_etag_is_a_conflict(shard: MorayShard) -> None:
    """Nothing is written, and the error names the key."""
    first = await shard.put_object(BUCKET, "a", value(1), None)
    second = await shard.put_object(BUCKET, "a", value(2), first)
    with pytest.raises(MorayError) as caught:
        await shard.put_object(BUCKET, "a", value(3), first)

    found = await shard.get_object(BUCKET, "a")
    assert caught.value.is_conflict
    assert not caught.value.is_transient
    assert caught.value.name == "EtagConflictError"
    assert caught.value.conflicting_key == "a"
    assert found is not None
    assert (found.value, found.etag) == (value(2), second)


async def test_a_put_of_what_should_not_exist_is_a_conflict(shard: MorayShard) -> None:
    """The condition None means: if there is no record."""
    await shard.put_object(BUCKET, "a", value(1), None)
    with pytest.raises(MorayError) as caught:
        await shard.put_object(BUCKET, "a", value(2), None)

    assert caught.value.is_conflict


async def test_a_put_on_the_etag_of_a_missing_record_is_a_conflict(shard: MorayShard) -> None:
    """A deleted record is not made anew."""
    with pytest.raises(MorayError) as caught:
        await shard.put_object(BUCKET, "a", value(1), "0123ABCD")

    assert caught.value.is_conflict
    assert await shard.get_object(BUCKET, "a") is None


async def test_a_batch_writes_all(shard: MorayShard) -> None:
    """Values and texts alike, each on its etag."""
    etags = [await shard.put_object(BUCKET, key, value(1), None) for key in "abc"]
    a, b, c = etags
    text = JsonText(jsontext.dumps(value(3)))
    await shard.batch(
        [Put(BUCKET, "a", value(2), a), Put(BUCKET, "b", text, b), Put(BUCKET, "c", value(4), c)]
    )

    found = [await shard.get_object(BUCKET, key) for key in "abc"]
    assert [one and one.value["size"] for one in found] == [2, 3, 4]
    assert not {one and one.etag for one in found} & set(etags)


async def test_a_batch_with_one_conflict_writes_nothing(shard: MorayShard) -> None:
    """The error names the key in conflict."""
    etags = {key: await shard.put_object(BUCKET, key, value(1), None) for key in "abc"}
    await shard.put_object(BUCKET, "b", value(5), etags["b"])
    with pytest.raises(MorayError) as caught:
        await shard.batch([Put(BUCKET, key, value(2), etag) for key, etag in etags.items()])

    found = [await shard.get_object(BUCKET, key) for key in "abc"]
    assert caught.value.is_conflict
    assert caught.value.conflicting_key == "b"
    assert [one and one.value["size"] for one in found] == [1, 5, 1]


async def test_a_search_finds_by_filter_in_order_of_ids_up_to_a_limit(shard: MorayShard) -> None:
    """What was put first comes first."""
    for number in (3, 1, 2, 4):
        await shard.put_object(BUCKET, f"k{number}", value(number), None)

    async def keys(text: str, limit: int = 10) -> list[str]:
        return [found.key for found in await shard.find_objects(BUCKET, text, limit)]

    assert await keys("(size>=2)") == ["k3", "k2", "k4"]
    assert await keys("(size>=2)", 2) == ["k3", "k2"]
    assert await keys("(&(size>=2)(name=n2))") == ["k2"]
    assert await keys("(|(name=n1)(name=n4))") == ["k1", "k4"]
    assert await keys("(name=nobody)") == []
    (found,) = await shard.find_objects(BUCKET, "(name=n1)", 10)
    assert (found.value, await shard.get_object(BUCKET, "k1")) == (value(1), found)


async def test_a_statement_has_rows(shard: MorayShard) -> None:
    """Parameters are bound, and bigints come as text."""
    for number in (1, 2, 3):
        await shard.put_object(BUCKET, f"k{number}", value(number), None)
    rows = await shard.sql(f"SELECT _key, _id FROM {BUCKET} WHERE _key > $1 ORDER BY _id", ["k1"])

    assert [row["_key"] for row in rows] == ["k2", "k3"]
    assert all(int(row["_id"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda shard: shard.get_object("no_such_bucket", "a"), "BucketNotFoundError"),
        (
            lambda shard: shard.put_object("no_such_bucket", "a", value(1), None),
            "BucketNotFoundError",
        ),
        (lambda shard: shard.find_objects("no_such_bucket", "(a=1)", 1), "BucketNotFoundError"),
        (lambda shard: shard.find_objects(BUCKET, "(type=object)", 1), "InvalidQueryError"),
        (lambda shard: shard.find_objects(BUCKET, "(size=", 1), "InvalidQueryError"),
        (
            lambda shard: shard.batch([Put("no_such_bucket", "a", value(1), "x")]),
            "BucketNotFoundError",
        ),
    ],
    ids=["get", "put", "find", "no index", "no filter", "batch"],
)
async def test_errors_have_the_servers_names(
    shard: MorayShard, call: Callable[[MorayShard], Any], name: str
) -> None:
    """None of them passes, so none is retried."""
    with pytest.raises(MorayError) as caught:
        await call(shard)

    assert (caught.value.name, caught.value.is_transient) == (name, False)


async def test_a_statement_that_is_none_is_refused(shard: MorayShard) -> None:
    """PostgreSQL's errors have no name of their own."""
    with pytest.raises(MorayError, match="no_such_table"):
        await shard.sql("SELECT _id FROM no_such_table")


async def test_a_cancelled_write_happened_whole_or_not_at_all(shard: MorayShard) -> None:
    """The record tells which, and the shard goes on to answer."""
    etag = await shard.put_object(BUCKET, "a", value(1), None)
    for late_s in (0.0, 0.001, 0.005):
        # Once one was written, the others are conflicts.
        with trio.move_on_after(late_s), suppress(MorayError):
            await shard.put_object(BUCKET, "a", value(2), etag)

    found = await shard.get_object(BUCKET, "a")
    assert found is not None
    assert (found.value["size"], found.etag == etag) in [(1, True), (2, False)]


async def test_a_shard_that_is_away_is_unreachable(subject: Subject) -> None:
    """Every call says so, and that it may be tried again."""
    etag = await subject.shard.put_object(BUCKET, "a", value(1), None)
    subject.cut()

    calls: list[Callable[[MorayShard], Awaitable[Any]]] = [
        lambda shard: shard.get_object(BUCKET, "a"),
        lambda shard: shard.put_object(BUCKET, "a", value(2), etag),
        lambda shard: shard.batch([Put(BUCKET, "a", value(2), etag)]),
        lambda shard: shard.find_objects(BUCKET, "(name=n1)", 1),
        lambda shard: shard.sql(f"SELECT _id FROM {BUCKET}"),
    ]
    for call in calls:
        with pytest.raises(PeerUnreachable) as caught:
            await call(subject.shard)
        assert caught.value.is_transient
