"""What metrics show of jobs."""

from pathlib import Path

import attrs
import pytest
import trio

from rebalancer.domain.states import JobState
from rebalancer.errors import StoreBusy
from rebalancer.manager.jobs import figures
from rebalancer.manager.jobs.figures import MOST_ENDED, MOST_LEFT, Figures, shown
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from tests.manager.http.test_api import open_rig


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
        stuck = attrs.evolve(made)
        with trio.fail_after(5):
            await stuck.refresh()
        assert collector.figures[0].status.total == known.total
