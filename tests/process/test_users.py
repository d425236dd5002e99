"""Users and a front end that change objects while a job moves them, found in clones."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.frontend import LATE, leak
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.region import running
from rebalancer_devregion.writer import (
    BY_USERS,
    STALE_RECORDS,
    Change,
    Changed,
    change_objects,
    read_journal,
)
from tests.conftest import require
from tests.process.regions import PATIENCE_S, Api, json_lines, new_region

pytestmark = pytest.mark.process

OBJECTS = 400


@attrs.frozen
class Busy:
    """A region after its job, with the journal of its users."""

    layout: Layout
    job_file: Path
    view: dict[str, Any]
    changes: dict[tuple[int, str], Changed]
    #: (position, until) of each scan when the manager was killed.
    killed_at: list[tuple[int, int]]
    log: Path

    def change(self, kind: Change) -> Changed:
        return next(c for c in self.changes.values() if c.kind is kind)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"{self.job_file.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(statement).fetchall()

    def read(self, change: Changed) -> Any:
        with closing(sqlite3.connect(self.layout.shard_file(change.shard))) as db:
            select = "SELECT _value FROM manta WHERE _key = ?"
            return json.loads(db.execute(select, (change.key,)).fetchone()[0])

    def write(self, change: Changed, value: object) -> None:
        with closing(sqlite3.connect(self.layout.shard_file(change.shard))) as db, db:
            db.execute(
                "INSERT INTO manta (_key, _value, _etag) VALUES (?1, ?2, 'X')"
                " ON CONFLICT (_key) DO UPDATE SET _value = ?2",
                (change.key, json.dumps(value)),
            )


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Busy:
    require("initdb")
    return trio.run(_evacuate, tmp_path_factory.mktemp("busy"))


async def _evacuate(folder: Path) -> Busy:
    options = {"md_read_chunk_size": 20, "max_tasks_per_assignment": 10}
    region = await trio.to_thread.run_sync(
        lambda: new_region(folder, OBJECTS, clones=True, options=options)
    )
    async with running(region), httpx.AsyncClient() as client, trio.open_nursery() as users:
        users.start_soon(change_objects, region.layout, 0.25, 0.01)
        users.start_soon(leak, region.layout)
        api = Api(client, region)
        job_id = await api.create()
        job_file = region.job_file(job_id)
        with trio.fail_after(PATIENCE_S):
            while not (scans := _scans(job_file)) or scans[0][0] < 40:  # noqa: ASYNC110
                await trio.sleep(0.005)
        region.manager.kill()
        killed_at = _scans(job_file)
        await region.manager.start()
        view = await api.finish(job_id)
    changes, _ = read_journal(region.layout.journal_file)
    return Busy(region.layout, job_file, view, changes, killed_at, region.manager.log)


def _scans(job_file: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(f"{job_file.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute("SELECT position, until FROM scans WHERE id_column = '_id'").fetchall()


@pytest.mark.row("N33", "DEF-2")
def test_every_invariant_holds(busy: Busy) -> None:
    """Whatever users did, and with the manager killed within its scans."""
    assert busy.view["state"] == "Complete"
    assert busy.view["warnings"] == []
    offenders = [text for check in audit(busy.layout, busy.job_file).checks
                 for text in check.offenders]  # fmt: skip
    assert offenders == []


def test_the_kill_was_within_a_scan_that_went_on(busy: Busy) -> None:
    """Not from the beginning: what had been stored was not looked for again."""
    assert any(position < until for position, until in busy.killed_at)
    assert all(position == until for position, until in _scans(busy.job_file))
    (resumed,) = [line for line in json_lines(busy.log) if line.get("resumed")]
    assert resumed["msg"] == "job"


def test_users_did_everything(busy: Busy) -> None:
    """A quarter of the objects, in equal parts; and the front end did all that it does."""
    kinds = Counter(c.kind for c in busy.changes.values())
    shards = len(busy.layout.shards)
    assert kinds == {
        **dict.fromkeys(BY_USERS, OBJECTS // 16),
        Change.STALE: STALE_RECORDS,
        Change.LATE: LATE * shards,
        Change.OPEN: shards,
    }


def test_what_reached_the_shark_late_was_moved_too(busy: Busy) -> None:
    """By a final scan: nothing of it was in the clones.  Open uploads are listed."""
    begun = busy.query("SELECT started FROM rounds ORDER BY round DESC LIMIT 1")[0][0]
    last_look = datetime.fromisoformat(begun).timestamp()
    in_time = [c for c in busy.changes.values() if c.at < last_look]
    moved = [c for c in in_time if c.kind in (Change.STALE, Change.LATE)]
    assert {c.kind for c in moved} == {Change.STALE, Change.LATE}
    for change in moved:
        assert busy.layout.evacuated not in json.dumps(busy.read(change)), change.key
    (found,) = busy.query("SELECT sum(found) FROM rounds")[0]
    assert found >= len(moved)
    uploads = busy.query("SELECT key FROM remaining WHERE why = 'upload_in_progress'")
    opened = {c.key for c in busy.changes.values() if c.kind is Change.OPEN}
    assert {key for (key,) in uploads} == opened


def test_a_record_that_was_put_back_is_moved_to_the_copy_it_had(busy: Busy) -> None:
    """Its agent found the copy there, so no object was copied to two places."""
    assert busy.query("SELECT * FROM orphans WHERE reason = 'its record was put back'") == []


def come_back(busy: Busy) -> None:
    deleted = busy.change(Change.DELETE)
    busy.write(deleted, deleted.replaced)


def undo_an_overwrite(busy: Busy) -> None:
    changed = busy.change(Change.OVERWRITE)
    busy.write(changed, changed.replaced)


def put_back_what_was_moved(busy: Busy) -> None:
    stale = busy.change(Change.STALE)
    busy.write(stale, stale.value)


def lose_a_late_object(busy: Busy) -> None:
    late = busy.change(Change.LATE)
    assert late.value is not None
    busy.write(late, {**late.value, "sharks": []})


def close_an_upload(busy: Busy) -> None:
    upload = busy.change(Change.OPEN)
    assert upload.value is not None
    busy.write(upload, {**upload.value, "upload": {}})


def lose_a_touch(busy: Busy) -> None:
    touched = busy.change(Change.TOUCH)
    assert touched.value is not None
    busy.write(touched, {**touched.value, "headers": {}})


@pytest.mark.parametrize(
    "break_it",
    [
        come_back,
        undo_an_overwrite,
        lose_a_touch,
        put_back_what_was_moved,
        lose_a_late_object,
        close_an_upload,
    ],
)
def test_the_audit_sees_a_lost_change(busy: Busy, break_it: Callable[[Busy], None]) -> None:
    """Were a user's change lost to the job's, the audit would say so."""
    originals = {
        number: busy.layout.shard_file(number).read_bytes() for number in busy.layout.shards
    }
    try:
        break_it(busy)
        assert not audit(busy.layout, busy.job_file).ok
    finally:
        for number, content in originals.items():
            busy.layout.shard_file(number).write_bytes(content)
    assert audit(busy.layout, busy.job_file).ok
