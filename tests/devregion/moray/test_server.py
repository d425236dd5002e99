"""The embedded Moray: what it answers, what kills it, and the troubles it can be given."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.peers.moray import fast
from rebalancer.peers.moray.crc import record_etag
from rebalancer.peers.moray.fast import Message
from rebalancer_devregion.moray import faults
from rebalancer_devregion.moray.catalogue import CACHE_S
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.javascript import number_text, parse_float, stringify
from rebalancer_devregion.moray.server import MorayDied, ShardServer
from rebalancer_devregion.moray.store import ShardStore
from tests.devregion.moray.shards import Refused, Shard, a_shard, converse, ended, listen, request

NO_CACHE = {"noCache": True}
DEMO = {"index": {"name": {"type": "string", "unique": True}, "n": {"type": "number"}}}


BAD_CONFIG = "InvalidBucketConfigError"
PREVIOUS: dict[str, Any] = {"headers": {"x-muskie-prev-metadata": {}}}


async def refused(shard: Shard, method: str, *args: Any) -> dict[str, Any]:
    with pytest.raises(Refused) as caught:
        await shard.call(method, *args)
    return caught.value.payload


async def value_of(shard: Shard, bucket: str, key: str) -> Any:
    (record,) = await shard.call("getObject", bucket, key, NO_CACHE)
    return record["value"]


async def put_many(shard: Shard, count: int) -> None:
    await shard.call("createBucket", "lab", {**DEMO, "options": {"version": 1}}, {})
    shard.server.store.seed(
        "lab", [(f"k{n}", {"name": f"n{n}", "n": n, "extra": n % 2}) for n in range(count)]
    )


# --- etags and conditions ----------------------------------------------------------------


async def test_the_same_content_has_the_same_etag(tmp_path: Path) -> None:
    """A to B and back to A is not noticed: an etag is no version."""
    async with a_shard(tmp_path) as shard:
        store = shard.server.store
        first = store.put("manta", "/a", {"x": 1}, None)
        store.put("manta", "/a", {"x": 2}, first)
        assert store.put("manta", "/a", {"x": 1}) == first
        assert store.put("manta", "/a", {"x": 3}, first) == record_etag('{"x":3}')


async def test_conditions_on_etags_are_three_different_things(tmp_path: Path) -> None:
    """null, absent and a text, of which the empty one matches nothing; `_etag` is for deletes."""
    async with a_shard(tmp_path) as shard:
        await shard.call("putObject", "manta", "/a", {}, {"etag": None})
        await shard.call("putObject", "manta", "/a", {"x": 1}, {"_etag": "wrong"})
        conflict = await refused(shard, "putObject", "manta", "/a", {}, {"etag": ""})
        assert conflict["context"]["expected"] == ""
        conflict = await refused(shard, "delObject", "manta", "/a", {"_etag": "wrong"})
        assert conflict["name"] == "EtagConflictError"
        assert await shard.call("delObject", "manta", "/a", {"etag": None}) == [{}]


async def test_options_around_a_batch_replace_those_within(tmp_path: Path) -> None:
    """An etag there counts for every operation."""
    async with a_shard(tmp_path) as shard:
        puts = [{"bucket": "manta", "key": f"/{n}", "value": {}} for n in (1, 2)]
        await shard.call("batch", puts, {"etag": None})
        conflict = await refused(shard, "batch", puts, {"etag": None})
        assert conflict["context"]["key"] == "/1"


async def test_later_operations_of_a_batch_see_earlier_ones(tmp_path: Path) -> None:
    """A second put with the etag from before the batch conflicts, and all is undone."""
    async with a_shard(tmp_path) as shard:
        (made,) = await shard.call("putObject", "manta", "/a", {}, {})
        puts = [
            {"bucket": "manta", "key": "/a", "value": {"x": n}, "options": {"etag": made["etag"]}}
            for n in (1, 2)
        ]
        conflict = await refused(shard, "batch", puts, {})
        assert conflict["context"]["actual"] == record_etag('{"x":1}')
        assert await value_of(shard, "manta", "/a") == {}


async def test_ids_are_kept_on_update_and_never_given_twice(tmp_path: Path) -> None:
    """Not even the highest, when its record is gone."""
    async with a_shard(tmp_path) as shard:
        store = shard.server.store
        for key in ("/a", "/b", "/a"):
            store.put("manta", key, {"type": "link"})
        assert [row["_id"] for row in store.sql("SELECT _id FROM manta ORDER BY _id")] == ["1", "2"]
        store.delete("manta", "/b")
        store.put("manta", "/b", {"type": "link"})
        assert store.get("manta", "/b")["_id"] == 3
        assert store.delete_many("manta", "(_id>=3)", {}) == 1
        store.put("manta", "/b", {})
        assert store.get("manta", "/b")["_id"] == 4


# --- JSON through JavaScript --------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_json", "kept"),
    [
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":123456789012345678901}', '{"a":123456789012345680000}'),
        ('{"a":1e21,"b":1e400}', '{"a":1e+21,"b":null}'),
        ('{"a":1.0,"b":-0.0,"c":1.50}', '{"a":1,"b":0,"c":1.5}'),
        ('{"a":0.000001,"b":1e-7,"c":1.5e-9}', '{"a":0.000001,"b":1e-7,"c":1.5e-9}'),
        (
            '{"b":1,"10":2,"9":3,"09":4,"4294967295":5}',
            '{"9":3,"10":2,"b":1,"09":4,"4294967295":5}',
        ),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"a":"\\u00e9\\u2028\\u007f\\u001f\\/"}', '{"a":"é\u2028\x7f\\u001f/"}'),
        ('{"a":"\\ud800"}', '{"a":"\ufffd"}'),
    ],
)
def test_json_becomes_what_javascript_writes(given_json: str, kept: str) -> None:
    """Numbers are doubles in the fewest digits, keys like integers come first."""
    assert stringify(json.loads(given_json)) == kept


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 99).map(str), inner, max_size=4)
    ),
    max_leaves=10,
)


def doubles(value: Any) -> Any:
    """A JSON value whose whole numbers are doubles too."""
    match value:
        case dict():
            return {key: doubles(item) for key, item in value.items()}
        case list():
            return [doubles(item) for item in value]
        case int() if not isinstance(value, bool):
            return float(value)
    return value


@given(JSON)
def test_what_javascript_writes_reads_back_the_same(value: Any) -> None:
    """As the same JSON value; written again, it is the same text."""
    text = stringify(value)

    assert doubles(json.loads(text)) == doubles(value)
    assert stringify(json.loads(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_from_its_text(number: float) -> None:
    """However it is written, no bit is lost."""
    assert parse_float(number_text(number)) == number


async def test_columns_are_laid_over_the_value(tmp_path: Path) -> None:
    """What is read is not what was put; the text and its etag are those of what was put."""
    index = {name: {"type": name[:-1]} for name in ("string1", "string2", "string3", "number1")}
    index |= {"number2": {"type": "number"}, "boolean1": {"type": "boolean"}}
    index |= {"list": {"type": "[number]"}}
    put = {
        "string1": 5,
        "string2": {"a": 1},
        "string3": ["x"],
        "number1": "12abc",
        "number2": "abc",
        "boolean1": "TRUE",
        "list": [1, "2"],
    }
    read = {
        **put,
        "string1": "5",
        "string2": "[object Object]",
        "number1": 12,
        "number2": None,
        "boolean1": True,
        "list": [1, 2],
    }
    async with a_shard(tmp_path) as shard:
        await shard.call("createBucket", "lab", {"index": index}, {})
        (made,) = await shard.call("putObject", "lab", "k", put, {})
        assert await value_of(shard, "lab", "k") == read
        assert made["etag"] == record_etag(stringify(put))
        bad = await refused(shard, "putObject", "lab", "k", {"boolean1": "yes"}, {})
        assert bad["name"] == "InvalidIndexTypeError"


# --- filters, limits and the methods of many records ---------------------------------------


async def test_limit_and_count_come_before_the_second_stage(tmp_path: Path) -> None:
    """Fewer records than `limit` is not the end, and `_count` is not theirs."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 6)
        sort = {"sort": {"attribute": "n", "order": "DESC"}}
        found = await shard.call("findObjects", "lab", "(&(n>=0)(extra>=1))", {"limit": 3, **sort})
        assert [(one["key"], one["_count"]) for one in found] == [("k5", 6), ("k3", 6)]
        # An unindexed number never equals text; an order is a comparison of numbers.
        assert await shard.call("findObjects", "lab", "(&(n>=0)(extra=1))", {}) == []


