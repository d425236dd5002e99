"""A job's file: the deployed layout, and counters that equal the rows whatever happens."""

import contextlib
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import read_object
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import ObjectEvent, ObjectStatus
from rebalancer.errors import IllegalTransition
from rebalancer.manager.pipeline import flow
from rebalancer.manager.store import assignments, discovery, scans, unplaced, updates
from rebalancer.manager.store.job_file import create
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.manager.store.records import WRITTEN, FoundRecord, ScanPosition, UpdateResult
from rebalancer.manager.store.schema import JOB_FILE, PUT_OFF
from rebalancer.manager.store.tier_counts import read_bucket_counts
from rebalancer.manager.store.views import read_job
from tests.domain.test_reasons import SPELLINGS
from tests.inline import inline
from tests.manager.world import NODES, ORIGIN, counts, make_world, object_id, record

DESTINATION = NODES[1].shark


def found(number: int, **changes: Any) -> FoundRecord:
    obj = read_object(record(number))
    text = json.dumps(record(number))
    made = FoundRecord(obj.object_id, f"/k/{number}", 1, "u1", text, obj.size, obj)
    return attrs.evolve(made, **changes)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[JobStore]:
    async with open_store(path, run=inline) as store:
        yield store


async def keep(store: JobStore, *records: FoundRecord, limit: int | None = None) -> list[str]:
    new = await store.write(
        discovery.store_found, records, ScanPosition(1, "_id", 1, 2), limit=limit
    )
    return [obj.object_id for obj in new]


def check_counters(store: JobStore) -> None:
    """The law: what is counted is what is there."""
    db = store.database._reader
    rows = {
        (row[0], row[1]): (row[2], row[3])
        for row in db.execute(
            "SELECT status, coalesce(skipped_reason, error, outcome, ''), count(*), sum(bytes)"
            " FROM evacuateobjects GROUP BY 1, 2"
        )
    }
    (duplicates,) = db.execute("SELECT count(*) FROM duplicates").fetchone()
    if duplicates:
        rows["duplicates", ""] = (duplicates, 0)
    counters = {
        (row["status"], row["reason"]): (row["objects"], row["bytes"])
        for row in db.execute(
            "SELECT * FROM counters WHERE objects <> 0 AND status <> ?", (PUT_OFF,)
        )
    }
    assert counters == rows
    of_buckets = {
        status: (count, size)
        for status, count, size in db.execute(
            "SELECT status, count(*), sum(bytes) FROM evacuateobjects WHERE shard < 0 GROUP BY 1"
        )
    }
    counted = {name: count for name, count in read_bucket_counts(db).items() if count != (0, 0)}
    assert counted == of_buckets
    waiting = sum(
        n for (status, _), (n, _) in rows.items() if status in ("unprocessed", "assigned")
    )
    assert store.uncopied == waiting
    (put_off,) = db.execute("SELECT count(*) FROM evacuateobjects WHERE put_off").fetchone()
    assert store.deferred == put_off


# Steps of a random history, each on random objects in a state that allows it.


async def step_found(store: JobStore, rng: random.Random) -> None:
    numbers = [rng.randrange(1, 40) for _ in range(rng.randrange(5))]
    kinds: list[dict[str, Any]] = [
        {},
        {"key": f"/other/{rng.random()}"},
        {"reason": reasons.MISSING_SHARKS, "obj": None},
        {"reason": reasons.EXCLUDED},
    ]
    await keep(store, *[found(number, **rng.choice(kinds)) for number in numbers])


async def step_assign(store: JobStore, rng: random.Random) -> None:
    free = ids(store, "status = 'unprocessed' AND NOT put_off")
    chosen = tuple(rng.sample(free, min(len(free), rng.randrange(1, 6))))
    if chosen:
        size = sum(read_object(record(int(name[-12:]))).size for name in chosen)
        name = f"assignment-{rng.random()}"
        await store.write(assignments.assign, Assignment(name, DESTINATION, chosen, size))


async def step_refuse(store: JobStore, rng: random.Random) -> None:
    free = ids(store, "status = 'unprocessed' AND NOT put_off")
    reason = rng.choice([reasons.DESTINATION_INSUFFICIENT_SPACE, Reason("NewOne")])
    chosen = [(name, reason) for name in free[: rng.randrange(3)]]
    await store.write(unplaced.refuse, chosen, max_attempts=rng.randrange(1, 4))


