"""What operators decide is carried out, whoever goes meanwhile and whatever they decide at once."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.actions.evacuate import EvacuateParams
from rebalancer.actions.verify import VerifyParams
from rebalancer.api.requests import Control
from rebalancer.config import ManagerConfig
from rebalancer.domain.states import JobEvent, JobState
from rebalancer.errors import BadRequest, JobFailed, PeerUnreachable, Unavailable
from rebalancer.manager.actions.action import Known
from rebalancer.manager.actions.evacuate.action import EvacuateAction
from rebalancer.manager.actions.verify.action import VerifyAction
from rebalancer.manager.http.requests import NewJob
from rebalancer.manager.jobs import index as index_module
from rebalancer.manager.jobs import service
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.scheduler import to_start
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store.records import Finding
from tests.manager.http.test_api import open_rig
from tests.manager.jobs.test_control import SMALL, control


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> trio.CancelScope:
    """The scope of a request whose client goes as soon as what it asked for is recorded."""
    scope, real = trio.CancelScope(), JobIndex._note

    async def note(self: JobIndex, job_id: str) -> None:
        scope.cancel()
        await real(self, job_id)

    monkeypatch.setattr(JobIndex, "_note", note)
    return scope


async def test_a_job_whose_client_goes_has_its_turn(
    tmp_path: Path, client: trio.CancelScope
) -> None:
    """It was recorded, so it is begun, though nobody was told of its id."""
    async with open_rig(tmp_path, objects=3) as rig:
        with client:
            await rig.jobs.create(NewJob("evacuate", EvacuateParams("1.stor")))
        (row,) = await rig.jobs.index.all()
        await rig.reach(row.id, "Running")


@pytest.mark.parametrize(
    ("wanted", "state"),
    [(Control.PAUSE, "Stopped"), (Control.CANCEL, "Stopped"), (Control.RESUME, "Running")],
)
async def test_a_decision_whose_client_goes_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: Control, state: str
) -> None:
    """What is recorded is done, not only at the next start of the manager."""
    at_work = trio.Event()

    async def works(job: Job) -> None:
        at_work.set()
        await job.cancelled.wait()

    monkeypatch.setattr(flow, "run", works)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        with trio.fail_after(30):
            await at_work.wait()
        if wanted is Control.RESUME:
            await control(rig, job_id, "pause")
        scope, real = trio.CancelScope(), JobIndex._note

        async def note(self: JobIndex, noted: str) -> None:
            scope.cancel()
            await real(self, noted)

        monkeypatch.setattr(JobIndex, "_note", note)
        with scope:
            await rig.jobs.change(job_id, wanted)
        assert scope.cancel_called
        await rig.reach(job_id, state)


async def test_a_job_that_is_removed_while_its_retry_is_made_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its file the retry could only fail; so whoever is second is refused."""
    action, real = EvacuateAction(), EvacuateAction.check

    async def check(
        _self: object, params: Mapping[str, Any], resources: Resources, known: Known
    ) -> None:
        await real(action, params, resources, known)
        if "retry_of" in params:
            await rig.jobs.delete(params["retry_of"])

    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create(from_shark="9.stor")
        await rig.reach(job_id, "Failed")
        monkeypatch.setattr(EvacuateAction, "check", check)
        with pytest.raises(BadRequest, match=f"Could not find job UUID: {job_id}"):
            await rig.jobs.retry(job_id)
        assert await rig.jobs.index.all() == []


