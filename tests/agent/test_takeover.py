"""A node's Rust agent, killed at any moment, is replaced by ours: what it left is taken over."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from rebalancer.agent.state.reading import read
from rebalancer.agent_protocol import COMPLETE, PENDING
from tests.agent.scripted import Rig, open_rig
from tests.agent.test_interplay import deployed_status
from tests.sources import OWNER, Answer, md5, ok, task, uuid

BYTES = b"an object"
#: The tables as the Rust agent's driver makes them, each statement a transaction of its own.
TABLES = (
    "create table if not exists tasks (object_id text primary key not null unique,"
    " owner text not null, md5sum text not null, datacenter text not null,"
    " manta_storage_id text not null, status text not null)",
    "create table if not exists stats (stats text not null)",
)
PENDING_TEXT, COMPLETE_TEXT = b'"Pending"', b'"Complete"'
TAGGED_TEXT = b'{"state":"Complete"}'
WAITING = b'{"state":"Scheduled","failed":0,"complete":0,"total":%d}'
DONE = b'{"state":{"Complete":null},"failed":0,"complete":%d,"total":%d}'


def fill(db: sqlite3.Connection, first: int, statuses: list[bytes], stats: bytes) -> None:
    for statement in TABLES:
        db.execute(statement)
    db.execute("begin")
    for number, status in enumerate(statuses, first):
        row = (uuid(number), OWNER, md5(BYTES), "dc1", "2.stor.lab", status)
        db.execute("insert into tasks values (?, ?, ?, ?, ?, ?)", row)
    db.execute("insert into stats values (?)", (stats,))


def whole(path: Path, first: int, statuses: list[bytes], stats: bytes | None = None) -> None:
    """A file that the Rust agent has finished writing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        fill(db, first, statuses, stats or WAITING % len(statuses))
        db.execute("commit")


def torn(path: Path, first: int, count: int) -> None:
    """A file that it was writing when it was killed: pages on the disk, and a hot journal."""
    scratch = path.parent.parent / "scratch"
    with closing(sqlite3.connect(scratch, isolation_level=None)) as db:
        db.execute("pragma cache_size=1")
        fill(db, first, [COMPLETE_TEXT] * count, DONE % (count, count))
        for suffix in ("", "-journal"):
            shutil.copy(f"{scratch}{suffix}", f"{path}{suffix}")
    scratch.unlink()
    assert path.with_name(f"{path.name}-journal").read_bytes()[:8] != b"\0" * 8


def folders(folder: Path) -> tuple[Path, Path]:
    scheduled, completed = folder / "state" / "scheduled", folder / "state" / "completed"
    for made in (scheduled, completed):
        made.mkdir(parents=True)
    return scheduled, completed


def place(folder: Path, number: int) -> None:
    """An object that the Rust agent has copied already."""
    path = folder / "manta" / OWNER / uuid(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BYTES)


def source(_request: int, _path: str) -> Answer:
    return Answer(ok(BYTES))


def fetched(rig: Rig) -> list[str]:
    return sorted(path.rsplit("/")[-1] for path in rig.source.paths)