async def step_requeue_lost(store: JobStore, rng: random.Random) -> None:
    if names := assignments_in(store, "'init', 'assigned'"):
        await store.write(
            assignments.requeue_lost,
            rng.choice(names),
            rng.choice([reasons.AGENT_ASSIGNMENT_NO_ENT, reasons.NETWORK_ERROR]),
            max_attempts=rng.randrange(3),
            detail="lost",
        )


async def step_copied(store: JobStore, rng: random.Random) -> None:
    if names := assignments_in(store, "'init', 'assigned'"):
        name = rng.choice(names)
        members = ids(store, f"assignment_id = '{name}' AND status = 'assigned'")
        failed = rng.sample(members, rng.randrange(len(members) + 1))
        reason = rng.choice([reasons.MD5_MISMATCH, reasons.AGENT_FS_ERROR, Reason("NewOne")])
        failure = Failure(reason, "9.stor.lab")
        await store.write(
            assignments.record_copied,
            name,
            dict.fromkeys(failed, failure),
            max_attempts=rng.randrange(1, 4),
        )


async def step_ask_again(store: JobStore, rng: random.Random) -> None:
    if names := assignments_in(store, "'init', 'assigned'"):
        name = rng.choice(names)
        members = ids(store, f"assignment_id = '{name}' AND status = 'assigned'")
        failed = rng.sample(members, rng.randrange(len(members) + 1))
        failure = Failure(reasons.AGENT_FS_ERROR, "9.stor.lab")
        await store.write(
            assignments.requeue_unaccounted,
            name,
            dict.fromkeys(failed, failure),
            max_attempts=rng.randrange(1, 4),
            detail="49 of 50",
        )


async def step_withdraw(store: JobStore, rng: random.Random) -> None:
    if names := assignments_in(store, "'init', 'assigned'"):
        await store.write(assignments.withdraw, rng.choice(names), is_in_doubt=rng.random() < 0.5)


async def step_take_up(store: JobStore, rng: random.Random) -> None:
    row = rng.choice([0, 0, 5])
    last, objects = await store.write(unplaced.requeue_deferred, row)
    assert last > row if objects else last >= row


async def step_load(store: JobStore, rng: random.Random) -> None:
    await store.load()
    _, objects = await store.read(unplaced.read_new, 0, 1 << 62)
    assert len(objects) == len(ids(store, "status = 'unprocessed'"))


async def step_settle(store: JobStore, rng: random.Random) -> None:
    ready = store.database._reader.execute(
        "SELECT number FROM progress WHERE status = 'post_processing'"
    ).fetchall()
    results = [
        WRITTEN,
        UpdateResult(ObjectEvent.SUPERSEDED, reasons.DELETED),
        UpdateResult(ObjectEvent.UNUSABLE, reasons.METADATA_UPDATE_FAILED),
    ]
    chosen = ready[: rng.randrange(4)]
    await store.write(updates.record_updates, {number: rng.choice(results) for (number,) in chosen})


async def step_by_hand(store: JobStore, rng: random.Random) -> None:
    """What a person does to rows in a sqlite3 shell, allowed or not."""
    statuses = ["'unprocessed'", "'skipped'", "'complete'", "'error'", "'assigned'", "'lost'"]
    changes = [
        "status = 'unprocessed'",
        "status = 'unprocessed', put_off = 0, skipped_reason = NULL",
        "status = 'skipped', skipped_reason = 'md5_mismatch'",
        "status = 'error', error = 'internal_error', bytes = 7",
        "skipped_reason = 'because'",
        "bytes = bytes + 1",
        "bytes = NULL",
        "put_off = 1",
        "attempts = 0, tried = NULL",
        f"id = '{object_id(39)}'",
        "object = NULL",
        "object = '[[]]'",
        "tried = 'no JSON'",
        "number = number + 1",
        "assignment_id = (SELECT id FROM assignments LIMIT 1)",
        f"status = {rng.choice(statuses)}",
    ]
    resolution = rng.choice(["", "", "OR IGNORE", "OR REPLACE"])
    some = f"(number + {rng.randrange(5)}) % {rng.randrange(1, 5)} = 0"
    new = f"{rng.choice(['NULL', repr(object_id(rng.randrange(40)))])}, {rng.choice(statuses)}"
    statement = rng.choice(
        [
            f"UPDATE {resolution} evacuateobjects SET {rng.choice(changes)} WHERE {some}",
            f"UPDATE {resolution} evacuateobjects SET {rng.choice(changes)} WHERE {some}",
            f"DELETE FROM evacuateobjects WHERE {some}",
            f"INSERT {resolution} INTO evacuateobjects (id, status) VALUES ({new})",
        ]
    )
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as db:
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute(statement)
        assert (
            db.execute("SELECT number FROM records EXCEPT SELECT number FROM progress").fetchall()
            == []
        )
    await store.status()  # as a job that runs asks for it every few seconds