async def test_a_job_that_is_removed_while_its_verification_is_made_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a retry: it could only fail."""
    real = VerifyAction.look_up

    async def look_up(
        self: VerifyAction, params: Mapping[str, Any], config: ManagerConfig
    ) -> Sequence[Finding]:
        await rig.jobs.delete(params["job"])
        return await real(self, params, config)

    monkeypatch.setattr(VerifyAction, "look_up", look_up)
    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create(from_shark="9.stor")
        await rig.reach(job_id, "Failed")
        with pytest.raises(BadRequest, match=f"Could not find job UUID: {job_id}"):
            await rig.jobs.create(NewJob("verify", VerifyParams(job=job_id)))
        assert await rig.jobs.index.all() == []


# --- ends that cannot be recorded at once ------------------------------------------------------


def no_thread() -> Exception:
    return RuntimeError("can't start new thread")


@pytest.mark.parametrize("failure", [no_thread, MemoryError])
async def test_a_state_that_cannot_be_recorded_now_is_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    """The manager and its other jobs run on."""
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.01)
    times, real, unfinished = [0, 0], JobIndex.advance, JobIndex.unfinished

    async def advance(self: JobIndex, job_id: str, event: JobEvent, *args: Any, **kw: Any) -> Any:
        times[0] += 1
        if times[0] % 3:
            raise failure()
        return await real(self, job_id, event, *args, **kw)

    async def look(self: JobIndex) -> Any:
        times[1] += 1
        if self is rig.jobs.index and times[1] % 3:
            raise failure()
        return await unfinished(self)

    async def breaks(_job: Job) -> None:
        await trio.lowlevel.checkpoint()
        raise JobFailed("a cause")

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create()
        monkeypatch.setattr(JobIndex, "advance", advance)
        monkeypatch.setattr(JobIndex, "unfinished", look)
        view = await rig.reach(job_id, "Failed")
        again = await rig.create()
        await rig.reach(again, "Failed")
    assert view["error"] == "a cause"


@pytest.mark.parametrize("failure", [no_thread, MemoryError, lambda: Unavailable("locked")])
async def test_a_note_that_cannot_be_written_undoes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    """It repeats what the list of jobs says, which is recorded."""

    def note(*_args: Any) -> None:
        raise failure()

    monkeypatch.setattr(index_module, "note_in_job_file", note)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Running")
        assert (await control(rig, job_id, "pause"))[0] == 200
        assert (await control(rig, job_id, "resume"))[0] == 200
        await rig.reach(job_id, "Running")


async def test_a_job_that_breaks_for_what_passes_as_it_is_paused_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not failed: it begins again when it is resumed."""

    at_work = trio.Event()

    async def breaks(_job: Job) -> None:
        at_work.set()
        try:
            await trio.sleep_forever()
        finally:
            raise PeerUnreachable("2.moray.lab: gone")

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create()
        with trio.fail_after(30):
            await at_work.wait()
        await control(rig, job_id, "pause")
        row = await rig.jobs.index.get(job_id)
    assert row is not None
    assert (row.state, row.error) == (JobState.PAUSED, None)


async def test_a_job_that_breaks_for_several_causes_has_failed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are ours or not; all are told, and the manager runs on."""

    async def breaks(_job: Job) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("stages", [JobFailed("a cause"), ValueError("bug")])

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=3) as rig:
        view = await rig.reach(await rig.create(), "Failed")
        await rig.reach(await rig.create(), "Failed")
    assert view["error"] == "ValueError('bug'); a cause"


@pytest.mark.parametrize("change", ["DELETE FROM jobs", "UPDATE jobs SET state = 'complete'"])
async def test_a_list_that_a_person_changes_does_not_end_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A job that runs cannot be recorded as it ended; other jobs run on."""
    file = tmp_path / "db" / "rebalancer.sqlite"

    async def breaks(_job: Job) -> None:
        await trio.lowlevel.checkpoint()
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            db.execute(change)
        monkeypatch.undo()
        raise JobFailed("a cause")

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create()
        with trio.fail_after(30):
            while flow.run is breaks or job_id in rig.jobs.running:  # noqa: ASYNC110
                await trio.sleep(0.02)
        await rig.reach(await rig.create(), "Running")


@pytest.mark.parametrize("change", ["DELETE FROM jobs", "UPDATE jobs SET state = 'complete'"])
async def test_a_list_that_a_person_changes_as_a_job_begins_does_not_end_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The manager has read the job as queued, and waits for the person's lock; other jobs run."""

    changed = trio.Event()

    def chosen(*args: Any) -> list[JobRow]:
        if (due := to_start(*args)) and not changed.is_set():
            with closing(sqlite3.connect(tmp_path / "db" / "rebalancer.sqlite")) as db, db:
                db.execute(change)
            changed.set()
        return due

    monkeypatch.setattr(service, "to_start", chosen)
    async with open_rig(tmp_path, objects=3) as rig:
        await rig.create()
        with trio.fail_after(30):
            await changed.wait()
        await rig.reach(await rig.create(), "Running")
