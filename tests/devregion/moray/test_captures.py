"""The embedded Moray against the real one: its recorded requests get its recorded answers.

The captures are one session in their order, sent byte for byte.  What the session did besides,
and the troubles of a database that is not there, are steps between them.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message
from rebalancer_devregion.moray import faults
from rebalancer_devregion.moray.server import MorayDied, ShardServer
from rebalancer_devregion.moray.store import ShardStore
from tests.devregion.moray.shards import a_shard, converse

CAPTURES = Path(__file__).parents[2] / "data" / "captures"
CONVERSATIONS = CAPTURES / "conversations"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


SESSION = {path.stem: read(path) for path in sorted(CAPTURES.glob("*.json"))}
#: Times and ids differ from run to run, and updateObjects draws its etags.
DIFFERENT = {"_mtime", "mtime", "_id", "uts", "connId"}
_RANDOM_ETAG = re.compile(r"\bu[0-9a-f]{7}\b")
#: Manta's trigger is not ours to copy.
_TRIGGER = re.compile(r'^\["function recordDeleteLog\(.*"\]$', re.DOTALL)


def comparable(data: Any) -> Any:
    match data:
        case dict():
            return {
                key: type(item) if key in DIFFERENT else comparable(item)
                for key, item in data.items()
            }
        case list():
            return [comparable(item) for item in data]
        case str():
            return _TRIGGER.sub("trigger", _RANDOM_ETAG.sub("u", data))
    return data


# --- the steps between the captures ------------------------------------------------------


def put_storage_nodes(server: ShardServer) -> None:
    for message in SESSION["18_findObjects_multi"]["response_messages"][:-1]:
        record = message["payload"]["d"][0]
        server.store.put("manta_storage", record["key"], record["value"])


def put_second_object(server: ShardServer) -> None:
    """It had its copies on other nodes before the batches wrote it."""
    request = SESSION["28_batch_bad_etag"]["request_args"][0][1]
    sharks = [
        {"datacenter": f"dc{number}", "manta_storage_id": f"{number}.stor.lab.example.com"}
        for number in (3, 1)
    ]
    server.store.put("manta", request["key"], {**request["value"], "sharks": sharks})


def put_fourth_record(server: ShardServer) -> None:
    server.store.put("manta", "/fourth", {"type": "directory"})


def put_demo_records(server: ShardServer) -> None:
    for number in range(4):
        server.store.put("lab_demo", f"k{number}", {"name": f"n{number}", "n": number})


def lock_demo_record(server: ShardServer) -> None:
    server.faults.lock("lab_demo", "dla")


def take_all_connections(server: ShardServer) -> None:
    server.faults.limit_pool(0, claim_s=0.01)


STEPS: Mapping[str, Callable[[ShardServer], None]] = {
    "09_putObject_null_conflict": put_second_object,
    "15_getObject_missing": put_fourth_record,
    "18_findObjects_multi": put_storage_nodes,
    "28_batch_bad_etag": put_demo_records,
    "56_backend_killed": lambda server: server.faults.fail(faults.backend_killed()),
    "57_lock_timeout": lock_demo_record,
    "58_database_down": lambda server: server.faults.fail(faults.database_down(), times=2),
    "60_overloaded": take_all_connections,
}


async def replay(folder: Path) -> dict[str, list[Message]]:
    answers = {}
    async with a_shard(folder) as shard:
        for name, capture in SESSION.items():
            if name in STEPS:
                STEPS[name](shard.server)
            data = base64.b64decode(capture["request_b64"])
            answers[name] = await shard.converse(data)
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Message]]:
    return trio.run(replay, tmp_path_factory.mktemp("session"))


@pytest.mark.parametrize("name", SESSION)
def test_a_recorded_request_gets_its_recorded_answer(
    name: str, answers: dict[str, list[Message]]
) -> None:
    """Message by message: status, id, version, method and payload, but for times and ids."""
    recorded = SESSION[name]["response_messages"]

    assert [
        (m.status.name, m.id, m.version, m.method, comparable(m.data)) for m in answers[name]
    ] == [
        (
            m["status"],
            m["msgid"],
            m["version"],
            m["payload"]["m"]["name"],
            comparable(m["payload"]["d"]),
        )
        for m in recorded
    ]


async def test_a_request_without_a_method_is_answered_and_then_kills(tmp_path: Path) -> None:
    """The server gets an ERROR out before it exits."""
    capture = read(CONVERSATIONS / "54_malformed.json")
    store, got = ShardStore(tmp_path / "1.sqlite"), list[Message]()
    with trio.fail_after(5), pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(ShardServer(store).serve, "127.0.0.1", 0)
            got += await converse(address, base64.b64decode(capture["request_b64"]))
            await trio.sleep_forever()
    store.close()

    assert caught.group_contains(MorayDied)
    (expected,) = capture["response_messages"]
    (message,) = got
    assert (message.status, message.method) == (expected["status"], None)
    assert comparable(message.data) == comparable(expected["payload"]["d"])


def by_request(messages: Iterable[Message]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for message in messages:
        found.setdefault(message.id, []).append((message.status.name, comparable(message.data)))
    return found


async def test_requests_at_once_on_one_connection_get_their_answers(tmp_path: Path) -> None:
    """Each its own; those that have nothing to wait for are not held up."""
    capture = read(CONVERSATIONS / "55_concurrent.json")
    recorded = list(fast.Decoder().feed(base64.b64decode(capture["response_b64"])))
    async with a_shard(tmp_path) as shard:
        got = await shard.converse(base64.b64decode(capture["request_b64"]), answers=4)

    assert by_request(got) == by_request(recorded)
    ends = [message.id for message in got if message.status is not fast.Status.DATA]
    assert set(ends[:2]) == {3, 4}


async def test_the_conversation_of_another_client(tmp_path: Path) -> None:
    """node-moray's requests, with the options that it sends, get the same answers."""
    messages = read(CONVERSATIONS / "61_node_moray_client.json")["messages"]
    sent = [bytes.fromhex(m["hex"]) for m in messages if m["dir"] == "c2s"]
    received = b"".join(bytes.fromhex(m["hex"]) for m in messages if m["dir"] == "s2c")
    got = list[Message]()
    async with a_shard(tmp_path) as shard:
        put_storage_nodes(shard.server)
        shard.server.store.create_bucket(*SESSION["04_createBucket"]["request_args"][:2])
        for data in sent:
            got += await shard.converse(data)

    assert by_request(got) == by_request(fast.Decoder().feed(received))
