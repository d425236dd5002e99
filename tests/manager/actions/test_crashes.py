"""Invariant 7: a job of any action dies before or after each of its commits; a restart ends it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rebalancer.actions import DECLARED
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import JobState
from rebalancer.errors import JobFailed, leaves
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs import assembly, running
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import job_file
from rebalancer.manager.store.job_store import JobStore, open_store
from tests.inline import inline
from tests.manager.actions.sweep import Sweep, Turn
from tests.manager.crashes import WHERE, Arm, sweep
from tests.manager.store.test_store import check_counters


@pytest.fixture
def swept(action: str) -> Sweep:
    """What is swept of the action; there is no action without it."""
    found: Sweep = import_module(f"tests.manager.actions.{action}.sweep").SWEEP
    return found


@pytest.fixture
def clock(swept: Sweep, monkeypatch: pytest.MonkeyPatch) -> MockClock | None:
    if not swept.is_mocked:
        return None
    monkeypatch.setattr(trio.to_thread, "run_sync", lambda fn, *args, **_: inline(fn, *args))
    return MockClock(autojump_threshold=0)


@pytest.mark.row("IMP-7", "DEF-2", "L2", "N8")
@WHERE
@pytest.mark.parametrize("action", ACTIONS)
async def test_crash_at_every_commit(
    action: str,
    where: str,
    swept: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: MockClock | None,
) -> None:
    """From its first commit to its last, as the manager runs it: by the action's own `run`."""

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[tuple[Turn, JobRow]]:
        async with swept.opened(folder) as turn:
            params = ACTIONS[action].params(swept.given, turn.resources.config)
            row = JobRow("job", action, JobState.RUNNING, params, "", None, None, None)
            node = DECLARED[action].node(params)
            origin = None if node is None else Shark("", node)
            job_file.create(turn.resources.file(row.id), origin)
            monkeypatch.setattr(assembly, "open_moray", lambda *_, **__: nullcontext(turn.moray))
            yield turn, row

    async def run(made: tuple[Turn, JobRow], arm: Arm) -> str | None:
        turn, row = made
        monkeypatch.setattr(running, "open_store", opener(arm))
        return await run_to_its_end(running.RunningJob(row, turn.resources))

    async def finish(made: tuple[Turn, JobRow], _k: int) -> None:
        error = await run(made, lambda _store: None)
        turn, row = made
        async with open_store(turn.resources.file(row.id), run=inline) as store:
            check_counters(store)
            await turn.check(store, error)

    crashes = await sweep(tmp_path, where, opened, run, finish)
    assert crashes >= swept.least


async def run_to_its_end(job: running.RunningJob) -> str | None:
    """Run a job as its action does; return why it failed, if it did."""
    error = None
    try:
        await ACTIONS[job.row.action].run(job)
    except* JobFailed as group:
        error = "; ".join(map(str, leaves(group)))
    return error


def opener(arm: Arm) -> Any:
    """What opens a job's file in place of `open_store`, under a mock clock too."""

    @asynccontextmanager
    async def opened(path: Path, **options: Any) -> AsyncIterator[JobStore]:
        async with open_store(path, run=inline, **options) as store:
            # The machine does not crash here, and to wait for its disk is most of a test's time.
            store.database._writer.execute("PRAGMA synchronous=OFF")
            arm(store)
            yield store

    return opened
