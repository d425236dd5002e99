"""Stored assignments that cannot be read: now, ever, or by this agent."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.agent import intake
from rebalancer.agent import run as run_module
from rebalancer.agent.state.statefile import image
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import PENDING, Dialect, Task
from rebalancer.domain.objects import Shark
from rebalancer.metrics import metrics_app
from tests.agent.scripted import Rig, open_rig, stored_of
from tests.sources import OWNER, Answer, md5, ok, task, uuid
from tests.web import Client

A = b"an object"
NAMES = [uuid(70 + number) for number in range(4)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "RETRY_S", 0.05)
    monkeypatch.setattr(intake, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(intake, "LONGEST_REST_S", 0.05)
    monkeypatch.setattr(run_module, "FIRST_PAUSE_S", 0.01)


def answer(_request: int, _path: str) -> Answer:
    return Answer(ok(A))


def left_over(folder: Path) -> AssignmentStore:
    """Assignments that an earlier run has left, of one task each."""
    store = AssignmentStore(folder / "state")
    store.prepare()
    for number, name in enumerate(NAMES):
        tasks = (Task(uuid(number), OWNER, md5(A), Shark("dc1", "2.stor.lab"), PENDING),)
        path = store.scheduled / name
        path.write_bytes(image(stored_of(name, tasks, Dialect.LEGACY, 1000 + number)))
        os.utime(path, ns=(1000 + number, 1000 + number))
    return store


async def status(rig: Rig) -> dict[str, Any]:
    told: dict[str, Any] = await (await rig.client.get("/status")).get_json()
    return told


async def until_waited_for(rig: Rig, name: str) -> dict[str, Any]:
    """What /status tells of a cause, once it is there."""
    with trio.fail_after(20):
        while True:
            for cause in (await status(rig))["waiting_for"]:
                if name in cause["subject"]:
                    return dict(cause)
            await trio.sleep(0.01)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, code: int, *names: str) -> Iterator[None]:
    """Files of these names, or any, cannot be opened."""
    whole = os.open

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).parent.name == "scheduled" and (not names or Path(path).name in names):
            raise OSError(code, os.strerror(code))
        return whole(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        yield


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
async def test_healthy_assignments_outlive_troubles_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Too many open files, a disk that fails for a while: seen in /status, waited for, done."""
    left_over(tmp_path)
    async with open_rig(tmp_path, answer) as rig:
        with failing(monkeypatch, code):
            cause = await until_waited_for(rig, NAMES[0])
            asked = await rig.client.get(f"/assignments/{NAMES[0]}")
            during = await status(rig)
        assert [await rig.finish(name) for name in NAMES] == [[]] * 4
        after = await status(rig)

    assert os.strerror(code) in cause["detail"]
    assert (asked.status_code, asked.headers["Retry-After"]) == (503, "10")
    assert NAMES[0] in (await asked.get_json())["message"]
    assert during["resume_failures"] == after["resume_failures"] == 0
    assert after["waiting_for"] == []
    assert list((tmp_path / "state" / "quarantine").iterdir()) == []


async def test_one_that_cannot_be_read_does_not_hold_up_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of all stays unreadable: what came later, and what comes now, is done."""
    left_over(tmp_path)
    async with open_rig(tmp_path, answer) as rig:
        with failing(monkeypatch, errno.EIO, NAMES[0]):
            assert [await rig.finish(name) for name in NAMES[1:]] == [[]] * 3
            await rig.post([task(50, A)])
            assert await rig.finish() == []
            assert [cause["subject"] for cause in (await status(rig))["waiting_for"]] == [
                f"assignment {NAMES[0]}"
            ]
        assert await rig.finish(NAMES[0]) == []


async def test_rests_stay_short_while_other_assignments_can_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that never can be read costs the others a moment each time, not longer and longer."""
    left_over(tmp_path)
    async with open_rig(tmp_path, answer) as rig:
        with failing(monkeypatch, errno.EIO, NAMES[0]):
            for number in range(3):
                rig.agent.worker.intake._unread = 1000  # as after a thousand failures in a row
                await rig.post([task(50, A)], uuid(100 + number))
                assert await rig.finish(uuid(100 + number)) == []
                assert rig.agent.worker.intake._unread < 1000
        assert await rig.finish(NAMES[0]) == []


async def test_an_assignment_of_the_version_before_is_finished(tmp_path: Path) -> None:
    """Taken up where it was: one task was left of three."""
    store = AssignmentStore(tmp_path / "state")
    store.prepare()
    kept = Path(__file__).parent / "kept" / "version-0.sqlite"
    (store.scheduled / NAMES[0]).write_bytes(kept.read_bytes())
    gone = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    async with open_rig(tmp_path, lambda *_: gone) as rig:
        failed = await rig.finish(NAMES[0])
        assert [path.rsplit("/")[-1] for path in rig.source.paths] == [uuid(2)]
        assert (await rig.stats(NAMES[0]))["total"] == 3
    tagged = {"state": "Failed", "reason": {"type": "HTTPStatusCode", "status_code": 404}}
    assert {one["object_id"]: one["status"] for one in failed} == dict.fromkeys(
        (uuid(2), uuid(1)), tagged
    )
    with closing(sqlite3.connect(store.completed / NAMES[0])) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