async def test_the_limits_of_a_find(tmp_path: Path) -> None:
    """1000 unless told; 0 is as not told, "0" is none at all."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 1001)
        sizes = []
        limits: list[dict[str, Any]] = [
            *({}, {"limit": 0}, {"limit": "0"}, {"limit": "7"}, {"noLimit": True})
        ]
        for limit in limits:
            options = {**limit, "no_count": True}
            sizes.append(len(await shard.call("findObjects", "lab", "(n>=0)", options)))
        assert sizes == [1000, 1000, 0, 7, 1001]
        (update,) = await shard.call("updateObjects", "lab", {"n": 5}, "(n>=0)", {})
        assert update["count"] == 1000
        assert await shard.call("deleteMany", "lab", "(n>=0)", {"limit": 3}) == [{"count": 3}]
        assert await shard.call("deleteMany", "lab", "(n>=0)", {"noLimit": True}) == [
            {"count": 998}
        ]


@pytest.mark.parametrize(
    ("method", "args", "name"),
    [
        ("findObjects", ["lab", "(|(name=x)(zz=1))", {}], "NotIndexedError"),
        ("findObjects", ["lab", "(|(n=1)(zz=1))", {}], "Error"),
        ("findObjects", ["lab", "(_key=*)", {}], "InvalidQueryError"),
        ("findObjects", ["lab", "(name~=x)", {}], "Error"),
        ("findObjects", ["lab", "(n=1)", {"limit": -1}], "InvocationError"),
        ("findObjects", ["lab", "(n=1)", {"limit": 2.5}], "InvocationError"),
        ("findObjects", ["lab", "(n=1)", {"sort": "x"}], "InvocationError"),
        ("findObjects", ["lab", "(n=1)", {"sort": {"attribute": "zz"}}], "error"),
        ("findObjects", ["lab", "(n=1)", {"sort": {"attribute": "_idx"}}], "error"),
        ("putObject", ["lab", "k", {}, {"etag": 5}], "InvocationError"),
        ("putObject", ["lab", "k", [], {}], "InvocationError"),
        ("putObject", ["lab", "", {}, {}], "InvocationError"),
        ("putObject", ["none", "k", {}, {}], "BucketNotFoundError"),
        ("batch", [[{"bucket": "lab", "key": "k"}], {}], "InvocationError"),
        ("batch", [[{"bucket": "lab", "operation": "move"}], {}], "InvocationError"),
        ("updateObjects", ["lab", {"n": None}, "(n=1)", {}], "NotNullableError"),
        ("updateObjects", ["lab", {"n": 1}, "(&(n=1)(zz=1))", {}], "NotIndexedError"),
        ("deleteMany", ["lab", "(zz=1)", {}], "NotIndexedError"),
        ("createBucket", ["x", {"index": {"a": {"type": "thing"}}}, {}], BAD_CONFIG),
        ("createBucket", ["x", {"index": {"_id": {"type": "string"}}}, {}], BAD_CONFIG),
        ("createBucket", ["x", {"pre": ["nothing"]}, {}], "NotFunctionError"),
        ("updateBucket", ["lab", {"options": {"version": 1}}, {}], "BucketVersionError"),
        ("updateBucket", ["none", {}, {}], "BucketNotFoundError"),
        ("delBucket", ["none", {}], "BucketNotFoundError"),
        ("reindexObjects", ["lab", 0, {}], "InvalidArgumentError"),
        ("getTokens", [{}], "Error"),
        ("sql", ["DROP TABLE manta", [], {}], "error"),
        ("sql", ["SELECT a FROM", [], {}], "InternalError"),
        ("sql", ["SELECT a FROM nowhere", [], {}], "error"),
        ("sql", ["SELECT $1", [], {}], "error"),
    ],
)  # fmt: skip
async def test_what_is_refused(method: str, args: list[Any], name: str, tmp_path: Path) -> None:
    """By its name; the connection and the server go on."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 1)
        assert (await refused(shard, method, *args))["name"] == name
        assert await shard.call("version", {}) == [{"version": 2}]


