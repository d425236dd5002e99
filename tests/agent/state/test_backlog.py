"""The backlog: in order, each once, whatever is added while the folder is looked through."""

import errno
from pathlib import Path

import pytest
import trio
import trio.testing

from rebalancer.agent.state import backlog
from rebalancer.agent.state.backlog import Backlog
from rebalancer.agent.state.posted import Posted
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import Assignment, Dialect, Task
from rebalancer.domain.objects import Shark
from tests.sources import OWNER, md5, uuid

TASK = Task(uuid(1), OWNER, md5(b"x"), Shark("dc1", "2.stor.lab"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AssignmentStore:
    monkeypatch.setattr(backlog, "LISTED", 7)
    made = AssignmentStore(tmp_path / "state")
    made.prepare()
    return made


def save(store: AssignmentStore, number: int) -> str:
    return store.save(Posted.of(Assignment(uuid(number), (TASK,)), Dialect.LEGACY)).id


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


async def test_a_folder_that_cannot_be_listed_is_listed_again(
    store: AssignmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start and later: nothing is lost of it."""
    names = [save(store, number) for number in range(20)]
    queue, taken = Backlog(store), list[str]()

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(AssignmentStore, "unfinished", fail)
        queue.resume()
        for _ in range(2):
            with pytest.raises(OSError, match="Too many"):
                await queue.take()
    for _ in range(7):
        taken.append(await queue.take())
    with monkeypatch.context() as patch:
        patch.setattr(AssignmentStore, "unfinished", fail)
        with pytest.raises(OSError, match="Too many"):
            await queue.take()
    while len(queue):
        taken.append(await queue.take())

    assert taken == names


async def test_what_could_not_be_read_has_another_turn(
    store: AssignmentStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Not before its time, while others have theirs; what is refused has none."""
    names = [save(store, number) for number in range(10)]
    queue = Backlog(store)
    queue.resume()
    first, second = await queue.take(), await queue.take()
    queue.defer(first, trio.current_time() + 5)
    queue.refuse(second)
    assert len(queue) == 9
    assert [await queue.take() for _ in range(5)] == names[2:7]
    queue._has_more = False  # a mock clock does not wait for the thread that would look
    assert (await queue.take(), trio.current_time()) == (first, 5)


async def test_what_never_can_be_read_takes_every_other_turn(store: AssignmentStore) -> None:
    """However soon it is due again, and however many others wait: neither starves."""
    names = [save(store, number) for number in range(5)]
    queue, taken = Backlog(store), list[str]()
    queue.resume()
    for _ in range(8):
        taken.append(await queue.take())
        if taken[-1] == names[0]:
            queue.defer(names[0], trio.current_time())

    first = names[0]
    assert taken == [first, first, names[1], first, names[2], first, names[3], first]


async def test_what_is_refused_is_not_met_again(store: AssignmentStore) -> None:
    """Nor is what waits for another turn, however often the folder is looked through."""
    names = [save(store, number) for number in range(20)]
    queue, taken = Backlog(store), list[str]()
    queue.resume()
    queue.refuse(await queue.take())
    queue.defer(await queue.take(), trio.current_time() + 3600)
    while len(queue) > 1:
        taken.append(await queue.take())

    assert taken == names[2:]
