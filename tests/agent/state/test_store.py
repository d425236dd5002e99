"""Assignments on disk: the deployed agent's layout, written and read by plain sqlite3."""

import errno
import json
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rebalancer.agent.state.cursor import Cursor
from rebalancer.agent.state.posted import Posted
from rebalancer.agent.state.reading import read
from rebalancer.agent.state.statefile import BrokenFile, StoredAssignment
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import (
    COMPLETE,
    PENDING,
    Assignment,
    Dialect,
    ReportedState,
    Task,
    TaskStatus,
    failed,
    status_to_wire,
)
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.errors import Conflict, Forbidden, NotFound, StoreError

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
MD5 = "L9NrIZXTY37AYVZN9+gZ7w=="
SOURCE = Shark("dc1", "2.stor.lab")


def uuid(number: int) -> str:
    return f"00000000-0000-1000-8000-{number:012d}"


def assignment(name: str = ID, tasks: int = 3) -> Assignment:
    made = tuple(Task(uuid(number), uuid(99), MD5, SOURCE) for number in range(tasks, 0, -1))
    return Assignment(name, made)


@pytest.fixture
def store(tmp_path: Path) -> AssignmentStore:
    made = AssignmentStore(tmp_path / "state")
    made.prepare()
    return made


def legacy_file(path: Path, statuses: Sequence[Any], state: Any = "Scheduled") -> None:
    """A file as the deployed agent leaves it: JSON as BLOBs, stats of when it was received."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "create table if not exists tasks (object_id text primary key not null unique,"
            " owner text not null, md5sum text not null, datacenter text not null,"
            " manta_storage_id text not null, status text not null)"
        )
        db.execute("create table if not exists stats (stats text not null)")
        for number, status in enumerate(statuses):
            text = json.dumps(status).encode()
            row = (uuid(number), uuid(99), MD5, "dc1", "2.stor.lab", text)
            db.execute("insert into tasks values (?, ?, ?, ?, ?, ?)", row)
        stats = {"state": state, "failed": 0, "complete": 0, "total": len(statuses)}
        db.execute("insert into stats values (?)", (json.dumps(stats).encode(),))


def written(
    store: AssignmentStore, stored: StoredAssignment, statuses: Mapping[str, TaskStatus]
) -> StoredAssignment:
    """With statuses of objects, on disk."""
    updated = stored.updated(statuses)
    assert store.write([updated]) == [None]
    return updated


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_a_saved_assignment_has_the_deployed_layout(store: AssignmentStore) -> None:
    """File by the id, tasks in the order posted, JSON of the legacy dialect as BLOBs."""
    store.save(Posted.of(assignment(), Dialect.TAGGED))
    path = store.folder / "scheduled" / ID

    columns = [(name, kind) for _, name, kind, *_ in rows(path, "pragma table_info(tasks)")]
    assert columns == [
        ("object_id", "TEXT"),
        ("owner", "TEXT"),
        ("md5sum", "TEXT"),
        ("datacenter", "TEXT"),
        ("manta_storage_id", "TEXT"),
        ("status", "TEXT"),
    ]
    assert rows(path, "select * from tasks order by rowid") == [
        (uuid(number), uuid(99), MD5, "dc1", "2.stor.lab", b'"Pending"') for number in (3, 2, 1)
    ]
    ((stats,),) = rows(path, "select stats from stats")
    assert json.loads(stats) == {"state": "Scheduled", "failed": 0, "complete": 0, "total": 3}
    assert isinstance(stats, bytes)
    assert list((store.folder / "saving").iterdir()) == []


@pytest.mark.row("A10", "TEST-TYPES-1")
def test_progress_and_the_end_are_in_the_deployed_layout(store: AssignmentStore) -> None:
    """Statuses as they come; at the end the stats with the failed tasks, in `completed`."""
    store.save(Posted.of(assignment(), Dialect.LEGACY))
    stored, _ = store.load(ID)
    failure = failed(reasons.MD5_MISMATCH)
    stored = written(store, stored, {uuid(3): COMPLETE, uuid(1): failure})
    scheduled = rows(store.scheduled / ID, "select object_id, status from tasks order by rowid")
    written(store, stored, {uuid(2): failed(reasons.http_status_code(404))})

    assert scheduled == [
        (uuid(3), b'"Complete"'),
        (uuid(2), b'"Pending"'),
        (uuid(1), b'{"Failed":"MD5Mismatch"}'),
    ]
    assert list(store.scheduled.iterdir()) == []
    ((stats,),) = rows(store.completed / ID, "select stats from stats")
    told = json.loads(stats)
    failures = {task["object_id"]: task["status"] for task in told["state"]["Complete"]}
    assert (told["failed"], told["complete"], told["total"]) == (2, 3, 3)
    assert failures == {
        uuid(2): {"Failed": {"HTTPStatusCode": 404}},
        uuid(1): {"Failed": "MD5Mismatch"},
    }


@pytest.mark.row("CRIT-6", "TEST-TYPES-1")
def test_a_file_of_the_deployed_agent_is_read(store: AssignmentStore) -> None:
    """Half of its tasks done: they stay done, the others are to do."""
    statuses = ["Complete", "Pending", {"Failed": {"HTTPStatusCode": 503}}, {"Failed": "NewOne"}]
    legacy_file(store.scheduled / ID, statuses)
    stored, finished = store.load(ID)
    report = stored.report(ReportedState.SCHEDULED)

    assert not finished
    assert [status_to_wire(t.status, Dialect.LEGACY) for t in stored.tasks] == statuses
    assert store.unfinished(5) == ([ID], 1)
    assert stored.dialect is Dialect.LEGACY
    assert (report.stats.state, report.stats.complete, report.stats.failed) == ("Scheduled", 3, 2)


def test_a_file_of_the_deployed_agent_is_finished_in_its_layout(store: AssignmentStore) -> None:
    """No table but its two, so that the deployed agent reads it again."""
    legacy_file(store.scheduled / ID, ["Complete", "Pending"])
    stored, _ = store.load(ID)
    written(store, stored, {uuid(1): COMPLETE})

    assert rows(store.completed / ID, "select name from sqlite_master where type = 'table'") == [
        ("tasks",),
        ("stats",),
    ]
    ((stats,),) = rows(store.completed / ID, "select stats from stats")
    assert json.loads(stats)["state"] == {"Complete": None}


def test_text_is_read_like_blobs(store: AssignmentStore) -> None:
    """Somebody edited the file by hand."""
    legacy_file(store.scheduled / ID, ["Complete", "Pending"])
    with closing(sqlite3.connect(store.scheduled / ID)) as db, db:
        db.execute("update tasks set status = '\"Complete\"'")

    assert store.load(ID)[0].report(ReportedState.RUNNING).stats.complete == 2


@pytest.mark.row("N9")
def test_complete_is_what_the_rows_say(store: AssignmentStore) -> None:
    """A file in `completed` with a pending task does not count as complete."""
    legacy_file(store.completed / ID, ["Complete", "Pending"], {"Complete": None})
    stored, finished = store.load(ID)

    assert finished
    assert stored.report(ReportedState.COMPLETE).stats.failures is None


@pytest.mark.row("TEST-AGENT-5")
@pytest.mark.parametrize("folder", ["scheduled", "completed"])
def test_an_id_is_saved_once(store: AssignmentStore, folder: str) -> None:
    """Known in any state, in any case of letters: a conflict, and the first stays."""
    legacy_file(store.folder / folder / ID, ["Complete"])
    before = (store.folder / folder / ID).read_bytes()

    with pytest.raises(Conflict, match="known already"):
        store.save(Posted.of(assignment(ID.upper()), Dialect.LEGACY))
    assert (store.folder / folder / ID).read_bytes() == before


@pytest.mark.row("TEST-AGENT-6")
def test_only_the_completed_can_be_deleted(store: AssignmentStore) -> None:
    """Scheduled: forbidden.  Unknown: not found."""
    legacy_file(store.completed / ID, ["Complete"])
    legacy_file(store.scheduled / uuid(5), ["Pending"])
    store.delete(ID.upper())

    with pytest.raises(Forbidden):
        store.delete(uuid(5))
    with pytest.raises(NotFound):
        store.delete(ID)
    assert store.find(ID) is None


def test_an_assignment_is_known_at_every_moment(store: AssignmentStore) -> None:
    """Also while it moves: who asks just then must not be told that it is lost."""
    names = [uuid(number) for number in range(400)]
    for name in names:
        (store.scheduled / name).write_text("")
    moved, lost = threading.Event(), set[str]()

    def look() -> None:
        while not moved.is_set():
            lost.update(name for name in names if store.find(name) is None)

    watcher = threading.Thread(target=look)
    watcher.start()
    for name in names:
        os.rename(store.scheduled / name, store.completed / name)
        time.sleep(0.001)
    moved.set()
    watcher.join()
    assert lost == set()


def test_looking_at_a_file_never_makes_one(store: AssignmentStore) -> None:
    """A reader that comes a moment after the file was moved leaves nothing behind."""
    with pytest.raises(StoreError):
        read(store.scheduled / ID)
    assert list(store.scheduled.iterdir()) == []


@pytest.mark.row("A13")
@pytest.mark.parametrize(
    "content",
    [b"", b"no database" * 500, b"SQLite format 3\x00" + b"\xff" * 5000],
    ids=["empty", "text", "torn"],
)
def test_what_is_no_assignment_is_told_and_set_aside(
    store: AssignmentStore, content: bytes
) -> None:
    """An error that names the file, which then moves to `quarantine` as it is."""
    (store.scheduled / ID).write_bytes(content)

    with pytest.raises(StoreError, match=ID):
        store.load(ID)
    store.set_aside(ID)
    assert (store.quarantine / ID).read_bytes() == content
    assert store.unfinished(5) == ([], 0)


def test_a_database_of_another_layout_is_no_assignment(store: AssignmentStore) -> None:
    """Tables of the same names are not enough."""
    with closing(sqlite3.connect(store.scheduled / ID)) as db, db:
        db.execute("create table tasks (a, b)")
        db.execute("create table stats (stats)")
        db.execute("insert into tasks values (1, 2)")

    with pytest.raises(StoreError, match="not an assignment"):
        store.load(ID)


def test_what_is_no_plain_file_is_broken(
    store: AssignmentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO would be waited for and a link followed out of the folder; each is set aside."""
    os.mkfifo(store.scheduled / uuid(1))
    (store.scheduled / uuid(2)).mkdir()
    legacy_file(tmp_path / "elsewhere", ["Pending"])
    (store.scheduled / uuid(3)).symlink_to(tmp_path / "elsewhere")
    (store.scheduled / uuid(4)).symlink_to(tmp_path / "nowhere")
    with closing(socket.socket(socket.AF_UNIX)) as unix:
        monkeypatch.chdir(store.scheduled)  # the path of a socket must be short
        unix.bind(uuid(5))

    for number in range(1, 6):
        with pytest.raises(BrokenFile, match="no plain file"):
            store.load(uuid(number))
        assert store.set_aside(uuid(number))
    assert store.unfinished(10) == ([], 0)
    assert len(list(store.quarantine.iterdir())) == 5
    assert (tmp_path / "elsewhere").exists()


