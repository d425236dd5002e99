"""Updates through buckets-mdapi: held to recorded exchanges, and to servers with every trap."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rebalancer import jsontext
from rebalancer.domain.bucket_objects import BucketKey, write_etag
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.peers.buckets import mdapi, messages
from rebalancer.peers.buckets.mdapi import MdapiClient
from rebalancer.peers.buckets.messages import MdapiError, Method
from rebalancer.peers.metadata import Kind, MetadataError, Put
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status
from tests.peers.buckets.servers import (
    CAPTURES,
    CLOSED,
    SILENT,
    FakeMdapi,
    Replay,
    client_of,
    error,
    recorded,
)
from tests.peers.buckets.shards import SHARKS, key_of, object_id

MOVED = ["dc3:3.stor.lab", SHARKS[1]]
KEY = key_of("päth/ü 1/★")
ETAG = write_etag(object_id(1), list(SHARKS))

# --- recorded exchanges ------------------------------------------------------------------

#: How each recorded answer is read that is no object: by number, of the old server.
ENDS: dict[int, Any] = {
    **dict.fromkeys([7, 8, 9, 17, 18, 222], ("ObjectNotFound", Kind.MISSING)),
    **dict.fromkeys([10, 11, 16, 21, 23], ("PreconditionFailedError", Kind.CONFLICT)),
    **dict.fromkeys([12, 48], ("PostgresError", Kind.PERMANENT)),
    **dict.fromkeys([22, 25, 26, 37, 38, 43, 45, 46, 47], ("FastError", Kind.PERMANENT)),
    **dict.fromkeys([33], ("LimitConstraintError", Kind.PERMANENT)),
    **dict.fromkeys([53, 54, 55], CLOSED),
    210: SILENT,
}
#: Where the new server answers otherwise.
ENDS_OF_NEW: dict[int, Any] = {
    **{number + 100: end for number, end in ENDS.items() if number not in (37, 38, 210, 222)},
    114: ("ObjectNotFound", Kind.MISSING),
    137: [{"failed_vnodes": []}],
    138: [0, 1, 7],
    209: ("ObjectNotFound", Kind.MISSING),
}


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_every_recorded_answer_is_read_for_what_it_is(path: Path) -> None:
    """An object with its exact id, an error by its kind, or none: never one for another."""
    number = int(path.name.partition("_")[0])
    method, args, answer = recorded(path)
    expected = {**ENDS, **ENDS_OF_NEW}.get(number)
    if isinstance(answer, str):
        assert answer == expected
        return
    if isinstance(answer, dict):
        failure = messages.error_of(answer["name"], answer["message"])
        assert (failure.name, failure.kind) == expected
        return
    payload = jsontext.dumps({"m": {"name": method, "uts": 1}, "d": answer}).encode()
    rows = messages.read_payload(payload)["d"]
    if method == Method.LIST_VNODES:
        assert messages.read_vnodes(rows) == expected
    elif method == Method.BATCH_UPDATE_OBJECTS:
        messages.read_probe(rows)
        assert answer == expected
    elif expected is None:
        row = messages.read_object(rows, "k")
        assert (row.id, row.modified) == (answer[0]["id"], answer[0]["modified"])
        assert row.value["name"] == args["name"]
        assert all(":" in shark for shark in row.sharks)
    else:
        with pytest.raises(MdapiError) as caught:
            messages.read_object(rows, "k")
        assert (caught.value.name, caught.value.kind) == expected
        assert caught.value.conflicting_key == "k"


def capture(number: int) -> Path:
    (path,) = [path for path in CAPTURES if path.name.startswith(f"{number:02d}_")]
    return path


def key_in(args: Any) -> BucketKey:
    return BucketKey(args["vnode"], args["owner"], args["bucket_id"], args["name"])


@pytest.mark.parametrize("number", [115, 206])
def test_an_update_is_asked_for_as_it_was_recorded(number: int) -> None:
    """All that it must have, and nothing that was not tried on a real server."""
    _, args, answer = recorded(capture(number))
    assert isinstance(answer, list)
    shown = {**answer[0], "modified": args["conditions"].get("if-unmodified-since", "then")}
    row = messages.read_object([JsonText(jsontext.dumps(shown))], "k")
    sharks = [f"{one['datacenter']}:{one['manta_storage_id']}" for one in args["sharks"]]

    (made,) = json.loads(messages.update_object(key_in(args), row, sharks, args["request_id"]))

    assert made.pop("conditions") == {"if-unmodified-since": "then", **args.pop("conditions")}
    assert made == args


async def replayed(number: int) -> Any:
    """What the client makes of a recorded `getobject`: a record, None, or an error."""
    _, args, _ = recorded(capture(number))
    async with client_of(Replay([capture(number)])) as client:
        try:
            return await client.get_object("", str(key_in(args)))
        except PeerError as exc:
            return exc


@pytest.mark.parametrize("number", [6, 106])
async def test_a_recorded_object_is_read_to_the_digit(number: int) -> None:
    """Over the wire."""
    record = await replayed(number)

    assert record.value["properties"] == {"big": 12345678901234567890, "f": 1.0, "x": None}
    assert record.value["headers"] == {"m-a": "b", "null-one": None}
    assert record.etag == write_etag(
        "b0000001-0000-4000-8000-000000000000", ["dc1:1.stor.t.local", "dc2:2.stor.t.local"]
    )


@pytest.mark.parametrize("number", [7, 107])
async def test_a_recorded_object_that_is_not_there(number: int) -> None:
    """Is none."""
    assert await replayed(number) is None


@pytest.mark.parametrize("number", [53, 54, 55, 153, 154, 155])
async def test_a_recorded_row_of_which_the_server_dies_is_blamed(number: int) -> None:
    """It is asked for twice, and no retry can help: the shard goes on."""
    failure = await replayed(number)

    assert "closed its connection on this object" in str(failure)
    assert failure.kind is Kind.PERMANENT


async def test_a_recorded_server_that_is_stuck_is_not_waited_for_without_end(
    autojump_clock: MockClock,
) -> None:
    """Whether it did anything is unknown."""
    failure = await replayed(210)

    assert isinstance(failure, PeerUnreachable)
    assert "no answer in 10 s" in str(failure)


async def test_recorded_versions_are_told_apart() -> None:
    """By what they answer to a batch of nothing."""
    async with client_of(Replay([capture(137), capture(138)])) as client:
        await client.check()
        assert await client.vnodes() == [0, 1, 7]
    async with client_of(Replay([capture(37)])) as client:
        with pytest.raises(MdapiError, match="too old") as caught:
            await client.check()
        assert caught.value.kind is Kind.PERMANENT


# --- messages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "1",
        "[]",
        "{}",
        '{"error": "x"}',
        '{"error": {"name": "ObjectNotFound"}}',
        '{"id": "a", "sharks": []}',
        '{"ObjectNotFound": "x"}',
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_unknown_shape_is_an_error_and_never_an_object(text: str, count: int) -> None:
    """Nor is it an object that is not there."""
    for read in (lambda rows: messages.read_object(rows, "k"), messages.read_probe):
        with pytest.raises(PeerMalformed):
            read([JsonText(text)] * count)
    with pytest.raises(PeerMalformed):
        messages.read_vnodes([JsonText(text)] * count)


@pytest.mark.parametrize("field", ["id", "modified", "sharks"])
def test_an_object_without_what_an_update_needs_is_none(field: str) -> None:
    """All columns are there, one of another kind."""
    row: dict[str, Any] = {
        **dict.fromkeys(messages.COLUMNS),
        "id": "a",
        "modified": "b",
        "sharks": [],
        field: 1,
    }
    with pytest.raises(PeerMalformed):
        messages.read_object([JsonText(json.dumps(row))], "k")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("db error: ERROR: deadlock detected", Kind.TRANSIENT),
        ("db error: FATAL: terminating connection due to administrator command", Kind.TRANSIENT),
        ("db error: FATAL: sorry, too many clients already", Kind.OVERLOADED),
        ('db error: ERROR: relation "manta_bucket_99" does not exist', Kind.PERMANENT),
    ],
)
def test_the_database_of_a_server_fails_as_that_of_moray(message: str, kind: Kind) -> None:
    """By what it says."""
    assert messages.error_of("PostgresError", message).kind is kind


def test_an_unwrapped_error_is_an_error() -> None:
    """As one method answers."""
    with pytest.raises(MdapiError) as caught:
        messages.read_object([JsonText('{"name": "OverloadedError", "message": "m"}')], "k")
    assert caught.value.kind is Kind.OVERLOADED


@pytest.mark.parametrize(
    "member",
    [
        '"x": 1.10',
        '"x":12345678901234567890123',
        '"y" : 0.12345678901234567890',
        '"z":[{"a":null}]',
    ],
)
def test_what_an_update_sends_back_is_what_came(member: str) -> None:
    """No number is read on the way, nor a blank lost."""
    shown = dict.fromkeys(messages.COLUMNS, "null")
    shown |= {"id": '"i"', "modified": '"m"', "sharks": "[]", "content_type": '"t"'}
    shown |= {"headers": '{"a": null,  "é":"\\u00e9"}', "properties": f"{{{member}}}"}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in shown.items()) + "}"
    message = Message(1, Status.DATA, "getobject", JsonText(f"[{text}]"), uts=1)
    (reply,) = fast.Decoder(messages.read_payload).feed(fast.encode(message))

    row = messages.read_object(reply.data, "k")
    sent = messages.update_object(KEY, row, ["dc:1"], "r")

    assert f'"headers":{shown["headers"]}' in sent
    assert f'"properties":{{{member}}}' in sent


# --- updates -----------------------------------------------------------------------------


def server_with(**columns: Any) -> FakeMdapi:
    server = FakeMdapi()
    server.add(KEY, object_id(1), SHARKS, **columns)
    return server


async def moved(client: MdapiClient, value: Any = None) -> str:
    return await client.put_object("", str(KEY), value or {"sharks": MOVED}, ETAG)


@pytest.mark.parametrize("properties", [{"roles": ["r"]}, None, {"f": 1.5, "n": 2**63}])
async def test_an_update_changes_the_sharks_only(properties: Any) -> None:
    """The headers with their nulls and the properties are as before."""
    server = server_with(properties=properties)
    before = dict(server.rows[KEY])
    async with client_of(server) as client:
        assert await moved(client) == write_etag(object_id(1), MOVED)
        assert server.asked == ["getobject", "batchupdateobjects", "updateobject"]
        record = await client.get_object("", str(KEY))

    assert server.sharks(KEY) == MOVED
    for name in before.keys() - {"sharks", "modified"}:
        assert server.rows[KEY][name] == before[name]
    assert record is not None
    assert (record.etag, record.value["sharks"]) == (write_etag(object_id(1), MOVED), MOVED)


async def test_a_connection_is_asked_once_whether_it_can() -> None:
    """Each one, for the servers of a shard need not be of one version."""
    server = server_with()
    other = key_of("b")
    server.add(other, object_id(1), SHARKS)
    async with client_of(server) as client:
        await moved(client)
        await client.put_object("", str(other), {"sharks": MOVED}, ETAG)

    assert server.asked.count("batchupdateobjects") == 1


async def test_an_old_server_is_never_asked_to_update() -> None:
    """It would answer success and change the wrong things; no other object of it fares better."""
    server = server_with()
    server.is_old = True
    async with client_of(server) as client:
        with pytest.raises(MdapiError, match="too old") as caught:
            await moved(client)

    assert caught.value.kind is Kind.PERMANENT
    assert server.asked == ["getobject", "batchupdateobjects"]
    assert server.sharks(KEY) == list(SHARKS)


async def test_a_server_that_ignores_sharks_is_found_out_by_its_answer() -> None:
    """Should one know batches and not sharks."""
    server = server_with()
    answer = [{**server.rows[KEY]}]
    server.errors = [("updateobject", answer)]
    async with client_of(server) as client:
        with pytest.raises(MdapiError, match="too old"):
            await moved(client)


@pytest.mark.parametrize("fields", [(2, SHARKS), (1, MOVED), (1, [SHARKS[1], SHARKS[0]]), (1, [])])
async def test_an_object_that_is_not_as_it_was_read_is_left(fields: Any) -> None:
    """Another id, or other sharks."""
    server = FakeMdapi()
    number, sharks = fields
    server.add(KEY, object_id(number), sharks)
    async with client_of(server) as client:
        with pytest.raises(PeerError) as caught:
            await moved(client)

    assert isinstance(caught.value, MetadataError)
    assert (caught.value.kind, caught.value.conflicting_key) == (Kind.CONFLICT, str(KEY))
    assert server.asked == ["getobject"]


async def test_an_object_that_is_gone_is_missing() -> None:
    """It is not made anew."""
    server = FakeMdapi()
    async with client_of(server) as client:
        assert await client.get_object("", str(KEY)) is None
        with pytest.raises(MdapiError) as caught:
            await moved(client)

    assert (caught.value.kind, caught.value.conflicting_key) == (Kind.MISSING, str(KEY))
    assert server.rows == {}


@pytest.mark.parametrize("headers_only", [True, False])
async def test_a_users_change_since_we_read_is_a_conflict(headers_only: bool) -> None:
    """The conditions see it, if it is there before they are looked at."""
    server = server_with()

    async def answer(method: str, args: Any) -> Any:
        if method == "updateobject":
            if headers_only:
                server.rows[KEY]["headers"] = {"m-a": "user"}
                server.modify(KEY)
            else:
                server.add(KEY, object_id(2), SHARKS)
        return await FakeMdapi.answer(server, method, args)

    class Busy:
        async def answer(self, method: str, args: Any) -> Any:
            return await answer(method, args)

    async with client_of(Busy()) as client:
        with pytest.raises(MdapiError) as caught:
            await moved(client)

    assert caught.value.is_conflict
    assert server.sharks(KEY) == list(SHARKS)
    if headers_only:
        assert server.rows[KEY]["headers"] == {"m-a": "user"}


async def test_an_overwrite_in_the_gap_is_a_missing_object() -> None:
    """The new object keeps its sharks: only a server that looks at the id may be asked."""
    server = server_with()

    async def overwrite() -> None:
        server.add(KEY, object_id(2), SHARKS)

    server.in_the_gap = overwrite
    async with client_of(server) as client:
        with pytest.raises(MdapiError) as caught:
            await moved(client)

    assert caught.value.is_missing
    assert server.sharks(KEY) == list(SHARKS)


async def test_a_header_change_in_the_gap_is_lost_and_cannot_be_seen() -> None:
    """Between a server's condition and its update: the reason why SQL is the default."""
    server = server_with()

    async def change() -> None:
        server.rows[KEY]["headers"] = {"m-a": "user"}
        server.modify(KEY)

    server.in_the_gap = change
    async with client_of(server) as client:
        await moved(client)

    assert server.sharks(KEY) == MOVED
    assert server.rows[KEY]["headers"] == {"m-a": "b", "null-one": None}