async def test_empty_batches_and_buckets_that_come_and_go(tmp_path: Path) -> None:
    """No operations, no etags; a deleted bucket takes its records along."""
    async with a_shard(tmp_path) as shard:
        assert await shard.call("batch", [], {}) == [{"etags": []}]
        await put_many(shard, 2)
        await shard.call("delBucket", "lab", {})
        await shard.call("createBucket", "lab", DEMO, {})
        assert await shard.call("findObjects", "lab", "(n>=0)", {}) == []


async def test_a_new_index_counts_once_everything_is_reindexed(tmp_path: Path) -> None:
    """Until then the field is unindexed and is taken from the JSON."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 5)
        index = {**DEMO["index"], "extra": {"type": "string"}}
        await shard.call("updateBucket", "lab", {"index": index, "options": {"version": 2}}, {})
        (bucket,) = await shard.call("getBucket", {}, "lab")
        assert json.loads(bucket["reindex_active"]) == {"2": ["extra"]}
        find = ("findObjects", "lab", "(&(n=1)(extra=1))")
        assert (await refused(shard, *find, {"requireIndexes": True}))["message"].endswith(
            "Reindexing fields: [ 'extra' ]. Unindexed fields: []"
        )
        assert await value_of(shard, "lab", "k1") == {"name": "n1", "n": 1, "extra": 1}
        await shard.call("putObject", "lab", "k0", {"name": "n0", "n": 0, "extra": 0}, {})
        reports = [(await shard.call("reindexObjects", "lab", 3, {}))[0] for _ in range(4)]
        assert reports == [
            {"processed": 3, "remaining": 1},
            {"processed": 1, "remaining": 0},
            {"processed": 0, "remaining": 0},
            {"processed": 0},
        ]
        (found,) = await shard.call(*find, {"requireIndexes": True})
        assert found["value"]["extra"] == "1"


def test_another_process_goes_on_with_the_old_bucket(tmp_path: Path) -> None:
    """Until its cache is old, or it is told to look."""
    one, other = ShardStore(tmp_path / "1.sqlite"), ShardStore(tmp_path / "1.sqlite")
    now = 0.0
    other.catalogue.now = lambda: now
    one.create_bucket("lab", DEMO)
    other.put("lab", "k", {"n": 1})
    one.update_bucket("lab", {"index": {}}, {})
    with pytest.raises(MorayError, match='column "name" of relation "lab" does not exist'):
        other.put("lab", "k", {"n": 1})
    now = CACHE_S
    other.put("lab", "k", {"n": 1})
    one.delete_bucket("lab")
    with pytest.raises(MorayError, match='relation "lab" does not exist'):
        other.get("lab", "k")
    with pytest.raises(MorayError, match="BucketNotFoundError"):
        other.get("lab", "k", {"noBucketCache": True})
    one.close()
    other.close()


# --- sql ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("SELECT count(*) FROM lab", [{"count": "3"}]),
        ("SELECT max(_id) AS top, min(n) FROM lab WHERE n < 2", [{"top": "2", "min": 0}]),
        ("SELECT n, n FROM lab ORDER BY n DESC LIMIT 1", [{"n": 2}]),
        ("SELECT name FROM lab WHERE name LIKE 'N%'", []),
        ("SELECT name FROM lab WHERE n IN (1, 5) OR NOT n <= 1", [{"name": "n1"}, {"name": "n2"}]),
        ("SELECT 7 / 2 AS a, -7 / 2 AS b, 7 / 2.0 AS c", [{"a": 3, "b": -3, "c": 3.5}]),
        ("SELECT 1 AS a -- b", [{"a": 1}]),
        ("SELECT 'x\ny' AS a", [{"a": "xy"}]),
        ("SELECT n IS NULL AS gone FROM lab WHERE _key = 'k1'", [{"gone": False}]),
        ("SELECT coalesce(null, 'x') || 'y' AS a;", [{"a": "xy"}]),
        ("SELECT n FROM lab WHERE n BETWEEN 1 AND 2 ORDER BY n OFFSET 1", [{"n": 2}]),
    ],
)
async def test_what_sql_gives(statement: str, rows: list[Any], tmp_path: Path) -> None:
    """bigint as text, other numbers as numbers, of equal names the last; newlines vanish."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 3)
        assert await shard.call("sql", statement, [], {}) == rows


