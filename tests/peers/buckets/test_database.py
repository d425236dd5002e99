"""A real PostgreSQL has a shard of the buckets tier: no row is missed, no change of a user lost."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import trio

from rebalancer.domain.bucket_objects import read_key, write_etag
from rebalancer.domain.completeness import LAST_COLUMN, Reached
from rebalancer.errors import PeerRefused, PeerUnreachable
from rebalancer.peers import postgres as client
from rebalancer.peers.buckets import database
from rebalancer.peers.buckets.database import BucketsDatabase, BucketsPrimary
from rebalancer.peers.metadata import Kind, MetadataError, Put
from rebalancer.peers.names import split_port
from rebalancer.peers.scan import FoundRow
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster, bucket_schema
from tests.conftest import require
from tests.peers.buckets.shards import (
    BUCKET,
    NODE,
    OTHER,
    OWNER,
    SHARKS,
    VNODES,
    clear,
    connected,
    insert,
    key_of,
    object_id,
    row_of,
    upload_headers,
)
from tests.test_docs import ROOT

NAME = "1.buckets-postgres.lab"
MOVED = ["dc3:3.stor.lab", SHARKS[1]]
#: What PostgreSQL sorts otherwise by language than by bytes, and what only looks the same.
NAMES = (
    *("a", "A", "b", "B", "_a", "-a", "a-b", "ab", "a b", "a/b", "a//b", "/", "//", "a/", "ä", "z"),
    *("Z", "é", "e\u0301", "ß", "ss", "★", "\U0001f600", ":", "1:2", "%", "\\", "'", '"', "\n", ""),
    *("a" * 1024, "a" * 1023 + "b", "ü" * 512, "\u0130", "i", "I", "\u0131"),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        made.create_buckets(VNODES)
        yield made


@pytest.fixture
def db(cluster: Cluster) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """An empty shard with three vnodes."""
    with connected(cluster) as made:
        clear(made)
        yield made


@asynccontextmanager
async def primary_of(cluster: Cluster) -> AsyncIterator[BucketsPrimary]:
    made = BucketsPrimary(NAME, split_port(cluster.address, 5432))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def shard(cluster: Cluster, db: object) -> AsyncIterator[BucketsPrimary]:
    async with primary_of(cluster) as made:
        yield made


async def scanned(
    shard: BucketsDatabase, vnode: int = 7, limit: int = 3, node: str = NODE
) -> list[FoundRow]:
    """All rows of a vnode that mention the node, by windows."""
    found = list[FoundRow]()
    done = await shard.end_of(str(vnode))
    while not done.is_end:
        reached, rows = await shard.window(str(vnode), done, limit, node, uploads=True)
        assert done.position < reached.position <= done.position + limit or reached.is_end
        found += rows
        done = reached
    return found


@pytest.fixture
def grants() -> list[str]:
    """The rights that docs/buckets.md says the role needs, of a role `mover`."""
    lines = (ROOT / "docs" / "buckets.md").read_text().splitlines()
    found = [line.strip() for line in lines if line.startswith("    GRANT ")]
    return [line.replace("...", "mover") for line in found]


async def test_the_role_needs_what_the_page_says(
    db: psycopg.Connection[Any],
    cluster: Cluster,
    grants: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it, and nothing else; the last right is for updates alone."""
    insert(db, "a")
    db.execute("DROP ROLE IF EXISTS mover; CREATE ROLE mover LOGIN")
    for vnode in VNODES:
        for line in grants[:-1]:
            db.execute(line.replace("_7", f"_{vnode}").encode())
    monkeypatch.setattr(client, "USER", "mover")
    etag = write_etag(object_id(1), list(SHARKS))
    async with primary_of(cluster) as shard:
        assert names(await scanned(shard)) == ["a"]
        assert await shard.deleted(NODE) == 0
        assert await shard.live_uploads([key_of(".mpu-parts/u/1")]) == set()
        with pytest.raises(PeerRefused, match="may not update rows of 3 vnodes, 0 among them"):
            await shard.check()
        with pytest.raises(MetadataError, match="permission denied") as caught:
            await shard.put_object("", str(key_of("a")), {"sharks": MOVED}, etag)
        assert caught.value.kind is Kind.PERMANENT
        for vnode in VNODES:
            db.execute(grants[-1].replace("_7", f"_{vnode}").encode())
        await shard.check()
        await shard.put_object("", str(key_of("a")), {"sharks": MOVED}, etag)
    db.execute("DROP OWNED BY mover; DROP ROLE mover")

    assert row_of(db, "a")[1] == MOVED  # type: ignore[index]


