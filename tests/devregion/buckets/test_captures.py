"""The embedded buckets-mdapi against the real one: its recorded requests get its recorded answers.

The captures are three sessions, of an old server, of a new one and of either, each on a new
database.  What the sessions did besides, in psql, are steps between the captures.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer import jsontext
from rebalancer.peers.moray.crc import crc_v2
from rebalancer_devregion import postgres
from rebalancer_devregion.buckets.methods import Behaviour
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.devregion.buckets.servers import Mdapi, an_mdapi, until_waiting
from tests.devregion.moray.shards import listen
from tests.peers.buckets.shards import connected

CAPTURES = Path(__file__).parents[2] / "data" / "captures-buckets"
OWNER = "a0000000-0000-4000-8000-000000000001"
X_OWNER, X_BUCKET = "c0000000-0000-4000-8000-000000000001", "d0000000-0000-4000-8000-000000000001"
SHARKS = "{dc1:1.stor.t.local,dc2:2.stor.t.local}"
PROPERTIES = '{"big": 12345678901234567890, "f": 1.0, "x": null}'
_HEADER = struct.Struct(">BBBIII")


def number_of(path: Path) -> int:
    return int(path.name.partition("_")[0])


SESSION = {
    path.stem: json.loads(path.read_text())
    for path in sorted(CAPTURES.rglob("*.json"), key=number_of)
}
SESSION = {name: capture for name, capture in SESSION.items() if "request" in capture}
OLD, NEW, EITHER = ([name for name in SESSION if f"_{letter}_" in name] for letter in "mnx")

# --- the steps between the captures ------------------------------------------------------


def run(cluster: Cluster, statement: str, *args: Any) -> None:
    with connected(cluster) as db:
        db.execute(statement.encode(), args)


def add(
    cluster: Cluster,
    name: str,
    object_id: str,
    *,
    vnode: int = 1,
    owner: str = OWNER,
    bucket_id: str = "",
    size: int = 5,
    md5: str = "XUFAKrxLKna5cZ2REBfFkg==",
    content_type: str = "text/plain",
    headers: str | None = '"m-a"=>"b", "null-one"=>NULL',
    sharks: str | None = SHARKS,
    properties: str | None = PROPERTIES,
) -> None:
    run(
        cluster,
        f"INSERT INTO manta_bucket_{vnode}.manta_bucket_object (id, name, owner, bucket_id,"
        " content_length, content_md5, content_type, headers, sharks, properties)"
        " VALUES (%s, %s, %s, %s, %s, decode(%s, 'base64'), %s, %s, %s, %s)",
        *(object_id, name, owner, bucket_id, size, md5, content_type, headers, sharks, properties),
    )


def bucket_of(name: str) -> str:
    (args, *_) = SESSION[name]["request"]["payload"]["d"]
    return str(args["bucket_id"])


def id_of(number: int, letter: str = "b") -> str:
    return f"{letter}{number:07x}-0000-4000-8000-000000000000"


def put_other_objects(cluster: Cluster, name: str) -> None:
    bucket = bucket_of(name)
    for number in (2, 3, 4):
        add(cluster, f"obj{number}", id_of(number), bucket_id=bucket)
    add(cluster, "empty", id_of(9), bucket_id=bucket, size=0, sharks="{}")


def set_time(cluster: Cluster, name: str) -> None:
    """The object is as old as when the request was recorded."""
    (args,) = SESSION[name]["request"]["payload"]["d"]
    run(
        cluster,
        f"UPDATE manta_bucket_{args['vnode']}.manta_bucket_object SET created = %s, modified = %s"
        " WHERE name = %s",
        *[args["conditions"]["if-unmodified-since"]] * 2,
        args["name"],
    )


def put_odd_rows(cluster: Cluster, name: str) -> None:
    odd: dict[str, Any] = {
        "bucket_id": bucket_of(name),
        "md5": "AA==",
        "content_type": "t",
        "properties": None,
    }
    add(cluster, "twocolons", id_of(0x23), headers="", sharks="{dc1:1.stor:8080}", **odd)
    add(cluster, "nullhdr", id_of(0x20), headers=None, **odd)
    add(cluster, "nullsharks", id_of(0x21), sharks=None, **odd)
    add(cluster, "nocolon", id_of(0x22), sharks="{1.stor}", **odd)


def put_x(cluster: Cluster, name: str, number: int, sharks: str = SHARKS) -> None:
    add(
        *(cluster, name, id_of(number, "e")),
        vnode=7,
        owner=X_OWNER,
        bucket_id=X_BUCKET,
        headers='"a"=>"1"',
        sharks=sharks,
        properties='{"p": 1}',
    )


def remove_x(cluster: Cluster, name: str) -> None:
    run(cluster, "DELETE FROM manta_bucket_7.manta_bucket_object WHERE name = %s", name)


def put_race(cluster: Cluster, name: str) -> None:
    remove_x(cluster, "race")
    put_x(cluster, "race", 0x60)
    set_time(cluster, name)


def put_race_2(cluster: Cluster, _name: str) -> None:
    remove_x(cluster, "race2")
    put_x(cluster, "race2", 0x61)


def put_cas(cluster: Cluster, _name: str) -> None:
    put_x(cluster, "cas", 0x71, "{dc9:9.stor}")


def put_held(cluster: Cluster, _name: str) -> None:
    put_x(cluster, "held", 0x80)


STEPS: Mapping[str, Callable[[Cluster, str], None]] = {
    "06_m_getobject": put_other_objects,
    "20_m_updateobject_unmodified_since_exact": set_time,
    "52_m_row_twocolons": put_odd_rows,
    "106_n_getobject": put_other_objects,
    "120_n_updateobject_unmodified_since_exact": set_time,
    "152_n_row_twocolons": put_odd_rows,
    "206_x_race_headers_master": put_race,
    "207_x_race_overwrite_master": put_race_2,
    "208_x_race_headers_branch": put_race,
    "209_x_race_overwrite_branch": put_race_2,
    "211_x_after_overload": put_cas,
    "221_x_listobjects_order_names": put_held,
}
_TABLE = "manta_bucket_7.manta_bucket_object"
#: What a user has changed, and not committed, when the condition of an update is looked at.
MEANWHILE: Mapping[str, str] = {
    **dict.fromkeys(
        ["206_x_race_headers_master", "208_x_race_headers_branch"],
        f"UPDATE {_TABLE} SET headers = 'a=>user', modified = now() WHERE name = 'race'",
    ),
    **dict.fromkeys(
        ["207_x_race_overwrite_master", "209_x_race_overwrite_branch"],
        f"UPDATE {_TABLE} SET id = '{id_of(0x62, 'e')}', created = now(), modified = now(),"
        " sharks = '{dc9:9.stor,dc8:8.stor}' WHERE name = 'race2'",
    ),
}


# --- the sessions ------------------------------------------------------------------------


def encoded(request: Mapping[str, Any]) -> bytes:
    """A request as it was recorded: its head byte for byte, and its payload if that fits it."""
    head = bytes.fromhex(request["bytes_hex"])
    version, _, _, _, crc, length = _HEADER.unpack(head)
    payload = jsontext.dumps(request["payload"]).encode()
    if request["payload"] is None:
        return head + b"{no}}"
    assert len(payload) == length
    assert version == 1 or crc in (crc_v2(payload), 1)
    return head + payload


async def answered(mdapi: Mdapi, data: bytes) -> list[Any]:
    """The messages that come back before the last of an answer, or the connection's end."""
    async with await trio.open_tcp_stream(*mdapi.address) as stream:
        await stream.send_all(data)
        with trio.fail_after(10):
            found: list[Any] = [
                (message.status.name, message.id, message.version, message.method, message.data)
                for message in await listen(stream, 1)
            ]
    return found