async def test_an_update_whose_answer_was_lost_is_read_back() -> None:
    """It is not written twice."""
    server = server_with()
    server.losses = [("updateobject", CLOSED)]
    async with client_of(server) as client:
        assert await moved(client) == write_etag(object_id(1), MOVED)

    assert server.asked.count("updateobject") == 1
    assert server.sharks(KEY) == MOVED


async def test_a_server_that_dies_of_the_update_is_asked_twice() -> None:
    """Then the object is blamed, after it was read once more."""
    server = server_with()
    server.errors = [("updateobject", CLOSED), ("updateobject", CLOSED)]
    async with client_of(server) as client:
        with pytest.raises(MdapiError, match="closed its connection on this object") as caught:
            await moved(client)

    assert caught.value.kind is Kind.PERMANENT
    assert server.asked.count("updateobject") == 2
    assert server.asked[-1] == "getobject"


async def test_a_server_that_restarts_once_costs_nothing() -> None:
    """The request is asked over a new connection."""
    server = server_with()
    server.errors = [("getobject", CLOSED)]
    async with client_of(server) as client:
        assert (await client.get_object("", str(KEY))) is not None
        server.errors = [("updateobject", CLOSED)]
        await moved(client)

    assert server.sharks(KEY) == MOVED


async def test_an_update_without_an_answer_is_unknown(autojump_clock: MockClock) -> None:
    """The caller reads before anything else, and over another connection."""
    server = server_with()
    server.losses = [("updateobject", SILENT)]
    async with client_of(server) as client:
        with pytest.raises(PeerUnreachable, match="no answer"):
            await moved(client)
        record = await client.get_object("", str(KEY))

    assert record is not None
    assert record.value["sharks"] == MOVED