async def test_a_newline_joins_two_words(tmp_path: Path) -> None:
    """It is deleted, not replaced."""
    async with a_shard(tmp_path) as shard:
        error = await refused(shard, "sql", "select\n1", [], {})
        assert error["message"] == 'Invalid SQL: syntax error at or near "select1"'


async def test_a_timeout_counts_until_the_first_row(tmp_path: Path) -> None:
    """Later rows may take as long as they like."""
    statement = "SELECT x, pg_sleep(0.1) FROM generate_series(1, 4) AS x"
    async with a_shard(tmp_path) as shard:
        assert len(await shard.call("sql", statement, [], {"timeout": 300})) == 4


# --- troubles ----------------------------------------------------------------------------


async def test_planned_errors_come_as_often_as_told(tmp_path: Path) -> None:
    """To the method they are for, before it has any effect."""
    async with a_shard(tmp_path) as shard:
        shard.server.faults.fail(faults.deadlock(), method="batch", times=2)
        put = [{"bucket": "manta", "key": "/a", "value": {}, "options": {"etag": None}}]
        for _ in range(2):
            assert (await refused(shard, "batch", put, {}))["message"] == "deadlock detected"
            assert await shard.call("sql", "SELECT _key FROM manta", [], {}) == []
        assert len((await shard.call("batch", put, {}))[0]["etags"]) == 1
        shard.server.faults.fail(faults.first_put_race("/a"))
        race = await refused(shard, "putObject", "manta", "/a", {}, {})
        assert race["message"] == '"_key" is a unique attribute; value "/a" already exists'
        shard.server.faults.fail(faults.connection_refused())
        assert (await refused(shard, "ping", {}))["name"] == "Error"