async def test_what_a_killed_rust_agent_leaves_is_taken_over(tmp_path: Path) -> None:
    """Half done, finished, in both folders, never promised, foreign; and its temporary files."""
    scheduled, completed = folders(tmp_path)
    half, both, new, done, odd = map(uuid, range(60, 65))
    whole(scheduled / half, 0, [PENDING_TEXT] * 3)
    whole(scheduled / odd, 10, [TAGGED_TEXT, PENDING_TEXT, b'{"Failed":"MD5Mismatch"}'])
    # It was between writing the result and removing the assignment.
    whole(scheduled / both, 20, [PENDING_TEXT] * 2)
    whole(completed / both, 20, [COMPLETE_TEXT] * 2, DONE % (2, 2))
    torn(scheduled / new, 30, 400)  # a POST that it had not answered
    whole(completed / done, 40, [COMPLETE_TEXT], DONE % (1, 1))
    (scheduled / "README").write_text("not an assignment")
    for number in (0, 20, 21):
        place(tmp_path, number)
    temporary = tmp_path / "manta" / "rebalancer"
    temporary.mkdir()
    (temporary / f"{OWNER}.{uuid(1)}.7").write_bytes(BYTES[:3])
    (temporary / "notes").write_text("a person's")

    async with open_rig(tmp_path, source) as rig:
        assert [await rig.finish(name) for name in (half, both)] == [[], []]
        (failed,) = await rig.finish(odd)
        kept = (await rig.stats(done))["state"]
        unknown = await rig.client.get(f"/assignments/{new}")
        deleted = await rig.client.delete(f"/assignments/{done}")
        assert fetched(rig) == [uuid(1), uuid(2), uuid(11)]
        assert [path.name for path in rig.temporary] == ["notes"]

    assert (failed["object_id"], failed["status"]) == (uuid(12), {"Failed": "MD5Mismatch"})
    assert (kept, unknown.status_code, deleted.status_code) == ({"Complete": None}, 404, 200)
    assert [path.name for path in scheduled.iterdir()] == ["README"]
    assert sorted(path.name for path in completed.iterdir()) == sorted([half, both, odd])
    assert (tmp_path / "state" / "quarantine" / new).exists()


@pytest.mark.parametrize("name", ["-journal", "-wal"])
async def test_what_a_killed_writer_left_beside_a_result_does_not_undo_ours(
    tmp_path: Path, name: str
) -> None:
    """A journal of the torn result, played back into the whole one, would make it none."""
    scheduled, completed = folders(tmp_path)
    whole(scheduled / uuid(60), 0, [PENDING_TEXT] * 2)
    torn(completed / uuid(60), 0, 400)
    if name == "-wal":
        os.rename(f"{completed / uuid(60)}-journal", f"{completed / uuid(60)}-wal")

    async with open_rig(tmp_path, source) as rig:
        assert await rig.finish(uuid(60)) == []
    assert [path.name for path in completed.iterdir()] == [uuid(60)]
    assert {one.status for one in read(completed / uuid(60)).tasks} == {COMPLETE}


def select(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


@pytest.mark.parametrize("write", [whole, None], ids=["its own", "ours"])
async def test_the_rust_agent_put_back_reads_what_is_left(
    tmp_path: Path, write: Callable[..., None] | None
) -> None:
    """Stopped half way: the columns are its own, JSON is in BLOBs, and the stats have zeros."""
    scheduled, _ = folders(tmp_path)
    path = scheduled / uuid(60)
    if write is not None:
        write(path, 0, [PENDING_TEXT] * 3)

    def one_answers(_request: int, path: str) -> Answer:
        return Answer(ok(BYTES)) if path.endswith(uuid(0)) else Answer(b"", hang=True)

    async with open_rig(tmp_path, one_answers) as rig:
        if write is None:
            await rig.post([task(number, BYTES) for number in range(3)], uuid(60))
        with trio.fail_after(20):
            while (COMPLETE_TEXT,) not in select(path, "select status from tasks"):  # noqa: ASYNC110
                await trio.sleep(0.01)

    assert list(scheduled.iterdir()) == [path]
    for _, status in (rows := select(path, "select object_id, status from tasks")):
        assert isinstance(status, bytes)
        deployed_status(status)
    assert {status for _, status in rows} == {PENDING_TEXT, COMPLETE_TEXT}
    assert select(path, "select stats from stats") == [(WAITING % 3,)]
    assert select(path, "pragma journal_mode") == [("delete",)]
    assert {one.status for one in read(path).tasks} == {COMPLETE, PENDING}


def test_the_largest_assignment_of_a_rust_manager_is_read(tmp_path: Path) -> None:
    """7,280 tasks, above which its own agent ends."""
    scheduled, _ = folders(tmp_path)
    whole(scheduled / uuid(60), 0, [PENDING_TEXT] * 7280)

    assert len(read(scheduled / uuid(60)).tasks) == 7280
