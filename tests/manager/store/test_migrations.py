"""State files of every earlier version become files of the newest, whole or not at all.

The files in `tests/data/state` were written by the program as it was then.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from rebalancer.errors import StoreError
from rebalancer.layout import Layout, run_script
from rebalancer.manager.jobs.index import open_index
from rebalancer.manager.store import assignments, job_file, job_info, views
from rebalancer.manager.store.job_store import open_store
from rebalancer.manager.store.schema import INDEX, JOB_FILE
from rebalancer.sqlite import connect, prepare
from tests.manager.store.test_store import check_counters, opened
from tests.manager.world import ORIGIN

DATA = Path(__file__).parents[2] / "data" / "state"
#: Of the deployed table, which every version shows.
COLUMNS = "id, assignment_id, object, shard, dest_shark, etag, status, skipped_reason, error"
JOBS = ("job-1-first", "job-1", "job-2")


def kept(name: str, path: Path) -> Path:
    """A file as an earlier version left it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript((DATA / f"{name}.sql").read_text())
    return path


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def shape(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table, view and index with its columns, every trigger with its text."""
    with closing(sqlite3.connect(path)) as db:
        names = db.execute("SELECT name, type, sql FROM sqlite_master ORDER BY name").fetchall()
        columns = {
            name: db.execute(f"PRAGMA table_xinfo({name})").fetchall()
            for name, kind, _ in names
            if kind in ("table", "view")
        }
        texts = {name: [(text,)] for name, kind, text in names if kind == "trigger"}
        indexes = {name: db.execute(f"PRAGMA index_info({name})").fetchall()
                   for name, kind, _ in names if kind == "index"}  # fmt: skip
        return {**columns, **texts, **indexes}


@pytest.mark.parametrize("name", JOBS)
async def test_a_job_of_an_earlier_version_goes_on(name: str, tmp_path: Path) -> None:
    """Every row is as it was, the counts are the rows, and the file is like a new one."""
    path = kept(name, tmp_path / "job.sqlite")
    query = f"SELECT {COLUMNS}, key, bytes, attempts, outcome, detail FROM evacuateobjects"
    order = " ORDER BY evacuateobjects.rowid" if name != "job-2" else " ORDER BY number"
    rows, known = ask(path, query + order), ask(path, "SELECT id, state FROM assignments")

    async with opened(path) as job:
        check_counters(job)
        left = await job.read(assignments.read_open)
        origin = await job.read(job_info.read_origin)

    job_file.create(tmp_path / "new.sqlite", ORIGIN)
    moved = {row[0]: row for row in ask(path, query)}
    # What waits loses its last assignment at every start.
    expected = {
        row[0]: (row[0], None, *row[2:]) if row[6] == "unprocessed" else row for row in rows
    }
    assert moved == expected
    assert [row[0] for row in ask(path, query + " ORDER BY number")] == list(expected)
    assert ask(path, "SELECT id, state FROM assignments") == known
    assert len(left) == 3
    assert origin == ORIGIN
    assert shape(path) == shape(tmp_path / "new.sqlite")
    assert ask(path, "PRAGMA user_version") == [(JOB_FILE.newest,)]


@pytest.mark.parametrize("name", JOBS)
def test_an_ended_job_of_an_earlier_version_is_shown(name: str, tmp_path: Path) -> None:
    """By whoever looks first: nobody runs it any more."""
    path = kept(name, tmp_path / "job.sqlite")
    (count,) = ask(path, "SELECT count(*) FROM evacuateobjects")[0]

    page = views.objects_page(path, None, None, 0, 1000)
    known = views.read_job(path)

    assert len(page.objects) == known.status.total == count
    assert known.origin == ORIGIN
    assert {one["shark"] for one in known.destinations} == {"3.stor.lab"}


@pytest.mark.parametrize("name", ["index-1", "index-2"])
async def test_a_list_of_jobs_of_an_earlier_version_is_taken_over(
    name: str, tmp_path: Path
) -> None:
    """With every job in it, as it was."""
    path = kept(name, tmp_path / "rebalancer.sqlite")
    rows = ask(path, "SELECT id, action, state, created, started, finished, error FROM jobs")
    for job_id, *_ in rows:
        job_file.create(tmp_path / f"{job_id}.sqlite", ORIGIN)

    async with open_index(path) as index:
        jobs = await index.all()

    shown = [
        (j.id, j.action, j.words.state, j.created, j.started, j.finished, j.error) for j in jobs
    ]
    assert shown == rows
    assert [job.words.wish for job in jobs] == [None, None, "pause" if name == "index-2" else None]
    assert ask(path, "PRAGMA user_version") == [(INDEX.newest,)]


class Died(Exception):
    """Stands for kill -9."""


def dying_after(step: int, layout: Layout) -> Layout:
    def die(run: Callable[[sqlite3.Connection], None]) -> Callable[[sqlite3.Connection], None]:
        def last(db: sqlite3.Connection) -> None:
            run(db)
            raise Died

        return last

    steps = list(layout.steps)
    steps[step] = die(steps[step])
    return attrs.evolve(layout, steps=tuple(steps))


@pytest.mark.parametrize("step", range(len(JOB_FILE.steps)))
async def test_a_step_that_is_cut_off_leaves_the_file_as_it_was(step: int, tmp_path: Path) -> None:
    """And the next start takes it."""
    path = kept("job-1", tmp_path / "job.sqlite")
    before = shape(path)
    with closing(connect(path)) as db, pytest.raises(Died):
        prepare(db, path, dying_after(step, JOB_FILE))
    assert shape(path) == before
    assert ask(path, "PRAGMA user_version") == [(0,)]
    async with opened(path) as job:
        check_counters(job)


def open_view(path: Path) -> None:
    views.read_job(path)


def make(path: Path) -> None:
    job_file.create(path, ORIGIN)


@pytest.mark.parametrize("use", [open_view, make])
async def test_a_job_of_a_newer_version_is_refused(
    use: Callable[[Path], None], tmp_path: Path
) -> None:
    """By name, with what to do, whoever uses it; nothing in it is touched."""
    path = tmp_path / "job.sqlite"
    make(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={JOB_FILE.newest + 1}")
    before = path.read_bytes()
    expected = rf"{path} is a job's file of version 4, made by a newer version .* install that"

    with pytest.raises(StoreError, match=expected):
        use(path)
    with pytest.raises(StoreError, match=expected):
        async with opened(path):
            pass
    assert path.read_bytes() == before


async def test_a_list_of_jobs_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """It is neither moved away nor made anew from the jobs' files."""
    path = tmp_path / "rebalancer.sqlite"
    async with open_index(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={INDEX.newest + 1}")
    with pytest.raises(
        StoreError, match=rf"{path} is a list of jobs of version 3, made by a newer"
    ):
        async with open_index(path):
            pass
    assert names(tmp_path) == ["rebalancer.sqlite"]


@pytest.mark.parametrize("content", [None, b""])
async def test_a_file_that_must_be_there_is_not_made(content: bytes | None, tmp_path: Path) -> None:
    """A missing or empty one is named."""
    path = tmp_path / "job.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)):
        async with open_store(path, must_exist=True):
            pass
    assert path.exists() == (content is not None)


@pytest.mark.parametrize(
    ("layout", "name"), [(JOB_FILE, "layout-job-3.sql"), (INDEX, "layout-index-2.sql")]
)
def test_the_layout_of_new_files_is_frozen(layout: Layout, name: str) -> None:
    """A changed script would make files that no step leads to: a new layout takes a new step."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        run_script(db, layout.script)
        rows = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        made = "".join(f"{sql};\n" for (sql,) in rows)
    assert made == (DATA / name).read_text()


def test_a_new_file_takes_the_steps_behind_its_script() -> None:
    """Nor does it take the steps before: the script has done what they do."""

    def never(_db: sqlite3.Connection) -> None:
        raise AssertionError

    def add(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE a ADD COLUMN c")

    layout = Layout("a file", "CREATE TABLE a (b);", (never, add), script_version=2)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        layout.bring_up(db)
        assert [row[1] for row in db.execute("PRAGMA table_info(a)")] == ["b", "c"]
        assert layout.is_newest(db)
