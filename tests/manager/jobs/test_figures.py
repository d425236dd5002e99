"""What metrics show of jobs."""

from pathlib import Path

import pytest
import trio

from rebalancer.domain.states import JobState
from rebalancer.errors import StoreBusy
from rebalancer.manager.jobs import figures, queries
from rebalancer.manager.jobs.figures import MOST_ENDED, MOST_LEFT, Figures, latest, shown
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from rebalancer.manager.store.records import ScanPosition
from tests.manager.http.test_api import open_rig, refusing_agents


def row(number: int, state: JobState, finished: str | None = None) -> JobRow:
    return JobRow(f"job {number}", "evacuate", state, {}, "2026", "2026", finished, None)


def test_a_bounded_number_of_jobs_is_shown() -> None:
    """Those at work first, and of the ended ones the latest, however many there are."""
    queued = [row(n, JobState.QUEUED) for n in range(200)]
    ended = [row(n, JobState.FAILED, f"2026-01-{n % 28 + 1:02}") for n in range(200, 400)]
    running = row(400, JobState.RUNNING)
    chosen = shown([*queued, *ended, running])

    assert chosen[:2] == [running, queued[0]]
    assert len(chosen) == MOST_LEFT + MOST_ENDED
    assert {one.finished for one in chosen[MOST_LEFT:]} >= {"2026-01-28"}
    assert all(one.finished > "2026-01-25" for one in chosen[MOST_LEFT:] if one.finished)


@pytest.mark.row("L36")
async def test_update_limits_are_those_of_the_jobs_that_run(tmp_path: Path) -> None:
    """The operator's under the predecessor's name, and the one in force; both 0 without a job."""
    begin = trio.Event()
    async with open_rig(tmp_path, objects=3, agents=refusing_agents(begin)) as rig:
        made, registry = Figures(rig.jobs.queries), rig.jobs.resources.metrics.registry

        async def limits() -> dict[str, float]:
            await made.refresh()
            samples = [one for family in registry.collect() for one in family.samples]
            return {one.name: one.value for one in samples if one.name.startswith("md_thread")}

        job_id = await rig.create()
        job = await rig.at_work(job_id)
        job.update_limiter.resize(30)
        for number in range(30):
            await job.update_limiter.acquire(number)
        job.update_limiter.overloaded(trio.current_time())
        during = await limits()
        await rig.put(job_id, {"action": "pause"})
        await rig.reach(job_id, "Stopped")
        after = await limits()
        begin.set()

    assert during == {"md_thread_gauge": 30, "md_threads_in_force": 15}
    assert set(after.values()) == {0}


def test_scans_of_the_latest_round_are_shown() -> None:
    """Each round scans every shard once more, and the earlier ones have come to their end."""
    scans = [ScanPosition(shard, "_id", 9, 9, n) for n in (0, 1) for shard in (1, 2)]

    assert latest(scans) == scans[2:]
    assert latest([]) == []


async def test_an_ended_job_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it changes any more, so its file is left alone however often somebody scrapes."""
    read, paths = views.read_job, list[Path]()

    def count(path: Path) -> views.Overview:
        paths.append(path)
        return read(path)

    async with open_rig(tmp_path) as rig:
        await rig.reach(await rig.create(), "Complete")
        monkeypatch.setattr(views, "read_job", count)
        made = Figures(rig.jobs.queries)
        for _ in range(3):
            await made.refresh()
        collector = rig.jobs.resources.metrics.jobs
    assert len(paths) == 1
    assert [(one.state, one.verdict) for one in collector.figures] == [("complete", "empty")]
    assert collector.by_state == {"complete": 1}
    assert collector.figures[0].finished_s is not None


async def test_a_file_that_cannot_be_read_leaves_the_figures_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock of another program takes no series away, and a scrape waits for a bounded time."""

    def refuse(_path: Path) -> views.Overview:
        raise StoreBusy("locked")

    async def hang() -> None:
        await trio.sleep_forever()

    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create()
        await rig.at_work(job_id)
        made, collector = Figures(rig.jobs.queries), rig.jobs.resources.metrics.jobs
        with trio.fail_after(10):
            while not (collector.figures and collector.figures[0].status.total):
                await made.refresh()
                await trio.sleep(0.02)
        known = collector.figures[0].status
        monkeypatch.setattr(views, "read_job", refuse)
        await made.refresh()
        assert collector.figures[0].status.total == known.total
        monkeypatch.setattr(figures, "PATIENCE_S", 0.01)
        index = rig.jobs.queries.index
        monkeypatch.setattr(type(index), "all", lambda _self: hang())
        with trio.fail_after(5):
            await made.refresh()
        assert collector.figures[0].status.total == known.total


async def test_a_disk_that_hangs_takes_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often somebody scrapes meanwhile: each later scrape has the figures of an earlier."""
    release, calls = trio.Event(), list[str]()

    async def hang(_path: object, _read: object) -> views.Overview:
        calls.append("read")
        with trio.CancelScope(shield=True):  # as a thread that nobody can stop
            await release.wait()
        return views.NOTHING

    async with open_rig(tmp_path, objects=3) as rig:
        await rig.at_work(await rig.create())
        made = Figures(rig.jobs.queries)
        await made.refresh()
        monkeypatch.setattr(figures, "PATIENCE_S", 0.01)
        monkeypatch.setattr(queries, "read_job_file", hang)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(made.refresh)
            await trio.sleep(0.1)
            assert calls == ["read"]
            assert len(rig.jobs.resources.metrics.jobs.figures) == 1
            release.set()