STEPS = (
    step_found,
    step_assign,
    step_refuse,
    step_requeue_lost,
    step_ask_again,
    step_withdraw,
    step_take_up,
    step_copied,
    step_settle,
    step_by_hand,
    step_load,
)


def ids(store: JobStore, where: str) -> list[str]:
    rows = store.database._reader.execute(f"SELECT id FROM evacuateobjects WHERE {where}")
    return [row["id"] for row in rows]


def assignments_in(store: JobStore, in_states: str) -> list[str]:
    rows = store.database._reader.execute(
        f"SELECT id FROM assignments WHERE state IN ({in_states})"
    )
    return [row["id"] for row in rows]


@pytest.mark.row("IMP-7", "N29")
@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 30),
    history=st.lists(st.sampled_from(STEPS), max_size=25),
    crash_at=st.none() | st.integers(1, 20),
)
def test_counters_equal_rows_after_any_history(
    tmp_path_factory: pytest.TempPathFactory, seed: int, history: list[Any], crash_at: int | None
) -> None:
    """After each step, and after a start on what a death before a commit left."""
    path = tmp_path_factory.mktemp("history") / "job.sqlite"
    rng = random.Random(seed)
    create(path, ORIGIN)

    class Died(Exception):
        pass

    async def run() -> None:
        commits = 0

        def die() -> None:
            nonlocal commits
            commits += 1
            if commits == crash_at:
                raise Died

        async with opened(path) as store:
            store.database.before_commit = die
            try:
                for step in history:
                    await step(store, rng)
                    check_counters(store)
            except Died:
                pass
        async with opened(path) as store:
            check_counters(store)
            assert read_job(path).status.counts == (await store.status()).counts

    trio.run(run)


@pytest.mark.row("TEST-TYPES-2")
@pytest.mark.parametrize("name", SPELLINGS)
async def test_every_reason_fits_the_deployed_column(tmp_path: Path, name: str) -> None:
    """The CHECK takes each spelling that the deployed programs know."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, found(1))
        await store.write(unplaced.refuse, [(object_id(1), Reason(name))], max_attempts=1)
        rows = store.database._reader.execute("SELECT skipped_reason FROM evacuateobjects")
        assert [row[0] for row in rows] == [SPELLINGS[name]]


@pytest.mark.parametrize(
    ("column", "value"),
    [("status", "lost"), ("skipped_reason", "because"), ("error", "oops")],
)
def test_columns_refuse_what_the_deployed_ones_refused(column: str, value: str) -> None:
    """CHECK constraints on all three."""
    db = sqlite3.connect(":memory:")
    JOB_FILE.bring_up(db)
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO evacuateobjects (id, status) VALUES ('a', 'skipped')")
        db.execute(f"UPDATE evacuateobjects SET {column} = ?", (value,))
    db.close()


async def one_of_each(path: Path) -> None:
    """A file with an object that waits and one in an assignment."""
    async with opened(path) as store:
        await keep(store, found(1), found(2))
        await store.write(assignments.assign, Assignment("first", DESTINATION, (object_id(2),), 2))


def plan(db: sqlite3.Connection, query: str) -> str:
    return "; ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))


async def test_people_ask_as_they_did_of_the_deployed_file(tmp_path: Path) -> None:
    """`evacuateobjects` has the deployed columns first, in their order, and answers as cheaply."""
    path = tmp_path / "job.sqlite"
    await one_of_each(path)
    with closing(sqlite3.connect(path)) as db:
        cursor = db.execute("SELECT * FROM evacuateobjects ORDER BY number")
        deployed = "id assignment_id object shard dest_shark etag status skipped_reason error"
        assert [column[0] for column in cursor.description][:9] == deployed.split()
        text = json.dumps(record(2))
        shark = DESTINATION.manta_storage_id
        expected = (object_id(2), "first", text, 1, shark, "u1", "assigned", None, None)
        assert cursor.fetchall()[1][:9] == expected
        one = plan(db, "SELECT * FROM evacuateobjects WHERE id = 'a'")
        of_one = plan(db, "SELECT id FROM evacuateobjects WHERE assignment_id = 'first'")
        assert "SCAN" not in one
        assert "SCAN" not in of_one
        assert "INDEX assignment_id" in of_one


async def test_people_repair_rows_as_they_did_in_the_deployed_file(tmp_path: Path) -> None:
    """`evacuateobjects` takes writes, also after the file was packed."""
    path = tmp_path / "job.sqlite"
    await one_of_each(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM evacuateobjects WHERE id = ?", (object_id(1),))
        db.execute("VACUUM")
        db.execute("INSERT INTO evacuateobjects (id, status, key) VALUES ('x', 'skipped', '/k/x')")
        db.execute(
            "UPDATE evacuateobjects SET assignment_id = 'first', dest_shark = '9.stor',"
            " status = 'complete', object = '{}', attempts = 3 WHERE id = 'x'"
        )
        rows = db.execute(
            "SELECT id, assignment_id, object, dest_shark, status, key, bytes, attempts, put_off"
            " FROM evacuateobjects ORDER BY number"
        ).fetchall()
    text = json.dumps(record(2))
    shark = DESTINATION.manta_storage_id
    assert rows == [
        (object_id(2), "first", text, shark, "assigned", "/k/2", 1002, 0, 0),
        ("x", "first", "{}", "9.stor", "complete", "/k/x", 0, 3, 0),
    ]


@pytest.mark.row("CRIT-6")
async def test_a_reason_nobody_knows_is_kept(tmp_path: Path) -> None:
    """Its raw text is in `detail`; the column stays empty."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, found(1))
        await store.write(unplaced.refuse, [(object_id(1), Reason("NewOne"))], max_attempts=1)
        query = "SELECT skipped_reason, outcome, detail FROM evacuateobjects"
        rows = [tuple(row) for row in store.database._reader.execute(query)]
        assert rows == [(None, "unknown_reason", "NewOne")]


