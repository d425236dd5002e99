"""Answers of the region's Moray to what clients seldom ask, as a real one was seen to give them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status
from tests.devregion.moray.shards import Refused, Shard, a_shard

FIND = {"no_count": True}
INDEX = {
    "s": {"type": "string"},
    "n": {"type": "number"},
    "b": {"type": "boolean"},
    "ip": {"type": "ip"},
    "mac": {"type": "mac"},
    "subnet": {"type": "subnet"},
    "date": {"type": "date"},
    "uuid": {"type": "uuid"},
    "numrange": {"type": "numrange"},
    "daterange": {"type": "daterange"},
    "list": {"type": "[string]"},
    "numbers": {"type": "[number]"},
}


async def with_bucket(shard: Shard) -> None:
    await shard.call("createBucket", "b", {"index": INDEX}, {})


async def put(shard: Shard, value: Mapping[str, Any], key: str = "/k") -> str:
    ((reply),) = await shard.call("putObject", "b", key, value, {})
    return str(reply["etag"])


async def get(shard: Shard, key: str = "/k") -> dict[str, Any]:
    (record,) = await shard.call("getObject", "b", key, {"noCache": True})
    assert isinstance(record, dict)
    return record


async def refusal(shard: Shard, method: str, *args: Any) -> str:
    with pytest.raises(Refused) as caught:
        await shard.call(method, *args)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "(&(s=ab*)(s=*c*))",
        "(|(s=ab*)(s=zz*))",
        "(!(s=z*))",
        "(&(|(s=a*)(!(s=*b*)))(!(|(s=q*)(s=*r))))",
        "(|(s:caseIgnoreSubstringsMatch:=AB*)(s=zz*))",
    ],
)
async def test_a_substring_may_stand_within_other_filters(text: str, tmp_path: Path) -> None:
    """As it may stand alone."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {"s": "abc"})
        (found,) = await shard.call("findObjects", "b", text, FIND)
        assert found["key"] == "/k"


@pytest.mark.parametrize(
    ("vnode", "message"),
    [
        ([1, "a"], 'invalid input syntax for type bigint: "{"1","a"}"'),
        ({"a": 1}, 'invalid input syntax for type bigint: "{"a":1}"'),
        (99999999999999999999, 'value "100000000000000000000" is out of range for type bigint'),
        (1.5, 'invalid input syntax for type bigint: "1.5"'),
        ("x", 'invalid input syntax for type bigint: "x"'),
        (True, 'invalid input syntax for type bigint: "true"'),
        (1e400, 'invalid input syntax for type bigint: "Infinity"'),
    ],
)
async def test_a_vnode_is_a_whole_number(vnode: Any, message: str, tmp_path: Path) -> None:
    """Anything else is an error, and the server goes on; nothing is stored."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        text = '{"vnode":1e400}' if vnode == 1e400 else None
        if text is None:
            assert await refusal(shard, "putObject", "b", "/k", {"vnode": vnode}, {}) == (
                f"error: {message}"
            )
        else:
            (answer,) = await shard.converse(raw("putObject", f'["b","/k",{text},{{}}]'))
            assert answer.data["message"] == message
        assert "does not exist" in await refusal(shard, "getObject", "b", "/k", {"noCache": True})
        await put(shard, {"vnode": "17"})
        (row,) = await shard.call("sql", "SELECT _vnode FROM b", [], {})
        assert row == {"_vnode": "17"}


def raw(method: str, args: str) -> bytes:
    """A request whose arguments are this text."""
    payload = f'{{"m":{{"name":"{method}"}},"d":{args}}}'.encode()
    header = fast.encode(Message(1, Status.DATA, method, []))[:7]
    sums = fast._CRC[2](payload).to_bytes(4, "big") + len(payload).to_bytes(4, "big")
    return header + sums + payload


async def test_json_may_be_nested_deeply(tmp_path: Path) -> None:
    """It is stored and comes back as it was."""
    depth = 2000
    text = "[" * depth + "]" * depth
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        (*_, end) = await shard.converse(raw("putObject", f'["b","/k",{{"v":{text}}},{{}}]'))
        assert end.status is Status.END
        found, levels = (await get(shard))["value"]["v"], 1
        while found:
            (found,), levels = found, levels + 1
        assert levels == depth


async def test_what_is_too_large_for_a_number_reads_as_null(tmp_path: Path) -> None:
    """In an index; sql and find agree, and the value keeps null."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        (*_, end) = await shard.converse(raw("putObject", '["b","/k",{"n":1e400},{}]'))
        assert end.status is Status.END
        assert (await get(shard))["value"] == {"n": None}
        (row,) = await shard.call("sql", "SELECT n FROM b", [], {})
        assert row == {"n": None}


