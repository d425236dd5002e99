"""What the manager relies on of a shard of the buckets tier, asked of both ways to update one."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rebalancer import jsontext
from rebalancer.domain.bucket_objects import write_etag
from rebalancer.errors import PeerError, PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.peers.buckets.database import BucketsPrimary
from rebalancer.peers.metadata import MetadataError, Put
from rebalancer.peers.names import split_port
from rebalancer.peers.protocols import LiveShard, RecordStore
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.devregion.buckets.servers import an_mdapi, client_of
from tests.peers.buckets import shards
from tests.peers.buckets.shards import SHARKS, VNODES, connected, key_of, object_id

MOVED = ["dc3:3.stor.lab", SHARKS[1]]
NAMES = ["a", "", "/", "a//b", ":", "päth/ü 1/★", "\U0001f600", "x" * 1024, "%2F\\'\"\n"]


class User:
    """A user writes objects, and looks at their sharks."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def add(self, name: str, number: int, sharks: Sequence[str]) -> None:
        with connected(self.cluster) as db:
            shards.insert(db, name, number, sharks=sharks)

    def sharks(self, name: str) -> list[str]:
        with connected(self.cluster) as db:
            found = shards.row_of(db, name)
        assert found is not None
        return list(found[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        made.create_buckets(VNODES)
        yield made


@asynccontextmanager
async def by_sql(cluster: Cluster) -> AsyncIterator[RecordStore]:
    primary = BucketsPrimary("1.buckets-postgres.lab", split_port(cluster.address, 5432))
    live: LiveShard = primary  # which mypy compares
    yield live
    primary.close()


@asynccontextmanager
async def by_mdapi(cluster: Cluster) -> AsyncIterator[RecordStore]:
    async with an_mdapi(cluster) as mdapi, client_of(mdapi) as client:
        yield client


@pytest.fixture(params=[by_sql, by_mdapi])
async def subject(
    request: pytest.FixtureRequest, cluster: Cluster
) -> AsyncIterator[tuple[RecordStore, User]]:
    with connected(cluster) as db:
        shards.clear(db)
    async with request.param(cluster) as store:
        yield store, User(cluster)


def key(name: str) -> str:
    return str(key_of(name))


async def test_a_record_that_is_not_there_is_none(subject: tuple[RecordStore, User]) -> None:
    """Whatever there is beside it."""
    store, user = subject
    user.add("a", 1, SHARKS)
    assert await store.get_object("manta", key("b")) is None


@pytest.mark.parametrize("name", NAMES)
async def test_any_record_is_read_and_updated(subject: tuple[RecordStore, User], name: str) -> None:
    """By its version; the new one is that of the next reading."""
    store, user = subject
    user.add(name, 1, SHARKS)
    record = await store.get_object("manta", key(name))
    assert record is not None
    assert (record.key, record.value["name"]) == (key(name), name)
    assert record.value["sharks"] == list(SHARKS)
    assert record.value["headers"]["m-a"] == "b"
    assert record.etag == write_etag(object_id(1), list(SHARKS))

    etag = await store.put_object(
        "manta", record.key, {**record.value, "sharks": MOVED}, record.etag
    )

    assert user.sharks(name) == MOVED
    after = await store.get_object("manta", key(name))
    assert after is not None
    assert (after.etag, after.value["sharks"]) == (etag, MOVED)


async def test_a_text_is_taken_for_a_value(subject: tuple[RecordStore, User]) -> None:
    """As discovery found it, with other sharks."""
    store, user = subject
    user.add("a", 1, SHARKS)
    text = JsonText(jsontext.dumps({"name": "a", "sharks": MOVED}))
    await store.put_object("manta", key("a"), text, write_etag(object_id(1), list(SHARKS)))

    assert user.sharks("a") == MOVED


@pytest.mark.parametrize(("number", "sharks"), [(2, SHARKS), (1, MOVED), (1, [])])
async def test_a_record_with_another_version_is_a_conflict(
    subject: tuple[RecordStore, User], number: int, sharks: Sequence[str]
) -> None:
    """Overwritten, or moved by somebody else: the error names its key, and nothing is written."""
    store, user = subject
    user.add("a", number, sharks)
    with pytest.raises(MetadataError) as caught:
        etag = write_etag(object_id(1), list(SHARKS))
        await store.put_object("manta", key("a"), {"sharks": MOVED}, etag)

    assert caught.value.is_conflict
    assert caught.value.conflicting_key == key("a")
    assert user.sharks("a") == list(sharks)


async def test_a_record_that_is_gone_is_not_made_anew(subject: tuple[RecordStore, User]) -> None:
    """It is missing, or in conflict; reading tells."""
    store, _ = subject
    with pytest.raises(MetadataError) as caught:
        etag = write_etag(object_id(1), list(SHARKS))
        await store.put_object("manta", key("a"), {"sharks": MOVED}, etag)

    assert caught.value.is_conflict or caught.value.is_missing
    assert await store.get_object("manta", key("a")) is None


@pytest.mark.parametrize(
    ("value", "etag"),
    [
        ({"sharks": []}, write_etag(object_id(1), list(SHARKS))),
        ({"sharks": MOVED[:1]}, write_etag(object_id(1), list(SHARKS))),
        ({}, write_etag(object_id(1), list(SHARKS))),
        ({"sharks": MOVED}, None),
        ({"sharks": MOVED}, "0123ABCD"),
        ({"sharks": []}, write_etag(object_id(1), [])),
    ],
)
async def test_what_could_lose_a_copy_is_refused(
    subject: tuple[RecordStore, User], value: Any, etag: str | None
) -> None:
    """For good: no retry of it can help."""
    store, user = subject
    user.add("a", 1, SHARKS)
    with pytest.raises(PeerRefused) as caught:
        await store.put_object("manta", key("a"), value, etag)

    assert not caught.value.is_transient
    assert user.sharks("a") == list(SHARKS)


async def test_a_batch_writes_all_or_nothing(subject: tuple[RecordStore, User]) -> None:
    """One way refuses every batch; the other names the record in conflict."""
    store, user = subject
    for name in "abc":
        user.add(name, 1, SHARKS)
    user.add("b", 2, SHARKS)
    etag = write_etag(object_id(1), list(SHARKS))
    with pytest.raises(PeerError) as caught:
        await store.batch([Put("manta", key(name), {"sharks": MOVED}, etag) for name in "cab"])

    assert not caught.value.is_transient
    assert [user.sharks(name) for name in "abc"] == [list(SHARKS)] * 3
