"""Every error of Moray, over a real connection: what the update of a record makes of it.

docs/moray-errors.md is the table; it must say what happens here.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.domain.objects import Shark
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.pipeline.stages.update_records import RecordUpdater
from rebalancer.manager.store.records import WRITTEN, Update
from rebalancer.peers.metadata import Kind
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.moray.errors import classify
from rebalancer_devregion.moray.errors import MorayError as ServerError
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore
from tests.manager.world import ORIGIN, object_id, record
from tests.test_docs import ROOT, rows

DESTINATION = Shark("dc1", "9.stor.lab")
KEY = "/account/stor/2"  # the middle one of three


@attrs.frozen
class Case:
    """An error as a server sends it, and when it does."""

    name: str
    message: str
    when: str
    context: Mapping[str, Any] = attrs.field(factory=dict)


CONFLICT = {"bucket": "manta", "key": KEY, "expected": "AAAAAAAA", "actual": "BBBBBBBB"}
CASES = [
    Case("EtagConflictError", "was expected to have etag", "the record has changed", CONFLICT),
    Case("ObjectNotFoundError", f"{KEY} does not exist", "there is no such record"),
    Case("UniqueAttributeError", "_key is a unique attribute", "two first puts of one key at once"),
    Case("BucketNotFoundError", "manta does not exist", "wrong shard, or no shard of Manta's"),
    Case("BucketConflictError", "manta already exists", "the bucket is made twice"),
    Case("BucketVersionError", "manta is at version 2", "the bucket is older than it was"),
    Case("InvalidQueryError", "invalid filter", "a filter does not parse, or has no indexed field"),
    Case("NotIndexedError", "does not have indexes", "a field of a filter is not indexed"),
    Case("NotNullableError", "cannot be null", "a field is set to null"),
    Case("FieldUpdateError", "no fields", "nothing is to be updated"),
    Case("InvalidIndexTypeError", "must be a string", "a field is of another type than its index"),
    Case("InvalidBucketNameError", "1x is not a valid name", "as it says"),
    Case("InvalidBucketConfigError", "index is not an object", "as it says"),
    Case("NotFunctionError", "trigger is not a function", "a trigger cannot be run"),
    Case("InvocationError", "expects 4 arguments", "number or type of arguments, options"),
    Case("InternalError", "Invalid SQL", "SQL does not parse, or a row cannot be converted"),
    Case("QueryTimeoutError", "query timeout", "`timeout` ran out, for instance on a row lock"),
    Case("NoDatabasePeersError", "no active connections", "all connections to PostgreSQL in use",
         {"name": "OverloadedError", "message": "no active connections"}),
    Case("OverloadedError", "no active connections", "the same, by the inner name"),
    Case("ConnectTimeoutError", "timeout", "PostgreSQL does not take a connection in time"),
    Case("Error", "connect ECONNREFUSED 10.0.0.1:5432", "PostgreSQL is down"),
    Case("VError", "Postgres client failed: gone", "PostgreSQL went away; ten seconds and more"),
    Case("VError", 'invalid "_id" type', "Moray's picture of a bucket is old; five minutes"),
    Case("error", "deadlock detected", "two batches locked the same rows"),
    Case("error", "could not serialize access", "the same, as PostgreSQL may say it"),
    Case("error", "terminating connection due to administrator command", "PostgreSQL stops"),
    Case("error", "the database system is starting up", "PostgreSQL starts"),
    Case("error", "cannot execute INSERT in a read-only transaction", "a standby takes over"),
    Case("error", "sorry, too many clients already", "PostgreSQL has no connection left"),
    Case("error", 'could not extend file "base/1/2": No space left on device', "its disk is full"),
    Case("error", 'could not write to file "pg_wal/xlogtemp.7": Disk quota exceeded',
         "its quota is used up"),
    Case("error", 'could not read block 7 in file "base/1/2": Input/output error',
         "its disk is broken: a person sees to it, or a standby takes over"),
    Case("error", 'could not open file "base/1/2": Too many open files', "its machine is full"),
    Case("error", "could not fork new process for connection: Resource temporarily unavailable",
         "the same"),
    Case("error", "database is not accepting commands to avoid wraparound data loss",
         "it must be vacuumed"),
    Case("error", "canceling statement due to lock timeout", "somebody else holds a row"),
    Case("error", "could not obtain lock on row in relation", "the same"),
    Case("error", "tuple concurrently updated", "the same"),
    Case("error", 'database "moray" is not currently accepting connections', "maintenance"),
    Case("error", "out of memory", "as it says"),
    Case("error", "out of shared memory", "too many locks at a time"),
    Case("error", 'too many connections for role "moray"', "the limit of Moray's own user"),
    Case("error", "remaining connection slots are reserved", "PostgreSQL has no connection left"),
    Case("Error", "connect EHOSTUNREACH 10.0.0.1:5432", "the way to PostgreSQL is cut"),
    Case("Error", "connect EMFILE 10.0.0.1:5432", "Moray has no file left for a connection"),
    Case("Error", "getaddrinfo ENOTFOUND postgres", "the name service is away"),
    Case("error", 'relation "x" does not exist', "a table is missing"),
    Case("error", 'column "_idx" does not exist', "a column is missing"),
    Case("error", "division by zero", "anything else of PostgreSQL's"),
    Case("FastError", "unsupported RPC method", "the protocol was not kept, or no such method"),
    Case("SchemaChangeError", "schema changed", "the bucket changed meanwhile"),
    Case("InvalidRequireError", "require", "an option that the server does not know"),
    Case("NewError", "?", "any name that is not in this table"),
]  # fmt: skip


@attrs.frozen
class Rig:
    server: ShardServer
    moray: MorayClient


@asynccontextmanager
async def a_shard(path: Path) -> AsyncIterator[Rig]:
    store = ShardStore(path)
    async with trio.open_nursery() as nursery:
        server = ShardServer(store)
        host, port = await nursery.start(server.serve, "127.0.0.1", 0)
        hosts = {"1.moray.lab": f"{host}:{port}"}
        async with open_moray({1: "1.moray.lab"}, hosts, connections=4) as clients:
            yield Rig(server, clients[1])
        nursery.cancel_scope.cancel()
    store.close()


async def seen(rig: Rig, case: Case, numbers: list[int], *, for_ever: bool) -> str:
    """The calls of an update of records, one of which meets the error at its first write or at
    every one, and how that one ended.
    """
    updates = [await fresh(rig, number) for number in numbers]
    calls: list[str] = []

    async def reply(method: str, args: list[Any]) -> None:
        await trio.lowlevel.checkpoint()
        told = {"getObject": "get", "putObject": "put"}.get(method)
        if told is None:
            told = f"batch of {len(args[0])}"
        calls.append(told)
        is_first = all(call == "get" for call in calls[:-1])
        if told != "get" and KEY in json.dumps(args) and (for_ever or is_first):
            raise ServerError(case.name, case.message, case.context)

    rig.server.before_reply = reply
    # No patience at all: what would be tried again for an hour is tried once here.
    update_limiter = UpdateLimiter(8, 1e-9 if for_ever else 60.0)
    for number in range(8):
        await update_limiter.acquire(number)
    updater = RecordUpdater(1, rig.moray, Evacuate(ORIGIN), update_limiter)
    with trio.fail_after(10):
        await updater.update(updates)
    slower = ", slower" if update_limiter.in_force < 8 else ""
    (ours,) = (update.result for update in updates if update.key == KEY)
    assert ours is not None
    others = [update.result for update in updates if update.key != KEY]
    assert for_ever or all(result is WRITTEN for result in others)
    ended = "complete" if ours is WRITTEN else str(ours.reason)
    return f"{', '.join(calls)}: {ended}{slower}"


async def fresh(rig: Rig, number: int) -> Update:
    value = record(number)
    store = rig.server.store
    etag = store.put("manta", value["key"], value)
    text = json.dumps(value)
    return Update(number, object_id(number), value["key"], 1, etag, text, DESTINATION)


@pytest.fixture(scope="module")
def page() -> dict[tuple[str, str], tuple[str, ...]]:
    """The rows of the page by name and message."""
    found = [row for row in rows(ROOT / "docs" / "moray-errors.md") if len(row) == 6]
    return {(row[0].strip("`"), row[1].strip("`")): row for row in found[2:]}


@pytest.mark.row("CRIT-2")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}: {case.message}")
async def test_the_page_tells_what_happens(
    case: Case, page: dict[tuple[str, str], tuple[str, ...]], tmp_path: Path
) -> None:
    """One put, and a batch of three, whose first write is answered with the error."""
    async with a_shard(tmp_path / "1.sqlite") as rig:
        expected = (
            f"`{case.name}`",
            f"`{case.message}`",
            case.when,
            classify(case.name, case.message).value,
            await seen(rig, case, [2], for_ever=False),
            await seen(rig, case, [1, 2, 3], for_ever=False),
        )
    assert page.get((case.name, case.message)) == expected, "| " + " | ".join(expected) + " |"


def test_the_page_has_no_other_row(page: dict[tuple[str, str], tuple[str, ...]]) -> None:
    """And every error has its row."""
    assert list(page) == [(case.name, case.message) for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}: {case.message}")
async def test_what_does_not_pass_fails_that_record_alone(case: Case, tmp_path: Path) -> None:
    """An error that stays: of three records, the two others are written unless it could pass."""
    async with a_shard(tmp_path / "1.sqlite") as rig:
        told = await seen(rig, case, [1, 2, 3], for_ever=True)
        written = [rig.server.store.get("manta", f"/account/stor/{n}")["value"] for n in (1, 2, 3)]
    moved = ["9.stor.lab" in json.dumps(value) for value in written]

    assert "metadata_update_failed" in told
    stays_whole = classify(case.name, case.message) in (Kind.TRANSIENT, Kind.OVERLOADED)
    assert moved == ([False] * 3 if stays_whole else [True, False, True])