async def answered_beside(cluster: Cluster, statement: str, mdapi: Mdapi, data: bytes) -> list[Any]:
    """The answer to a request that came while somebody had changed its row without a commit."""
    got = list[Any]()

    async def ask() -> None:
        got.extend(await answered(mdapi, data))

    with connected(cluster) as db:
        db.execute("BEGIN")
        db.execute(statement.encode())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until_waiting(cluster)
            db.execute("COMMIT")
    return got


async def replay(cluster: Cluster, names: list[str]) -> dict[str, Any]:
    """The answers to a session, and the rows as they are after each."""
    answers = {}
    cluster.create_buckets((0, 1, 7))
    how = Behaviour(cannot_delete=True)
    async with an_mdapi(cluster, how) as mdapi:
        for name in names:
            how.is_old = "_m_" in name or name.endswith("_master")
            if name in STEPS:
                STEPS[name](cluster, name)
            data = encoded(SESSION[name]["request"])
            if name in MEANWHILE:
                answers[name] = await answered_beside(cluster, MEANWHILE[name], mdapi, data)
            else:
                answers[name] = await answered(mdapi, data)
    return answers


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Any]]:
    require("initdb")
    with postgres.running() as cluster:
        yield {
            name: answer
            for names in (OLD, NEW, EITHER)
            for name, answer in trio.run(replay, cluster, names).items()
        }


#: These differ from run to run, or the session drew them itself.
DIFFERENT = {"created", "modified", "batch_id"}
OF_BUCKET = {*DIFFERENT, "id"}
_TIME = re.compile(r"'\d{4}-\d\d-\d\dT[0-9:.]+\+00:00'")


def comparable(data: Any) -> Any:
    match data:
        case dict():
            different = DIFFERENT if "bucket_id" in data or "garbage" in data else OF_BUCKET
            return {
                key: type(item) if key in different else comparable(item)
                for key, item in data.items()
            }
        case list():
            return [comparable(item) for item in data]
        case str():
            return _TIME.sub("then", data)
    return data


@pytest.mark.parametrize("name", [name for name in SESSION if name != "210_x_overloaded"])
def test_a_recorded_request_gets_its_recorded_answer(name: str, answers: dict[str, Any]) -> None:
    """Message by message: status, id, version, method and payload; or the connection is closed."""
    expected = [
        (
            reply["status"],
            reply["id"],
            reply["version"],
            reply["payload"]["m"]["name"],
            comparable(reply["payload"]["d"]),
        )
        for reply in SESSION[name]["replies"]
    ]
    assert [(*message[:4], comparable(message[4])) for message in answers[name]] == expected