def test_nothing_in_quarantine_is_replaced(store: AssignmentStore) -> None:
    """Two broken files of one name are two."""
    for content in (b"first", b"second"):
        (store.scheduled / ID).write_bytes(content)
        assert store.set_aside(ID)
    assert not store.set_aside(ID)
    found = {path.name: path.read_bytes() for path in store.quarantine.iterdir()}
    assert found == {ID: b"first", f"{ID}.1": b"second"}


def lock(path: Path) -> sqlite3.Connection:
    """Write to a file as a person's shell does, without an end."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    db.execute("UPDATE tasks SET status = x'22506f6f7222'")
    return db


def test_a_locked_file_is_not_broken(
    store: AssignmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, cannot be read now, and can be when the lock is gone."""
    legacy_file(store.scheduled / ID, ["Pending"])

    def connect(path: Path, mode: str, *, wal: bool) -> sqlite3.Connection:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=0.01)

    with closing(lock(store.scheduled / ID)) as db:
        monkeypatch.setattr("rebalancer.agent.state.reading.connect", connect)
        with pytest.raises(StoreError, match="cannot be read: database is locked") as caught:
            store.load(ID)
        db.execute("ROLLBACK")
    assert type(caught.value) is StoreError
    assert len(store.load(ID)[0].tasks) == 1


