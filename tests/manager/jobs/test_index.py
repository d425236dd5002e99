"""The list of jobs outlives whatever becomes of its file; and one bad file hides no other."""

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebalancer.domain.states import JobEvent, JobState, Words
from rebalancer.errors import StoreError, Unavailable
from rebalancer.manager.jobs.index import JobIndex, open_index
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import job_file, views
from rebalancer.manager.store.job_store import open_store
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.store.test_migrations import names
from tests.manager.world import ORIGIN

IDS = [f"{n}{n}{n}{n}{n}{n}{n}{n}-1111-4111-8111-111111111111" for n in range(1, 4)]
PARAMS = {"from_shark": ORIGIN.manta_storage_id, "max_objects": 7}


def ask(path: Path, query: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(query)


async def make_jobs(folder: Path) -> list[JobRow]:
    """One that is complete, one that runs and one that is paused."""
    async with open_index(folder / "rebalancer.sqlite") as index:
        for job_id in IDS:
            job_file.create(folder / f"{job_id}.sqlite", ORIGIN)
            await index.add(job_id, "evacuate", PARAMS)
            await index.advance(job_id, JobEvent.STARTED)
        await index.advance(IDS[0], JobEvent.FINISHED)
        await index.set_params(IDS[1], {**PARAMS, "tuning": {"max_metadata_update_threads": 3}})
        await index.advance(IDS[2], JobEvent.PAUSED)
        await index.advance(IDS[2], JobEvent.RESTED)
        return await index.all()


async def listed(folder: Path) -> list[JobRow]:
    async with open_index(folder / "rebalancer.sqlite") as index:
        return await index.all()


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_text("no database " * 1000)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def drop_table(path: Path) -> None:
    ask(path, "DROP TABLE jobs")
    ask(path, "PRAGMA user_version=0")


def drop_column(path: Path) -> None:
    ask(path, "ALTER TABLE jobs RENAME COLUMN params TO something")


@pytest.mark.parametrize("spoil", [lose, empty, garble, tear, drop_table, drop_column])
async def test_a_lost_list_is_made_anew_from_the_jobs_files(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    """As it was, with states, wishes and what was asked for; a broken one is kept aside."""
    jobs = await make_jobs(tmp_path)
    path = tmp_path / "rebalancer.sqlite"
    spoil(path)

    assert await listed(tmp_path) == jobs
    assert await listed(tmp_path) == jobs
    aside = [name for name in names(tmp_path) if name.startswith("rebalancer.sqlite.broken-")]
    assert len(aside) == (spoil in (garble, tear, drop_column))


async def test_of_a_file_without_a_note_a_failed_job_is_made(tmp_path: Path) -> None:
    """One of an earlier version, and one that is no database at all: each says so."""
    for job_id in IDS[:2]:
        job_file.create(tmp_path / f"{job_id}.sqlite", ORIGIN)
    (tmp_path / f"{IDS[2]}.sqlite").write_text("no database " * 1000)

    jobs = {job.id: job for job in await listed(tmp_path)}
    assert sorted(jobs) == IDS
    assert {job.state for job in jobs.values()} == {JobState.FAILED}
    assert jobs[IDS[0]].params == {"from_shark": ORIGIN.manta_storage_id}
    assert "does not say what became of it" in str(jobs[IDS[0]].error)
    assert "file is not a database" in str(jobs[IDS[2]].error)


BAD_ROWS = [
    "params = 'no JSON'",
    "params = '[]'",
    "params = '{}'",
    "params = CAST(x'ff' AS TEXT)",
    "action = x'ff00'",
    "created = x'05'",
    "error = x'00'",
]


@pytest.mark.parametrize("change", BAD_ROWS)
async def test_a_bad_row_is_mended_by_the_jobs_file(change: str, tmp_path: Path) -> None:
    """Or shown with what is wrong, if that does not know; the others are as they were."""
    jobs = await make_jobs(tmp_path)
    path = tmp_path / "rebalancer.sqlite"
    ask(path, f"UPDATE jobs SET {change} WHERE id = '{IDS[1]}'")
    assert await listed(tmp_path) == jobs

    ask(path, f"UPDATE jobs SET {change} WHERE id = '{IDS[1]}'")
    (tmp_path / f"{IDS[1]}.sqlite").unlink()
    async with open_index(path) as index:
        first, bad, last = await index.all()
        assert [first, last] == [jobs[0], jobs[2]]
        assert bad.is_broken
        assert "this row of the list of jobs cannot be used" in str(bad.error)
        assert [job.id for job in await index.unfinished()] == [IDS[2]]
        await index.remove(IDS[1])
        assert await index.all() == [jobs[0], jobs[2]]


async def test_a_request_does_not_wait_for_the_list_for_long(tmp_path: Path) -> None:
    """It is told to ask again, and nothing is changed; what a job itself writes waits on."""
    await make_jobs(tmp_path)
    path = tmp_path / "rebalancer.sqlite"
    async with open_index(path) as index:
        hurried = JobIndex(index._database, 0.6)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(index.advance, IDS[1], JobEvent.BROKE, "why")
                with pytest.raises(Unavailable, match=r"list of jobs cannot be used now.*locked"):
                    await hurried.advance(IDS[1], JobEvent.CANCELLED)
                other.execute("COMMIT")
        row = await index.get(IDS[1])
        assert row is not None
        assert (row.words, row.error) == (Words("failed", None), "why")


async def test_a_locked_file_of_a_job_does_not_keep_the_list_from_changing(
    tmp_path: Path,
) -> None:
    """The note in it is written at the next start."""
    await make_jobs(tmp_path)
    file = tmp_path / f"{IDS[1]}.sqlite"
    async with open_index(tmp_path / "rebalancer.sqlite") as index:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await index.advance(IDS[1], JobEvent.FINISHED)
    noted = job_file.read_note(file)
    assert noted is not None
    assert noted["state"] == "running"
    await listed(tmp_path)
    noted = job_file.read_note(file)
    assert noted is not None
    assert noted["state"] == "complete"


ROUTES = ("", "/summary", "/objects", "/report")


def spoil_values(path: Path) -> None:
    for statement in (
        "INSERT INTO counters VALUES ('skipped', 'x', 'many', x'00')",
        "UPDATE config SET from_shark = '[1]'",
    ):
        ask(path, statement)


@pytest.mark.parametrize("spoil", [lose, empty, garble, tear, drop_column, spoil_values])
async def test_a_job_whose_file_is_no_good_is_shown_with_the_reason(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By what the list says of it; no request ends in a traceback, and no other job suffers."""
    async with open_rig(tmp_path) as rig:
        folder, index = tmp_path / "db", rig.jobs.index
        async with rig.jobs.state_lock:
            for job_id in IDS[:2]:
                job_file.create(folder / f"{job_id}.sqlite", ORIGIN)
                await index.add(job_id, "evacuate", PARAMS)
                await index.advance(job_id, JobEvent.PAUSED)
        file = folder / f"{IDS[0]}.sqlite"
        if spoil is drop_column:
            ask(file, "DROP TABLE counters")
        else:
            spoil(file)

        shown = [await rig.client.get(f"/jobs/{IDS[0]}{route}") for route in ROUTES]
        others = [await rig.client.get(f"/jobs/{IDS[1]}{route}") for route in ROUTES]
        everything = await (await rig.client.get("/jobs")).get_json()

        view = await shown[0].get_json()
        assert shown[0].status_code == 200
        assert view["state"] == "Stopped"
        assert str(file) in view["error"]
        assert shown[1].status_code == 200
        text = await shown[3].get_data(as_text=True)
        assert shown[3].status_code == 500
        assert str(file) in text
        assert {reply.status_code for reply in others} == {200}
        assert [job["id"] for job in everything] == IDS[:2]


async def when_ended(rig: Rig, job_id: str) -> Any:
    with trio.fail_after(60):
        while True:
            view = await (await rig.client.get(f"/jobs/{job_id}")).get_json()
            if view["state"] not in ("Setup", "Running"):
                return view
            await trio.sleep(0.05)


@pytest.mark.parametrize("spoil", [lose, empty, garble])
async def test_a_job_without_its_file_fails_and_is_not_begun_anew(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    """With the file named as the cause."""
    async with open_rig(tmp_path) as rig:
        file = tmp_path / "db" / f"{IDS[0]}.sqlite"
        job_file.create(file, ORIGIN)
        await rig.jobs.index.add(IDS[0], "evacuate", PARAMS)
        spoil(file)
        rig.jobs.scheduler.wake()
        view = await when_ended(rig, IDS[0])
        assert view["state"] == "Failed"
        assert str(file) in view["error"]
        assert file.exists() == (spoil is not lose)


# --- any bytes at all ------------------------------------------------------------------------


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with some bytes changed, cut off, doubled, or made up."""
    data = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(20_000))
    if kind == 1:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice([1, 3, 50, 2000])):
        at = rng.randrange(len(data))
        data[at] = rng.randrange(256)
    if kind == 2:
        at = rng.randrange(len(data))
        data[at : at + 500] = rng.randbytes(500)
    return bytes(data)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(seed=st.integers(0, 1 << 40))
def test_no_content_of_the_files_ends_the_manager(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """The list opens with what can be saved; each job is shown, or refused with its file's name."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("state")

    async def run() -> None:
        await make_jobs(folder)
        for name in ("rebalancer", IDS[0], IDS[1]):
            if rng.random() < 0.7:
                path = folder / f"{name}.sqlite"
                path.write_bytes(mutated(path.read_bytes(), rng))
        try:
            jobs = await listed(folder)
        except StoreError as exc:  # a version that is newer, by chance
            assert "newer version" in str(exc) or "rebalancer.sqlite" in str(exc)
            return
        json.dumps([job.state_shown for job in jobs])
        for job_id in IDS:
            path = folder / f"{job_id}.sqlite"
            for look in (
                lambda path: views.read_job(path),
                lambda path: views.objects_page(path, None, None, 0, 10),
                lambda path: [views.report_page(path, kind, 0) for kind in views.REPORT],
            ):
                try:
                    look(path)
                except StoreError as exc:
                    assert str(path) in str(exc)
            try:
                async with open_store(path, must_exist=True):
                    pass
            except StoreError as exc:
                assert str(path) in str(exc)

    trio.run(run)


async def test_the_list_can_be_made_where_there_was_none(tmp_path: Path) -> None:
    """The first start of a manager says nothing of lost lists."""
    assert await listed(tmp_path / "db") == []
    assert names(tmp_path / "db") == ["rebalancer.sqlite"]