async def test_half_a_character_becomes_the_one_for_unknown(tmp_path: Path) -> None:
    """In a key, an index and a value: there is no other text for it."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {"s": "\ud800", "other": "x\udc00"}, "/\ud800")
        record = await get(shard, "/\ufffd")
        assert (record["key"], record["value"]["s"]) == ("/\ufffd", "\ufffd")
        (found,) = await shard.call("findObjects", "b", "(s=\udfff)", FIND)
        assert found["value"]["other"] == "x\ufffd"


@pytest.mark.parametrize("method", ["putObject", "getObject", "delObject"])
async def test_a_nul_in_a_key_is_refused(method: str, tmp_path: Path) -> None:
    """PostgreSQL has no text with one."""
    message = 'error: invalid byte sequence for encoding "UTF8": 0x00'
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        args: list[Any] = [{}] if method == "putObject" else []
        assert await refusal(shard, method, "b", "/a\0b", *args, {"noCache": True}) == message
        assert await refusal(shard, "putObject", "b", "/k", {"s": "\0"}, {}) == message
        await put(shard, {"unindexed": "\0"})
        assert (await get(shard))["value"] == {"unindexed": "\0"}


async def test_deleting_with_an_empty_etag_deletes(tmp_path: Path) -> None:
    """It is no condition."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {})
        assert await shard.call("delObject", "b", "/k", {"etag": ""}) == [{}]


async def test_an_update_without_fields_works_in_a_batch_only(tmp_path: Path) -> None:
    """There it gives new etags, and the call of its own refuses it."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {"s": "a"})
        update = {"operation": "update", "bucket": "b", "fields": {}, "filter": "(s=a)"}
        (reply,) = await shard.call("batch", [update], {})
        (entry,) = reply["etags"]
        assert (entry["count"], entry["etag"][0]) == (1, "u")
        assert (await get(shard))["_etag"] == entry["etag"]
        assert "FieldUpdateError" in await refusal(shard, "updateObjects", "b", {}, "(s=a)", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(n=1*)", "error: operator does not exist: numeric ~~ unknown"),
        ("(_id=1*)", "error: operator does not exist: bigint ~~ unknown"),
        ("(&(s=a)(b=t*))", "error: operator does not exist: boolean ~~ unknown"),
        ("(list=a*)", "error: operator does not exist: text[] ~~ unknown"),
        ("(ip=a*)", "error: operator does not exist: inet ~~ unknown"),
        (
            "(n:caseIgnoreSubstringsMatch:=1*)",
            "error: function lower(numeric) does not exist",
        ),
        (r"(s=a\z)", r"InvalidQueryError: (s=a\z) is an invalid filter"),
        ("(_txn_snap=*)", "InvalidQueryError: (_txn_snap=*) is an invalid filter"),
        ("(ip=nowhere)", 'error: invalid input syntax for type inet: "nowhere"'),
    ],
)
async def test_filters_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """With the name and the words of the real server."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        assert await refusal(shard, "findObjects", "b", text, {}) == message


async def test_presence_matches_an_empty_list(tmp_path: Path) -> None:
    """It is there, though no item of it is."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {"list": []})
        assert len(await shard.call("findObjects", "b", "(list=*)", FIND)) == 1
        assert await shard.call("findObjects", "b", "(list=a)", FIND) == []


async def test_reindexing_needs_a_bucket(tmp_path: Path) -> None:
    """An unknown one is told before all else."""
    async with a_shard(tmp_path) as shard:
        for count in (0, 10):
            told = await refusal(shard, "reindexObjects", "nobody", count, {})
            assert told == "BucketNotFoundError: nobody does not exist"


async def test_sql_only_shows_no_count_that_nobody_wants(tmp_path: Path) -> None:
    """With `no_count` the key is missing."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        (shown,) = await shard.call("findObjects", "b", "(s=a)", {"sql_only": True, **FIND})
        assert set(shown) == {"query", "args"}
        (shown,) = await shard.call("findObjects", "b", "(s=a)", {"sql_only": True})
        assert set(shown) == {"count", "query", "args"}