def test_what_a_killed_program_was_changing_is_as_before(store: AssignmentStore) -> None:
    """Its journal is beside the file, and says how that was."""
    legacy_file(store.scheduled / ID, ["Pending"] * 300)
    with closing(sqlite3.connect(store.scheduled / ID, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN")
        db.execute("UPDATE tasks SET status = x'22506f6f7222'")
        for name in (ID, f"{ID}-journal"):
            shutil.copy(store.scheduled / name, store.folder / name)
    assert (store.scheduled / ID).read_bytes() != (store.folder / ID).read_bytes()
    for name in (ID, f"{ID}-journal"):
        shutil.copy(store.folder / name, store.scheduled / name)

    stored, _ = store.load(ID)
    assert {task.status for task in stored.tasks} == {PENDING}


def test_a_file_in_wal_mode_is_read(store: AssignmentStore) -> None:
    """Somebody has looked at it so; what is in its WAL counts."""
    legacy_file(store.scheduled / ID, ["Pending", "Pending"])
    with closing(sqlite3.connect(store.scheduled / ID, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("UPDATE tasks SET status = x'22436f6d706c65746522' WHERE rowid = 1")
        while_open = store.load(ID)[0]
    closed = store.load(ID)[0]

    for stored in (while_open, closed):
        assert [task.status for task in stored.tasks] == [COMPLETE, PENDING]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_read_now_is_not_broken(
    store: AssignmentStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Too many open files, a fault of the disk: of that the content is not to blame."""
    legacy_file(store.scheduled / ID, ["Pending"])
    whole = os.open

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(ID):
            raise OSError(code, os.strerror(code))
        return whole(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(StoreError, match="cannot be read") as caught:
            store.load(ID)
    assert not isinstance(caught.value, BrokenFile)
    assert len(store.load(ID)[0].tasks) == 1


@pytest.mark.parametrize("step", ["_write_file", "sync_paths", "file_image"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("odd"), MemoryError()])
def test_a_save_that_fails_leaves_nothing(
    store: AssignmentStore, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    """Whatever the exception is, and wherever it comes from."""

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"rebalancer.agent.state.store.{step}", fail)
        with pytest.raises((StoreError, type(error))):
            store.save(Posted.of(assignment(), Dialect.LEGACY))
    assert list(store.saving.iterdir()) == list(store.scheduled.iterdir()) == []
    assert store.save(Posted.of(assignment(), Dialect.LEGACY)).id == ID


def test_a_file_that_cannot_be_looked_at_does_not_hide_the_others(
    store: AssignmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In listings of either kind; what must be removed and cannot be, is in nobody's way."""
    for number in (1, 2, 3):
        legacy_file(store.scheduled / uuid(number), ["Pending"])
    (store.saving / "folder").mkdir()
    store.prepare()
    whole = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.entry, self.name = entry, entry.name

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            if self.name == uuid(2):
                raise OSError(errno.EIO, "fault")
            return self.entry.stat(follow_symlinks=follow_symlinks)

    @contextmanager
    def scan(path: Path) -> Iterator[Iterator[Entry]]:
        with whole(path) as found:
            yield map(Entry, found)

    monkeypatch.setattr(os, "scandir", scan)
    assert set(store.unfinished(5)[0]) == {uuid(1), uuid(2), uuid(3)}
    assert {cursor.id for cursor in store.newest(5)} == {uuid(1), uuid(2), uuid(3)}


@pytest.mark.row("N24")
def test_waiting_is_in_the_order_received(store: AssignmentStore) -> None:
    """Progress does not put an assignment behind a later one; foreign files do not count."""
    names = [uuid(number) for number in (7, 3, 5)]
    for at, name in enumerate(names):
        legacy_file(store.scheduled / name, ["Pending", "Pending"])
        os.utime(store.scheduled / name, (1000 + at, 1000 + at))
    stored, _ = store.load(names[0])
    written(store, stored, {uuid(0): COMPLETE})
    (store.scheduled / "notes.txt").write_text("")
    (store.scheduled / f"{uuid(7)}-journal").write_text("")

    assert store.unfinished(5) == (names, 3)
    assert store.unfinished(1, [names[0]]) == ([names[1]], 2)


def test_newest_first_page_by_page(store: AssignmentStore) -> None:
    """Of both folders, no more than asked for, and each once though others come meanwhile."""
    for at, (folder, number) in enumerate([("completed", 1), ("scheduled", 2), ("completed", 3)]):
        legacy_file(store.folder / folder / uuid(number), ["Complete"])
        os.utime(store.folder / folder / uuid(number), (1000 + at, 1000 + at))
    first = store.newest(2)
    store.save(Posted.of(assignment(), Dialect.LEGACY))
    second = store.newest(2, first[-1])

    assert [cursor.id for cursor in first] == [uuid(3), uuid(2)]
    assert [cursor.id for cursor in second] == [uuid(1)]
    assert [Cursor.parse(str(cursor)) for cursor in first] == first


@pytest.mark.row("A3", "N25")
def test_what_was_never_promised_is_forgotten(store: AssignmentStore) -> None:
    """A kill within a save leaves a file in `saving`; the next start removes it."""
    (store.folder / "saving" / ID).write_bytes(b"half")
    store.prepare()

    assert list((store.folder / "saving").iterdir()) == []
    assert store.find(ID) is None


@pytest.mark.row("N25")
def test_a_disk_that_does_not_take_it_is_an_error(store: AssignmentStore) -> None:
    """Nothing is left of the assignment, and the message says why."""
    (store.folder / "saving").rmdir()
    (store.folder / "saving").write_text("in the way")

    with pytest.raises(StoreError, match=ID):
        store.save(Posted.of(assignment(), Dialect.LEGACY))
    assert store.find(ID) is None