async def test_an_error_follows_some_of_the_rows(tmp_path: Path) -> None:
    """The others are lost."""
    async with a_shard(tmp_path) as shard:
        await put_many(shard, 5)
        shard.server.faults.fail(faults.backend_killed(), method="sql", after_rows=2)
        with pytest.raises(Refused) as caught:
            await shard.call("sql", "SELECT n FROM lab ORDER BY n", [], {})
        assert caught.value.rows == [{"n": 0}, {"n": 1}]


async def test_a_locked_record_is_waited_for(tmp_path: Path) -> None:
    """For ever without `timeout`; other records are written meanwhile."""
    async with a_shard(tmp_path) as shard:
        shard.server.faults.lock("manta", "/a")
        late = await refused(shard, "putObject", "manta", "/a", {}, {"timeout": 10})
        assert late["name"] == "QueryTimeoutError"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shard.call, "putObject", "manta", "/a", {"x": 1}, {})
            await shard.call("putObject", "manta", "/b", {}, {})
            assert (await refused(shard, "getObject", "manta", "/a", NO_CACHE))["name"] == (
                "ObjectNotFoundError"
            )
            shard.server.faults.release("manta", "/a")
        assert await value_of(shard, "manta", "/a") == {"x": 1}


async def test_a_pool_that_is_in_use_refuses(tmp_path: Path) -> None:
    """A request keeps its database connection to the end; others wait for one, but not long."""
    async with a_shard(tmp_path) as shard:
        shard.server.faults.limit_pool(1, claim_s=0.01)
        held, go_on = trio.Event(), trio.Event()

        async def wait(method: str, _args: list[Any]) -> None:
            if method == "sql":
                held.set()
                await go_on.wait()

        shard.server.before_reply = wait
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shard.call, "sql", "SELECT 1 AS a", [], {})
            await held.wait()
            assert (await refused(shard, "version", {}))["name"] == "NoDatabasePeersError"
            go_on.set()
        assert await shard.call("version", {}) == [{"version": 2}]


async def test_answers_take_turns_on_a_connection(tmp_path: Path) -> None:
    """A short answer comes between the rows of a long one that nobody reads yet."""
    long = "SELECT repeat('a', 300000) FROM generate_series(1, 40)"
    async with a_shard(tmp_path) as shard, await trio.open_tcp_stream(*shard.address) as stream:
        await stream.send_all(request("sql", long, [], {}, number=1))
        await trio.testing.wait_all_tasks_blocked(0.2)
        await stream.send_all(request("version", {}, number=2))
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(10):
            found = await listen(stream, 2)
    ids = [message.id for message in found]
    assert ids.index(2) > 0
    assert ids[-1] == 1
    assert len(ids) == 43