async def test_a_window_may_be_stored_again(tmp_path: Path) -> None:
    """Records met before change nothing: no row, no count, no second feeding."""
    async with opened(tmp_path / "job.sqlite") as store:
        assert await keep(store, found(1), found(2), found(1)) == [object_id(1), object_id(2)]
        before = (await store.status()).counts
        assert await keep(store, found(1), found(2)) == []
        assert (await store.status()).counts == before
        assert await store.read(scans.read_position, 1, "_id") == ScanPosition(1, "_id", 1, 2)


@pytest.mark.parametrize("limit", [None, 1, 150, 290])
async def test_a_window_of_many_statements_keeps_each_object_once(
    tmp_path: Path, limit: int | None
) -> None:
    """Also those met again in it, which do not count against the limit; each with its own row."""
    numbers = [*range(1, 130), *range(100, 250), 1, *range(240, 300)]
    async with opened(tmp_path / "job.sqlite") as store:
        new = await keep(store, *map(found, numbers), limit=limit)
        assert new == [object_id(number) for number in range(1, 300)][:limit]
        rows = store.database._reader.execute("SELECT id, object, bytes FROM evacuateobjects")
        assert [tuple(row) for row in rows] == [
            (one.id, one.text, one.size) for one in map(found, range(1, len(new) + 1))
        ]
        check_counters(store)


async def test_a_job_that_has_more_than_its_limit_takes_no_more(tmp_path: Path) -> None:
    """A person may have put objects into its file."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, *map(found, range(1, 4)))
        assert await keep(store, found(4), limit=2) == []
        assert store.objects == 3


@pytest.mark.row("IMP-2")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_duplicates_do_not_depend_on_the_order(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """One row with the smallest key and all shards, the first one included."""
    records = [found(1, key=f"/k/{n}", shard=n + 1) for n in range(3)]
    async with opened(tmp_path / "job.sqlite") as store:
        for index in order:
            await keep(store, records[index])
        rows = [tuple(row) for row in store.database._reader.execute("SELECT * FROM duplicates")]
        links = store.database._reader.execute("SELECT count(*) FROM links").fetchone()[0]
    assert rows == [(object_id(1), "/k/0", "[1, 2, 3]")]
    assert links == 2


@pytest.mark.row("MIN-2", "L6")
async def test_an_object_moves_only_as_the_tables_allow(tmp_path: Path) -> None:
    """Assigned twice, settled before it is copied, skipped after: refused, nothing changed."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, found(1))
        await store.write(assignments.assign, Assignment("a", DESTINATION, (object_id(1),), 1001))
        before = (await store.status()).counts
        for wrong in (
            store.write(assignments.assign, Assignment("b", DESTINATION, (object_id(1),), 1001)),
            store.write(updates.record_updates, {1: WRITTEN}),
            store.write(unplaced.refuse, [(object_id(1), reasons.NETWORK_ERROR)], max_attempts=1),
        ):
            with pytest.raises(IllegalTransition):
                await wrong
        assert (await store.status()).counts == before
        assert assignments_in(store, "'init'") == ["a"]