async def test_a_folder_that_cannot_be_listed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start of the agent: it serves meanwhile, and goes on when it can."""
    left_over(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(AssignmentStore, "unfinished", fail)
        async with open_rig(tmp_path, answer) as rig:
            cause = await until_waited_for(rig, intake.THE_BACKLOG)
            listed = await rig.client.get("/assignments")
            patch.undo()
            assert [await rig.finish(name) for name in NAMES] == [[]] * 4
            assert (await status(rig))["waiting_for"] == []
    assert "Too many open files" in cause["detail"]
    assert listed.status_code == 200


async def test_a_file_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    """Not worked on, not deleted, not in quarantine; told, with what to do; others are done."""
    store = left_over(tmp_path)
    newer = store.scheduled / NAMES[0]
    with closing(sqlite3.connect(newer)) as db, db:
        db.execute("PRAGMA user_version = 7")
    before = newer.read_bytes()
    async with open_rig(tmp_path, answer) as rig:
        assert [await rig.finish(name) for name in NAMES[1:]] == [[]] * 3
        cause = await until_waited_for(rig, NAMES[0])
        told = await status(rig)
        replies = [
            await rig.client.get(f"/assignments/{NAMES[0]}"),
            await rig.client.delete(f"/assignments/{NAMES[0]}"),
            await rig.post([task(1, A)], NAMES[0]),
        ]

    assert newer.read_bytes() == before
    assert "layout 7 of a newer agent" in cause["detail"]
    assert "start the newer agent again" in told["last_errors"][0]
    assert (told["resume_failures"], told["waiting"]) == (0, 0)
    assert [reply.status_code for reply in replies] == [503, 403, 409]
    assert "newer agent" in (await replies[0].get_json())["message"]


@pytest.mark.parametrize("folder", ["scheduled", "completed"])
async def test_a_broken_file_that_is_asked_for_is_unknown(tmp_path: Path, folder: str) -> None:
    """404, not an error each time; it is set aside and counted once."""
    store = left_over(tmp_path)
    async with open_rig(tmp_path, answer) as rig:
        for name in NAMES:
            await rig.finish(name)
        (store.folder / folder / uuid(1)).write_bytes(b"no database" * 500)
        replies = [await rig.client.get(f"/assignments/{uuid(1)}") for _ in "12"]
        listed = await (await rig.client.get("/assignments")).get_json()
        registry = Client(metrics_app(rig.agent.metrics.registry))
        metrics = await (await registry.get("/")).get_data(as_text=True)

    assert [reply.status_code for reply in replies] == [404, 404]
    assert "was broken" in (await replies[0].get_json())["message"]
    assert (store.quarantine / uuid(1)).exists()
    assert {one["uuid"] for one in listed} == set(NAMES)
    assert "rebalancer_agent_quarantined_total 1.0" in metrics


async def test_a_broken_file_that_cannot_be_moved_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only folder: it is told, and moved when that is possible."""
    store = left_over(tmp_path)
    (store.scheduled / NAMES[0]).write_bytes(b"")
    os.utime(store.scheduled / NAMES[0], ns=(1, 1))
    whole = os.rename

    def fail(source: Any, target: Any, **folders: Any) -> None:
        if "quarantine" in str(target):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        whole(source, target, **folders)

    async with open_rig(tmp_path, answer) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            assert [await rig.finish(name) for name in NAMES[1:]] == [[]] * 3
            cause = await until_waited_for(rig, NAMES[0])
        with trio.fail_after(20):
            while not (await status(rig))["resume_failures"]:  # noqa: ASYNC110
                await trio.sleep(0.01)
    assert "cannot be put into quarantine" in cause["detail"]
    assert (store.quarantine / NAMES[0]).exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EDQUOT])
async def test_progress_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It is not reported before; each failure is counted; then it is as if nothing had been."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    broken = trio.Event()
    late = Answer(b"", late=ok(A), until=broken)
    async with open_rig(tmp_path, lambda *_: late) as rig:
        with monkeypatch.context() as patch:
            await rig.post([task(1, A)])
            patch.setattr("rebalancer.agent.state.store._write_file", fail)
            broken.set()
            with trio.fail_after(20):
                while not (told := await status(rig))["state_write_retries"]:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert (await rig.stats())["complete"] == 0
        assert await rig.finish() == []
    assert os.strerror(code) in told["last_errors"][-1]