@pytest.mark.parametrize(
    ("field", "given", "held"),
    [
        ("ip", "10.0.0.1/32", "10.0.0.1"),
        ("ip", "10.0.0.1/8", "10.0.0.1/8"),
        ("ip", "FE80::0:1", "fe80::1"),
        ("subnet", "10.0.0.0/8", "10.0.0.0/8"),
        ("subnet", "10.0.0.1", "10.0.0.1/32"),
        ("mac", "08-00-2B-01-02-03", "08:00:2b:01:02:03"),
        ("mac", "0800.2b01.0203", "08:00:2b:01:02:03"),
        ("mac", "08002b:010203", "08:00:2b:01:02:03"),
        ("uuid", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("uuid", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("date", "2026-11-25T10:00:00+02:00", "2026-11-25T08:00:00.000Z"),
        ("date", "2026-11-25", "2026-11-25T00:00:00.000Z"),
        ("numrange", "[1, 5)", "[1,5)"),
        ("numrange", "[,5]", "(,5]"),
        ("numrange", "(3,3)", "empty"),
        ("daterange", "[2026-01-01,)", '["2026-01-01 00:00:00+00",)'),
        ("list", "one", ["one"]),
    ],
)
async def test_typed_values_are_normalised(
    field: str, given: Any, held: Any, tmp_path: Path
) -> None:
    """They come back as PostgreSQL writes them."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {field: given})
        assert (await get(shard))["value"] == {field: held}


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("ip", "10.0.0.256", 'invalid input syntax for type inet: "10.0.0.256"'),
        ("subnet", "10.0.0.1/8", 'invalid cidr value: "10.0.0.1/8"'),
        ("mac", "08:00", 'invalid input syntax for type macaddr: "08:00"'),
        ("uuid", "x", 'invalid input syntax for type uuid: "x"'),
        ("date", "soon", 'invalid input syntax for type timestamp with time zone: "soon"'),
        ("numrange", "1..2", 'malformed range literal: "1..2"'),
        (
            "numrange",
            "[2,1]",
            "range lower bound must be less than or equal to range upper bound",
        ),
    ],
)
async def test_typed_values_are_validated(
    field: str, given: Any, message: str, tmp_path: Path
) -> None:
    """What PostgreSQL does not take is its error."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        assert await refusal(shard, "putObject", "b", "/k", {field: given}, {}) == (
            f"error: {message}"
        )


@pytest.mark.parametrize("kind", ["[uuid]", "[numrange]", "[daterange]"])
async def test_there_are_no_arrays_of_some_types(kind: str, tmp_path: Path) -> None:
    """A bucket with such an index is refused."""
    async with a_shard(tmp_path) as shard:
        config = {"index": {"u": {"type": kind}}}
        assert "InvalidBucketConfigError" in await refusal(shard, "createBucket", "c", config, {})


async def test_arrays_come_back_from_sql_as_lists(tmp_path: Path) -> None:
    """Not as their text."""
    async with a_shard(tmp_path) as shard:
        await with_bucket(shard)
        await put(shard, {"list": ["a", "b"], "numbers": [1, 2.5]})
        (row,) = await shard.call("sql", "SELECT list, numbers, s FROM b", [], {})
        assert row == {"list": ["a", "b"], "numbers": [1, 2.5], "s": None}


async def test_a_fault_of_ours_is_an_answer(tmp_path: Path) -> None:
    """The region goes on, and it is on record."""
    async with a_shard(tmp_path) as shard:

        async def fail(method: str, args: list[Any]) -> None:
            if method == "ping":
                raise ValueError("as if")

        shard.server.before_reply = fail
        with trio.fail_after(5):
            assert "as if" in await refusal(shard, "ping", {})
            assert await shard.call("version", {}) == [{"version": 2}]
        assert len(shard.server.offences) == 1