async def test_end_can_be_held_back(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """As Nagle's algorithm holds it back; an answer without rows has nothing before it."""
    store = ShardStore(tmp_path / "1.sqlite")
    server = ShardServer(store, delay_end_s=0.04)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._connection, theirs)
        times = []
        for method in ("version", "ping"):
            began = trio.current_time()
            await ours.send_all(request(method, {}))
            decoder, found = fast.Decoder(), list[Message]()
            while not ended(found):
                found += decoder.feed(bytes(await ours.receive_some()))
            times.append(trio.current_time() - began)
        nursery.cancel_scope.cancel()
    store.close()

    assert times == [pytest.approx(0.04), 0]


async def test_listening_ends_when_told(tmp_path: Path) -> None:
    """Nobody notifies in a region; the wait has an end all the same."""
    listener = "00000000-0000-4000-8000-000000000000"
    async with a_shard(tmp_path) as shard:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shard.call, "listen", "changes", {"req_id": listener})
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert await shard.call("unlisten", listener, {}) == []


# --- what costs the connection, or the server ----------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x03" + bytes(14),
        request("version", {})[:-1] + b"x",
        request("getObject", "manta", "/x", {}),
        request("putObject", "manta", "/x", {}, PREVIOUS),
        request("batch", [{"bucket": "manta", "key": "/x", "value": {}, "options": PREVIOUS}], {}),
    ],
    ids=["bad version", "bad checksum", "get without noCache", "delete record", "in a batch"],
)  # fmt: skip
async def test_what_kills_a_real_moray_kills_this_one(data: bytes, tmp_path: Path) -> None:
    """A client's fault is a finding: the server exits loudly."""
    store = ShardStore(tmp_path / "1.sqlite")
    with trio.fail_after(5):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                address = await nursery.start(ShardServer(store).serve, "127.0.0.1", 0)
                await converse(address, data)
                await trio.sleep_forever()
        assert caught.group_contains(MorayDied)
    store.close()


@pytest.mark.parametrize("resets", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("is_busy", [False, True], ids=["read", "unread"])
async def test_the_end_within_a_message_kills(resets: bool, is_busy: bool, tmp_path: Path) -> None:
    """The trap that the client must avoid; a reset is one too while the part is unread."""
    store = ShardStore(tmp_path / "1.sqlite")
    server = ShardServer(store)
    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.serve, "127.0.0.1", 0)
            if is_busy:
                server.be_busy()
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(request("version", {})[:20])
            if resets:
                abort_on_close(stream)
            await stream.aclose()
            server.be_free()
            await trio.sleep_forever()
    assert caught.group_contains(MorayDied)
    store.close()


@pytest.mark.parametrize("resets", [False, True], ids=["FIN", "RST"])
async def test_the_end_after_a_whole_message_does_not_kill(resets: bool, tmp_path: Path) -> None:
    """Also of one that the server had not read when the end came."""
    async with a_shard(tmp_path) as shard:
        shard.server.be_busy()
        stream = await trio.open_tcp_stream(*shard.address)
        await stream.send_all(request("putObject", "manta", "/x", {"n": 1}, {}))
        if resets:
            abort_on_close(stream)
        await stream.aclose()
        shard.server.be_free()
        assert await shard.call("version", {}) == [{"version": 2}]


def abort_on_close(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_an_id_in_flight_costs_the_connection(tmp_path: Path) -> None:
    """Both requests are lost, the server lives, and it is on record."""
    async with a_shard(tmp_path) as shard:
        slow = request("sql", "SELECT pg_sleep(0.05)", [], {})
        assert await shard.converse(slow + request("version", {})) == []
        assert len(shard.server.offences) == 1
        assert await shard.call("version", {}) == [{"version": 2}]


def test_the_file_is_whole_once_it_is_closed(tmp_path: Path) -> None:
    """Nothing stays in sqlite's log."""
    store = ShardStore(tmp_path / "1.sqlite")
    store.put("manta", "/a", {"x": 1})
    store.get("manta", "/a")
    store.close()

    assert [path.name for path in tmp_path.iterdir()] == ["1.sqlite"]
