"""The backlog: in order, each once, whatever is added while the folder is looked through."""

from pathlib import Path

import pytest
import trio

from rebalancer.agent import backlog
from rebalancer.agent.backlog import Backlog
from rebalancer.agent.store import AssignmentStore
from rebalancer.domain.objects import Shark
from rebalancer.wire import Assignment, Dialect, Task
from tests.sources import OWNER, md5, uuid

TASK = Task(uuid(1), OWNER, md5(b"x"), Shark("dc1", "2.stor.lab"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AssignmentStore:
    monkeypatch.setattr(backlog, "LISTED", 7)
    made = AssignmentStore(tmp_path / "state")
    made.prepare()
    return made


def save(store: AssignmentStore, number: int) -> str:
    return store.save(Assignment(uuid(number), (TASK,)), Dialect.LEGACY).id


@pytest.mark.row("N24", "DEF-15")
async def test_more_than_fits_in_memory_comes_in_order(store: AssignmentStore) -> None:
    """Those of an earlier run, then those that came since."""
    names = [save(store, number) for number in range(30)]
    queue = Backlog(store)
    queue.resume()
    assert len(queue) == 30
    taken = []
    for number in range(30, 60):
        names.append(save(store, number))
        queue.add(names[-1])
        taken.append(await queue.take())
        store.scheduled.joinpath(taken[-1]).unlink()
        queue.done(taken[-1])
    while len(queue):
        taken.append(await queue.take())

    assert taken == names
    assert queue.running == set(names[30:])


async def test_each_is_taken_once_though_others_come_meanwhile(store: AssignmentStore) -> None:
    """Three workers, and a manager that posts all the time."""
    queue, taken = Backlog(store), list[str]()
    names = [save(store, number) for number in range(20)]
    queue.resume()

    async def work() -> None:
        while True:
            taken.append(name := await queue.take())
            await trio.to_thread.run_sync(store.scheduled.joinpath(name).unlink)
            queue.done(name)

    async def post() -> None:
        for number in range(20, 80):
            name = uuid(number)
            names.append(name)
            queue.saving.add(name)
            await trio.to_thread.run_sync(save, store, number)
            queue.add(name)
            queue.saving.discard(name)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(work)
        await post()
        with trio.fail_after(20):
            while len(taken) < 80:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sorted(taken) == sorted(names)