async def test_an_assignment_ends_with_its_last_objects_or_they_do_not(tmp_path: Path) -> None:
    """Both are one transaction, which a restart finds done or not begun."""
    last = {1: WRITTEN}
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, found(1))
        await store.write(assignments.assign, Assignment("a", DESTINATION, (object_id(1),), 1001))
        await store.write(assignments.accept, "a")
        await store.write(assignments.record_copied, "a", {}, max_attempts=3)
        with pytest.raises(IllegalTransition):
            await store.write(updates.record_updates, last, "nobody's")
        assert (await store.status()).objects("post_processing") == 1
        await store.write(updates.record_updates, last, "a")
        assert (await store.status()).objects("complete") == 1
        assert assignments_in(store, "'post_processed'") == ["a"]


async def test_what_is_put_off_is_taken_up_before_anything_else(tmp_path: Path) -> None:
    """Neither assigned nor refused meanwhile, or it would be placed twice."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, found(1))
        no_room = [(object_id(1), reasons.DESTINATION_INSUFFICIENT_SPACE)]
        await store.write(unplaced.refuse, no_room, max_attempts=3)
        for wrong in (
            store.write(assignments.assign, Assignment("a", DESTINATION, (object_id(1),), 1001)),
            store.write(unplaced.refuse, no_room, max_attempts=3),
        ):
            with pytest.raises(IllegalTransition):
                await wrong
            check_counters(store)
        _, objects = await store.write(unplaced.requeue_deferred, 0)
        assert [obj.object_id for obj in objects] == [object_id(1)]
        await store.write(assignments.assign, Assignment("a", DESTINATION, (object_id(1),), 1001))
        check_counters(store)


async def test_the_shark_is_kept_as_the_deployed_program_kept_it(tmp_path: Path) -> None:
    """One row, id 1, JSON."""
    create(tmp_path / "job.sqlite", ORIGIN)
    known = read_job(tmp_path / "job.sqlite")

    assert known.origin == Shark("dc1", "1.stor.lab")
    assert known.status.counts == {}
    assert [known.status.objects(name) for name in ObjectStatus] == [0] * 6


async def test_a_job_takes_up_what_a_person_repairs_while_it_runs(
    tmp_path: Path, autojump_clock: object
) -> None:
    """It ends complete, with that object too; one that cannot be made to wait ends as an error."""
    world = make_world(tmp_path, [record(number) for number in range(1, 6)])
    world.agents.failures = {object_id(2): reasons.MD5_MISMATCH, object_id(3): reasons.MD5_MISMATCH}
    async with world.job() as job:

        def repair() -> None:
            with closing(sqlite3.connect(job.store.database.path, isolation_level=None)) as db:
                (skipped,) = db.execute(
                    "SELECT count(*) FROM evacuateobjects WHERE status = 'skipped'"
                ).fetchone()
                if skipped == 2:
                    world.agents.failures = {}
                    db.execute(
                        "UPDATE evacuateobjects SET status = 'unprocessed', attempts = 0,"
                        " tried = NULL, object = iif(id = ?, '{}', object)"
                        " WHERE status = 'skipped'",
                        (object_id(3),),
                    )

        job.store.database.after_commit = repair
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {
            ("complete", ""): 4,
            ("error", "missing_sharks"): 1,
        }
    world.close()


async def test_what_a_running_job_has_in_its_hands_is_not_changed(tmp_path: Path) -> None:
    """A person is told why, and the statement changes nothing at all."""
    path = tmp_path / "job.sqlite"
    await one_of_each(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO job VALUES ('x', 'evacuate', 'running', '{}', '', '', '', '', '')")
        before = list(db.iterdump())
        with pytest.raises(sqlite3.IntegrityError, match="pause that first"):
            db.execute("UPDATE evacuateobjects SET status = 'skipped' WHERE status = 'unprocessed'")
        with pytest.raises(sqlite3.IntegrityError, match="let that end"):
            db.execute("UPDATE OR IGNORE evacuateobjects SET status = 'complete'"
                       " WHERE status = 'assigned'")  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="by hand"):
            db.execute("UPDATE OR REPLACE evacuateobjects SET status = 'post_processing'"
                       " WHERE status = 'unprocessed'")  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("DELETE FROM evacuateobjects")
        assert list(db.iterdump()) == before