async def test_an_answer_of_another_shape_leaves_the_update_unknown() -> None:
    """It is neither done nor refused."""
    server = server_with()
    server.errors = [("updateobject", [{"ok": True}])]
    async with client_of(server) as client:
        with pytest.raises(PeerMalformed):
            await moved(client)


@pytest.mark.parametrize("method", ["getobject", "batchupdateobjects", "updateobject"])
async def test_an_overloaded_server_says_so(method: str) -> None:
    """Nothing was written, and fewer ask next."""
    server = server_with()
    server.errors = [(method, error("OverloadedError", "no connection"))]
    async with client_of(server) as client:
        with pytest.raises(MdapiError) as caught:
            await moved(client)
        assert caught.value.kind is Kind.OVERLOADED
        await moved(client)


async def test_few_requests_are_under_way_at_a_time() -> None:
    """And each alone on its connection, so that no object is blamed for another's."""
    server = FakeMdapi()
    keys = [key_of(f"{number}") for number in range(30)]
    for key in keys:
        server.add(key, object_id(1), SHARKS)
    server.rows[keys[7]]["headers"] = None
    failures = []

    async with client_of(server) as client, trio.open_nursery() as nursery:

        async def move(key: BucketKey) -> None:
            try:
                await client.put_object("", str(key), {"sharks": MOVED}, ETAG)
            except MdapiError as exc:
                failures.append((key, exc.name))

        for key in keys:
            nursery.start_soon(move, key)

    assert failures == [(keys[7], "ConnectionClosed")]
    assert 1 < server.most_at_work <= mdapi.REQUESTS
    assert sum(server.sharks(key) == MOVED for key in keys) == 29