def names(rows: list[FoundRow]) -> list[str]:
    return [read_key(row.key).name for row in rows]


# --- what there is -----------------------------------------------------------------------


async def test_vnodes_are_the_schemas_with_a_number_and_a_table(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """No other schema is taken for one, and one without its table is not there yet."""
    for name in ("manta_bucket_", "manta_bucket_7a", "manta_bucket_07", "xmanta_bucket_8"):
        db.execute(bucket_schema(0).replace(b"manta_bucket_0", name.encode()))
    db.execute("CREATE SCHEMA manta_bucket_3")
    db.execute("CREATE SCHEMA manta_bucket_4 CREATE VIEW manta_bucket_object AS SELECT 1 AS id")

    assert await shard.vnodes() == [0, 7, 12]


async def test_a_vnode_may_appear_and_vanish_between_two_looks(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """A new one is seen by the next look; one that is gone fails the scan of the shard."""
    db.execute(bucket_schema(9_000_000_000))
    insert(db, "a", vnode=9_000_000_000)
    assert await shard.vnodes() == [0, 7, 12, 9_000_000_000]
    assert names(await scanned(shard, 9_000_000_000)) == ["a"]

    db.execute("DROP SCHEMA manta_bucket_9000000000 CASCADE")
    assert await shard.vnodes() == [0, 7, 12]
    with pytest.raises(PeerRefused, match="manta_bucket_9000000000"):
        await scanned(shard, 9_000_000_000)
    with pytest.raises(PeerRefused, match="does not exist"):
        await shard.get_object("", str(key_of("a", 9_000_000_000)))


async def test_a_window_is_bounded_by_what_it_looks_at(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Where it ended is known though no row in it matches; one that is not full is the last."""
    for number, name in enumerate("abcdef"):
        insert(db, name, number, sharks=[f"dc1:{NODE}"] if name == "e" else [])

    done = await shard.end_of("7")
    first, rows_of_first = await shard.window("7", done, 3, NODE)
    second, rows_of_second = await shard.window("7", first, 3, NODE)
    third, rows_of_third = await shard.window("7", second, 3, NODE)

    assert done == Reached(0, 1)
    assert (rows_of_first, first) == ([], Reached(3, 4, str(key_of("c"))))
    assert (names(rows_of_second), second) == (["e"], Reached(6, 7, str(key_of("f"))))
    assert (rows_of_third, third) == ([], Reached(6, 6))
    assert (await shard.window("7", first, 4, NODE))[0] == Reached(6, 6)


async def test_a_scan_goes_on_behind_its_cursor_and_looks_once_more_from_the_start(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Whatever is new may stand before any cursor; what was looked at is counted on."""
    for name in "bcd":
        insert(db, name)
    db.execute("ANALYZE manta_bucket_7.manta_bucket_object")
    done = await shard.end_of("7")
    begun, _ = await shard.window("7", done, 2, NODE)
    assert (done, begun) == (Reached(0, 3), Reached(2, 3, str(key_of("c"))))
    assert await shard.end_of("7", begun) == begun

    ended, _ = await shard.window("7", begun, 2, NODE)
    insert(db, "a")
    again = await shard.end_of("7", ended)
    reached, rows = await shard.window("7", again, 9, NODE)

    assert (ended, again) == (Reached(3, 3), Reached(3, 6))
    assert (names(rows), reached) == (["a", "b", "c", "d"], Reached(7, 7))


async def test_the_last_part_has_no_rows(shard: BucketsPrimary) -> None:
    """Its end is the end of the scan of the shard."""
    assert await shard.records().parts() == ("0", "7", "12", LAST_COLUMN)
    done = await shard.end_of(LAST_COLUMN)
    assert not done.is_end
    done, rows = await shard.window(LAST_COLUMN, done, 9, NODE)
    assert (done.is_end, rows) == (True, [])
    assert await shard.end_of(LAST_COLUMN, done) == done


@pytest.mark.parametrize(
    ("sharks", "is_found"),
    [
        ([f"dc1:{NODE}"], True),
        ([f"dc1:{OTHER}", f"dc2:{NODE}"], True),
        ([f"dc1:{NODE}:8080"], True),
        ([NODE], True),
        ([f"dc1:x:{NODE}"], True),
        ([None, f"dc1:{NODE}"], True),
        ([[f"dc1:{OTHER}"], [f"dc1:{NODE}"]], True),
        ([f"dc1:{NODE}", f"dc1:{NODE}"], True),
        ([f"dc1:1{NODE}"], False),
        ([f"dc1:{NODE}.x"], False),
        ([f"dc1:{NODE.upper()}"], False),
        ([], False),
        (None, False),
    ],
)
async def test_a_row_is_found_by_a_whole_part_of_a_shark(
    shard: BucketsPrimary, db: psycopg.Connection[Any], sharks: Any, is_found: bool
) -> None:
    """Entries that are not as they should be are listed too, for a person to see."""
    insert(db, "a", sharks=sharks)

    found = await scanned(shard)

    assert len(found) == is_found
    assert not any(row.may_be_upload for row in found)
    if found:
        assert found[0].etag == write_etag(object_id(1), sharks)


async def test_discovery_needs_no_records_of_uploads(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """They are no objects that could be moved."""
    insert(db, ".mpu-uploads/u1", 1, headers=upload_headers(NODE), sharks=[], md5=b"")

    assert await shard.window("7", Reached(0, 1), 9, NODE) == (Reached(1, 1), [])


async def test_records_of_uploads_are_found_by_their_headers(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """A scan of the sharks alone would call the node empty."""
    insert(db, ".mpu-uploads/u1", 1, headers=upload_headers(OTHER, NODE), sharks=[], md5=b"")
    insert(db, ".mpu-uploads/u2", 2, headers=upload_headers(f"1{NODE}"), sharks=[], md5=b"")
    insert(db, ".mpu-uploads/u3", 3, headers=upload_headers(NODE), sharks=None, md5=b"")
    insert(db, "a", 4, headers=f'"m-note"=>"{NODE}"', sharks=[])

    found = await scanned(shard)

    assert sorted(names(found)) == [".mpu-uploads/u1", ".mpu-uploads/u3"]
    assert all(row.may_be_upload for row in found)


async def test_a_row_comes_whole_and_to_the_digit(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """As buckets-mdapi gives the columns, and whatever users and programs left in them."""
    text = '{"big": 12345678901234567890123, "f": 1.10, "x": null, "ü": "\\u2605"}'
    insert(
        db,
        "päth/ü 1/★",
        headers='"m-a"=>"b", "null-one"=>NULL, "quote"=>"\\"\\\\"',
        properties=text,
        md5=bytes(range(70)),
    )
    db.execute(
        "UPDATE manta_bucket_7.manta_bucket_object"
        " SET created = '2026-11-25 21:53:15.367705+01', modified = '2026-11-25 20:53:15+00'"
    )

    (found,) = await scanned(shard)
    record = json.loads(found.value)

    assert list(record) == list(postgres.BUCKET_COLUMNS)
    assert record["created"] == "2026-11-25T20:53:15.367705Z"
    assert record["modified"] == "2026-11-25T20:53:15.000000Z"
    assert record["headers"] == {"m-a": "b", "null-one": None, "quote": '"\\'}
    assert record["name"] == "päth/ü 1/★"
    assert len(record["content_md5"]) == 96
    assert "\n" not in record["content_md5"]
    assert '"big": 12345678901234567890123' in found.value
    assert '"f": 1.10' in found.value
    assert await shard.rows_of([found.key]) == [found]


async def test_a_shard_is_asked_for_rows_of_vnodes_that_it_does_not_have(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Where a listing names no shards.  An update knows its shard: there it is an error."""
    insert(db, "a")
    elsewhere = [str(key_of("a", vnode)) for vnode in (99, 2**70, 10**80)]

    assert names(await shard.rows_of([*elsewhere, str(key_of("a"))])) == ["a"]
    with pytest.raises(PeerRefused, match="does not exist"):
        await shard.get_object("", elsewhere[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": None},
        {"properties": None},
        {"md5": b""},
        {"md5": bytes(24)},
        {"size": 0},
        {"properties": "1e9999"},
        {"properties": "[" * 3000 + "]" * 3000},
        {"properties": '{"a": {"b": [1, "x"]}}'},
    ],
)
async def test_odd_rows_are_rows(
    shard: BucketsPrimary, db: psycopg.Connection[Any], fields: dict[str, Any]
) -> None:
    """Those of which a server dies are found and updated as the others."""
    insert(db, "a", **fields)
    before = row_of(db, "a")

    (found,) = await scanned(shard)
    read = await shard.get_object("", found.key)
    assert read is not None
    await shard.put_object("", found.key, {**read.value, "sharks": MOVED}, read.etag)

    after = row_of(db, "a")
    assert before is not None
    assert after == (before[0], MOVED, *before[2:])


async def test_timestamps_without_end_are_kept_as_they_are(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """No program makes them, and none of ours may fail of them."""
    insert(db, "a")
    db.execute("UPDATE manta_bucket_7.manta_bucket_object SET created = 'infinity'")

    (found,) = await scanned(shard)

    assert json.loads(found.value)["created"] == "infinity"


async def test_rows_are_read_anew_by_their_keys(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Of several vnodes at once, as far as they exist."""
    keys = [key_of(name, vnode) for name in ("a", "a/b", "ü", "") for vnode in (0, 7)]
    for number, key in enumerate(keys):
        insert(db, key.name, number, vnode=key.vnode)
    wanted = [str(key) for key in (*keys, key_of("gone"), key_of("a", 12))]

    assert {row.key for row in await shard.rows_of(wanted)} == set(map(str, keys))
    assert await shard.get_object("", str(key_of("gone"))) is None
    with pytest.raises(PeerRefused, match="no key"):
        await shard.get_object("", "/u/stor/a")


@pytest.mark.parametrize("key", ["/u/stor/a", "", str(key_of("\ud800")), str(key_of("a\0"))])
async def test_a_key_that_no_row_can_have_is_no_row(
    shard: BucketsPrimary, db: psycopg.Connection[Any], key: str
) -> None:
    """A listing may name records of the other tier, without their shards: each shard is asked."""
    insert(db, key_of("a").name, 1, vnode=key_of("a").vnode)

    (found,) = await shard.rows_of([key, str(key_of("a"))])

    assert found.key == str(key_of("a"))


async def test_deleted_rows_that_name_the_node_are_counted(
    shard: BucketsPrimary, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all vnodes and windows; an object may have been deleted under one name twice."""
    monkeypatch.setattr(database, "DELETED_ROWS", 3)
    for number in range(10):
        sharks = SHARKS if number % 3 else [f"dc1:1{NODE}"]
        for name in ("a", f"n{number}"):
            insert(db, name, number, sharks=sharks, table="manta_bucket_deleted_object")
    insert(db, "a", vnode=12, table="manta_bucket_deleted_object")
    insert(db, "b", vnode=12)

    assert await shard.deleted(NODE) == 2 * 6 + 1
    assert await shard.deleted("3.stor.lab") == 0


async def test_live_uploads_are_found_in_any_vnode(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """By the bucket of a part: another bucket may have an upload of that id."""
    for number, (name, vnode, bucket_id) in enumerate(
        [("u1", 0, BUCKET), ("u2", 12, BUCKET), ("u3", 7, OWNER)]
    ):
        insert(db, f".mpu-uploads/{name}", number, vnode=vnode, bucket_id=bucket_id, sharks=[])
    parts = [key_of(f".mpu-parts/u{upload}/{n}") for upload in range(5) for n in (1, 2)]

    live = await shard.live_uploads([*parts, key_of("a")])

    assert live == {(OWNER, BUCKET, "u1"), (OWNER, BUCKET, "u2")}
    assert await shard.live_uploads([key_of("a")]) == set()


async def test_a_reader_cannot_write(cluster: Cluster, db: object) -> None:
    """Though the clone may be the live primary by mistake."""
    async with primary_of(cluster) as shard:
        with pytest.raises(PeerRefused, match="read-only"):
            await shard._scanner.sql("DELETE FROM manta_bucket_7.manta_bucket_object RETURNING id")


# --- updates -----------------------------------------------------------------------------


async def moved(shard: BucketsPrimary, name: str = "a", sharks: Any = SHARKS) -> str:
    """Move an object's first copy, by the version that discovery had."""
    etag = write_etag(object_id(1), list(sharks))
    return await shard.put_object("", str(key_of(name)), {"sharks": MOVED}, etag)


async def test_an_update_changes_the_sharks_only(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Headers, properties and the time of modification are the user's."""
    insert(db, "a")
    insert(db, "b")

    etag = await moved(shard)

    assert row_of(db, "a") == (object_id(1), MOVED, '{"m-a": "b"}', '{"roles": ["r"]}', True)
    assert row_of(db, "b") == (object_id(1), list(SHARKS), *row_of(db, "a")[2:])  # type: ignore[index]
    record = await shard.get_object("", str(key_of("a")))
    assert record is not None
    assert (record.etag, record.value["sharks"]) == (etag, MOVED)


@pytest.mark.parametrize(
    "fields",
    [
        {"number": 2},
        {"sharks": [SHARKS[1], SHARKS[0]]},
        {"sharks": MOVED},
        {"sharks": None},
        {"sharks": []},
        {"sharks": [*SHARKS, "dc3:3.stor.lab"]},
    ],
)
async def test_a_row_that_is_not_as_it_was_read_is_left(
    shard: BucketsPrimary, db: psycopg.Connection[Any], fields: dict[str, Any]
) -> None:
    """Another id, or other sharks: the error names the key."""
    insert(db, "a", **fields)
    before = row_of(db, "a")

    with pytest.raises(MetadataError) as caught:
        await moved(shard)

    assert (caught.value.kind, caught.value.conflicting_key) == (Kind.CONFLICT, str(key_of("a")))
    assert row_of(db, "a") == before


async def test_a_row_that_is_gone_is_not_made_anew(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """It reads as none afterwards."""
    with pytest.raises(MetadataError) as caught:
        await moved(shard)

    assert caught.value.is_conflict
    assert await shard.get_object("", str(key_of("a"))) is None
    assert row_of(db, "a") is None


@pytest.mark.parametrize(
    "sharks", [None, [], MOVED[:1], [*MOVED, "dc4:4"], ["3.stor", "2"], [1, 2]]
)
async def test_no_row_gets_sharks_that_lose_a_copy(
    shard: BucketsPrimary, db: psycopg.Connection[Any], sharks: Any
) -> None:
    """Whoever asks for that has a bug, which costs no user a copy."""
    insert(db, "a")
    with pytest.raises(PeerRefused, match="is not given the sharks"):
        etag = write_etag(object_id(1), list(SHARKS))
        await shard.put_object("", str(key_of("a")), {"sharks": sharks}, etag)

    assert row_of(db, "a")[1] == list(SHARKS)  # type: ignore[index]


@pytest.mark.parametrize("etag", [None, "", "0123ABCD", write_etag(OWNER, None)])
async def test_no_row_is_written_without_its_version(
    shard: BucketsPrimary, db: psycopg.Connection[Any], etag: str | None
) -> None:
    """In particular none as if it were new."""
    insert(db, "a")
    with pytest.raises(PeerRefused):
        await shard.put_object("", str(key_of("a")), {"sharks": MOVED}, etag)

    assert row_of(db, "a")[1] == list(SHARKS)  # type: ignore[index]


def puts(*names: str) -> list[Put]:
    etag = write_etag(object_id(1), list(SHARKS))
    return [Put("", str(key_of(name)), {"sharks": MOVED}, etag) for name in names]


async def test_a_batch_is_written_whole_or_not_at_all(
    shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Of one in conflict the key is named, nothing is kept, and no transaction stays open."""
    for name in "abc":
        insert(db, name)
    insert(db, "b", 2)

    with pytest.raises(MetadataError) as caught:
        await shard.batch(puts("c", "b", "a"))

    assert caught.value.conflicting_key == str(key_of("b"))
    assert [row_of(db, name)[1] for name in "abc"] == [list(SHARKS)] * 3  # type: ignore[index]
    assert open_transactions(db) == 0
    await shard.batch(puts("c", "a"))
    assert [row_of(db, name)[1] for name in "ac"] == [MOVED] * 2  # type: ignore[index]
    assert open_transactions(db) == 0


def open_transactions(db: psycopg.Connection[Any]) -> int:
    (count,) = db.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'rebalancer' AND state LIKE 'idle in transaction%'"
    ).fetchone() or (0,)
    return int(count)


class User:
    """A user whose change of an object is in flight: made, and not committed yet.

    Its mutable state is the connection, in a transaction of its own.
    """

    def __init__(self, cluster: Cluster, statement: str) -> None:
        self._db = cluster.connect(database.DATABASE)
        self._db.execute("BEGIN")
        self._db.execute(statement.encode())

    def commit(self) -> None:
        self._db.execute("COMMIT")
        self._db.close()

    def commit_when_waited_for(self) -> threading.Thread:
        """Commit as soon as another's update waits for this one."""

        def run() -> None:
            waiting = b"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while self._db.execute(waiting).fetchone() == (0,):
                # Else a transaction sees the same activity again and again.
                self._db.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.005)")
            self.commit()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


CHANGE_HEADERS = (
    'UPDATE manta_bucket_7.manta_bucket_object SET headers = \'"m-a"=>"user"\','
    " properties = '{\"roles\": [\"new\"]}', modified = now() WHERE name = 'a'"
)
OVERWRITE = (
    "DELETE FROM manta_bucket_7.manta_bucket_object WHERE name = 'a';"
    "INSERT INTO manta_bucket_7.manta_bucket_object (id, name, owner, bucket_id, content_length,"
    f" content_md5, content_type, sharks) VALUES ('{object_id(2)}', 'a', '{OWNER}', '{BUCKET}', 1,"
    f" '', 't', ARRAY['dc1:{NODE}', 'dc2:{OTHER}'])"
)
OVERWRITE_IN_PLACE = (
    f"UPDATE manta_bucket_7.manta_bucket_object SET id = '{object_id(2)}' WHERE name = 'a'"
)
DELETE = "DELETE FROM manta_bucket_7.manta_bucket_object WHERE name = 'a'"


async def test_a_header_change_in_flight_is_waited_for_and_both_survive(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """The user's was first."""
    insert(db, "a")
    await shard.check()
    thread = User(cluster, CHANGE_HEADERS).commit_when_waited_for()

    await moved(shard)

    thread.join()
    assert row_of(db, "a") == (object_id(1), MOVED, '{"m-a": "user"}', '{"roles": ["new"]}', False)


async def test_a_header_change_after_ours_keeps_the_new_sharks(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """The user's was second, as a server writes it."""
    insert(db, "a")
    await moved(shard)
    User(cluster, CHANGE_HEADERS).commit()

    assert row_of(db, "a") == (object_id(1), MOVED, '{"m-a": "user"}', '{"roles": ["new"]}', False)


@pytest.mark.parametrize("statement", [OVERWRITE, OVERWRITE_IN_PLACE, DELETE])
async def test_an_overwrite_in_flight_wins(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any], statement: str
) -> None:
    """Our update waits for it, and then changes nothing: the object is another, or gone."""
    insert(db, "a")
    await shard.check()
    thread = User(cluster, statement).commit_when_waited_for()

    with pytest.raises(MetadataError) as caught:
        await moved(shard)

    thread.join()
    assert caught.value.is_conflict
    after = row_of(db, "a")
    assert after is None if statement is DELETE else after is not None
    if after is not None:
        assert after[:2] == (object_id(2), list(SHARKS))


async def test_an_overwrite_after_ours_is_the_users(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """What was overwritten names the new copy, so that garbage collection finds it."""
    insert(db, "a")
    await moved(shard)
    User(cluster, OVERWRITE).commit()

    assert row_of(db, "a")[:2] == (object_id(2), list(SHARKS))  # type: ignore[index]


async def test_a_row_that_stays_locked_is_not_waited_for_without_end(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any], monkeypatch: Any
) -> None:
    """Nothing is written, none of ours keeps a lock, and the update may be tried again."""
    insert(db, "a")
    insert(db, "b")
    settings = {**client.PostgresPrimary._SETTINGS, "lock_timeout": "30"}
    monkeypatch.setattr(client.PostgresPrimary, "_SETTINGS", settings)
    user = User(cluster, CHANGE_HEADERS.replace("'a'", "'b'"))

    with pytest.raises(MetadataError, match="lock timeout") as caught:
        await shard.batch(puts("a", "b"))

    assert caught.value.kind is Kind.TRANSIENT
    assert open_transactions(db) == 0
    user.commit()
    await shard.batch(puts("a", "b"))
    assert [row_of(db, name)[1] for name in "ab"] == [MOVED] * 2  # type: ignore[index]


async def test_an_update_whose_connection_is_lost_is_unknown(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """The caller reads; the next update connects anew."""
    insert(db, "a")
    await shard.check()
    user = User(cluster, CHANGE_HEADERS)

    def end() -> None:
        ours = b"SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while (found := db.execute(ours).fetchone()) is None:
            db.execute("SELECT pg_sleep(0.002)")
        db.execute("SELECT pg_terminate_backend(%s)", found)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(PeerUnreachable):
        await moved(shard)
    thread.join()
    user.commit()

    record = await shard.get_object("", str(key_of("a")))
    assert record is not None
    assert record.value["sharks"] == list(SHARKS)
    await moved(shard)


async def test_a_cancelled_update_leaves_no_transaction(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """Though it waited for a user's, with another row locked already."""
    insert(db, "a")
    insert(db, "b")
    await shard.check()
    user = User(cluster, CHANGE_HEADERS.replace("'a'", "'b'"))
    with trio.move_on_after(0.05):
        await shard.batch(puts("a", "b"))
    user.commit()

    ours = b"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rebalancer'"
    while db.execute(ours).fetchone() != (0,):  # noqa: ASYNC110 - in another process
        await trio.sleep(0.005)
    assert [row_of(db, name)[1] for name in "ab"] == [list(SHARKS)] * 2  # type: ignore[index]
    await shard.batch(puts("a", "b"))


async def test_a_read_only_server_is_no_primary(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """The error says why; rows can still be read there, and a person may name another server."""
    insert(db, "a")
    db.execute(
        f"ALTER DATABASE {database.DATABASE} SET default_transaction_read_only = on".encode()
    )

    with pytest.raises(MetadataError, match=rf"{NAME} at .*: this server is read-only") as caught:
        await shard.check()
    with pytest.raises(MetadataError, match="on the primary only"):
        await moved(shard)

    assert caught.value.kind is Kind.TRANSIENT
    assert names(await scanned(shard)) == ["a"]
    clear(db)
    insert(db, "a")
    await moved(shard)


async def test_a_standby_is_no_primary(
    cluster: Cluster, shard: BucketsPrimary, db: psycopg.Connection[Any]
) -> None:
    """It says so until a person names the primary, or it becomes that."""
    insert(db, "a")
    signal = cluster.folder / "standby.signal"

    def restart(*, as_standby: bool) -> None:
        cluster.stop()
        signal.touch() if as_standby else signal.unlink()
        cluster.start()

    await trio.to_thread.run_sync(partial(restart, as_standby=True))
    with pytest.raises(MetadataError) as caught:
        await moved(shard)
    found = names(await scanned(shard))
    await trio.to_thread.run_sync(partial(restart, as_standby=False))

    assert "this server is a standby" in str(caught.value)
    assert (caught.value.kind, found) == (Kind.TRANSIENT, ["a"])
    await moved(shard)


async def test_a_server_that_is_down_is_named(db: object) -> None:
    """For reads and for updates."""
    shard = BucketsPrimary(NAME, split_port("127.0.0.1:1", 5432))
    with pytest.raises(PeerUnreachable, match=f"{NAME} at 127.0.0.1:1"):
        await shard.vnodes()
    with pytest.raises(PeerUnreachable, match="refused"):
        await shard.check()


# --- other databases: at the end, for each is made anew ------------------------------------


@pytest.mark.parametrize("collation", [None, "en-US", "tr-TR"])
async def test_windows_meet_each_row_once_in_any_collation(
    cluster: Cluster, collation: str | None
) -> None:
    """The order of a window and the comparison with its begin are the key's own."""
    cluster.create_buckets([7], collation=collation)
    rows = set[tuple[str, str, str]]()
    with connected(cluster) as made:
        for number, name in enumerate(NAMES):
            for owner, bucket_id in ((OWNER, BUCKET), (BUCKET, OWNER), (OWNER, OWNER)):
                if number % 3 == 0 or owner == bucket_id:
                    insert(made, name, number, owner=owner, bucket_id=bucket_id)
                    rows.add((owner, bucket_id, name))
        made.execute("ANALYZE manta_bucket_7.manta_bucket_object")
    async with primary_of(cluster) as shard:
        for limit in (1, 4, 1000):
            found = [read_key(row.key) for row in await scanned(shard, limit=limit)]
            assert len(found) == len(rows)
            assert {(key.owner, key.bucket_id, key.name) for key in found} == rows