async def test_a_cancelled_request_leaves_its_connection_to_nobody(
    autojump_clock: MockClock,
) -> None:
    """Whatever comes of it there, the next one does not suffer."""
    server = server_with()
    server.errors = [("getobject", SILENT)]
    async with client_of(server) as client:
        with trio.move_on_after(1):
            await client.get_object("", str(KEY))
        assert await client.get_object("", str(KEY)) is not None


@pytest.mark.parametrize(
    ("known", "shown", "is_exact"),
    [
        ('{"x": 1.10}', {"x": 1.1}, True),
        ('{"x": 1E2, "y": "a"}', {"y": "a", "x": 100}, True),
        ("null", None, True),
        ('{"x": 0.12345678901234567890}', {"x": 0.12345678901234568}, False),
        ('{"x": 123456789012345678901234}', {"x": 1.2345678901234568e23}, False),
        ('{"x": 1}', None, False),
    ],
)
async def test_properties_that_the_server_does_not_show_exactly_are_not_sent_back(
    known: str, shown: Any, is_exact: bool
) -> None:
    """It would write them as it shows them.  If a user has changed them since, theirs count."""
    server = server_with(properties=shown)

    def text(modified: str) -> JsonText:
        sharks = json.dumps(MOVED)
        return JsonText(f'{{"sharks":{sharks},"modified":"{modified}","properties":{known}}}')

    async with client_of(server) as client:
        if is_exact:
            await moved(client, text(server.rows[KEY]["modified"]))
        else:
            with pytest.raises(MdapiError, match="digits") as caught:
                await moved(client, text(server.rows[KEY]["modified"]))
            assert caught.value.kind is Kind.PERMANENT
            await moved(client, text("2026-11-25T20:00:00.000000Z"))

    assert server.sharks(KEY) == MOVED


async def test_there_are_no_batches() -> None:
    """And no other method can be named."""
    server = server_with()
    async with client_of(server) as client:
        with pytest.raises(PeerRefused, match="never updated by one request"):
            await client.batch([Put("", str(KEY), {"sharks": MOVED}, ETAG)])

    assert server.asked == []
    assert {str(method) for method in Method} == {
        *("getobject", "updateobject", "batchupdateobjects", "listvnodes")
    }


@pytest.mark.parametrize("sharks", [None, [], MOVED[:1], ["3.stor", "2"]])
async def test_no_object_gets_sharks_that_lose_a_copy(sharks: Any) -> None:
    """An empty list would empty the object's."""
    server = server_with()
    async with client_of(server) as client:
        with pytest.raises(PeerRefused):
            await client.put_object("", str(KEY), {"sharks": sharks}, ETAG)
        with pytest.raises(PeerRefused):
            await client.put_object("", str(KEY), {"sharks": MOVED}, None)
        with pytest.raises(PeerRefused):
            await client.get_object("", "/u/stor/a")

    assert server.asked == []
