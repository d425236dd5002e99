"""Fetchers: what is said to them, and what happens when they die."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer import handle as module
from rebalancer.agent.transfer import line as line_module
from rebalancer.agent.transfer.handle import FetcherHandle
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.messages import (
    Begin,
    Finished,
    Grant,
    Lack,
    Limit,
    Lot,
    Message,
    Ready,
    Report,
    Want,
    Width,
)
from rebalancer.agent.transfer.parts import Part
from rebalancer.agent.transfer.startup import Setup
from rebalancer.agent.transfer.suspects import DEATHS, LOT, pull_part
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from tests.sources import ASSIGNMENT, OWNER, md5, uuid

TASKS = [(uuid(n), OWNER, md5(b"x"), "dc1", "2.stor.lab") for n in range(1200)]


ONE = ASSIGNMENT, uuid(1), "2.stor.lab"


async def send_both(line: Line, *messages: Message) -> None:
    for message in messages:
        await line.send(message)


@pytest.mark.parametrize(
    "message",
    [
        Lot(7, ASSIGNMENT, 3, tuple(TASKS[:2])),
        Lot(8, ASSIGNMENT, 3, tuple(TASKS)),
        Report((Finished(7, *ONE, 4096, 0.5), Finished(7, *ONE))),
        Report((Finished(7, *ONE, reason=reasons.http_status_code(404), detail='a "status"\n'),)),
        Report((Finished(7, *ONE, 5, 0.1, Reason("NewOne"), "ü"),), (7, 8), 3),
        Width(7, 2),
        Limit(True, 4096),
        Want(1 << 40),
        Grant(5),
        Ready("libcurl"),
        Lack("Too many open files"),
        Lack(""),
    ],
)
async def test_messages_survive_the_way(message: Message) -> None:
    """What is sent is received, whatever came just before."""
    ours, theirs = (Line.over(end) for end in socket.socketpair())
    async with ours.stream, theirs.stream, trio.open_nursery() as nursery:
        nursery.start_soon(send_both, ours, Want(1), message)
        assert [await theirs.receive(), await theirs.receive()] == [Want(1), message]


def test_a_setup_survives_the_way() -> None:
    """With all that a fetcher needs of the configuration."""
    source = AgentSource(allowed_domains=("a", "b"))
    setup = Setup(AgentStorage(reserve_mb=7), source, {"a": "b:1"})

    assert Setup.decode(setup.encode()) == setup


class Scripted:
    """Fetchers that answer so many tasks each and then die; the last one lives.

    Each is asked to pull an object of `deadly` dies of it, when it comes to it.  Mutable state:
    how many tasks each life answers, and the lots that came.
    """

    def __init__(self, *answers: int, deadly: Collection[str] = ()) -> None:
        self._answers = list(answers)
        self._deadly = deadly
        self.lots: list[Lot] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        ours, theirs = (Line.over(end) for end in socket.socketpair())
        async with ours.stream, theirs.stream, trio.open_nursery() as nursery:
            answers = self._answers.pop(0) if self._answers else 1 << 30
            nursery.start_soon(self._live, theirs, answers)
            yield ours
            nursery.cancel_scope.cancel()

    async def _live(self, line: Line, answers: int) -> None:
        with suppress(trio.BrokenResourceError):
            await line.send(Ready("plain"))
        async with trio.open_nursery() as nursery:
            while isinstance(lot := await line.receive(), Lot):
                self.lots.append(lot)
                nursery.start_soon(self._answer, line, lot, min(answers, len(lot.rows)))
                answers -= len(lot.rows)
                if answers < 0:
                    break
        await line.stream.aclose()

    async def _answer(self, line: Line, lot: Lot, answers: int) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for object_id, _, _, _, source in lot.rows[:answers]:
                await trio.lowlevel.checkpoint()  # lots of a fetcher are worked on side by side
                if object_id in self._deadly:
                    await line.stream.aclose()
                    return
                where = lot.number, lot.assignment, object_id, source
                await line.send(Report((Finished(*where, size=1),)))


async def pull(scripted: Scripted, *parts: list[Row]) -> dict[str, Finished]:
    """How the transfer of each object finished, in order."""
    finished: dict[str, Finished] = {}
    fetcher = FetcherHandle(scripted.open)

    def hear(report: Report) -> None:
        for event in report.finished:
            assert event.name not in finished
            finished[event.name] = event

    fetcher.on_report = hear
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.run)
        with trio.fail_after(20):
            async with trio.open_nursery() as work:
                for rows in parts:
                    work.start_soon(pull_part, fetcher, Part(ASSIGNMENT, rows), lambda: 4)
        nursery.cancel_scope.cancel()
    assert fetcher.tasks == 0
    return finished


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next fetcher is there at once."""
    monkeypatch.setattr(module, "PAUSE_S", 0.001)


async def test_large_assignments_go_in_lots() -> None:
    """A message has a limit; every transfer finishes once, in order."""
    scripted = Scripted(1 << 30)
    finished = await pull(scripted, TASKS)

    assert list(finished) == [task[0] for task in TASKS]
    assert [len(lot.rows) for lot in scripted.lots] == [LOT, LOT, 1200 - 2 * LOT]
    assert {lot.width for lot in scripted.lots} == {4}


async def test_what_a_dead_fetcher_had_told_is_not_asked_for_again() -> None:
    """The next life gets the rest."""
    scripted = Scripted(3, 2, 1 << 30)
    finished = await pull(scripted, TASKS[:10])

    assert list(finished) == [task[0] for task in TASKS[:10]]
    assert [len(lot.rows) for lot in scripted.lots] == [10, 7, 5]


@pytest.mark.row("A3")
@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("size", [1, 10, 100])
async def test_a_task_that_kills_fetchers_fails_alone(size: int) -> None:
    """It is found out among those of its own assignment, and of another at the same fetcher."""
    deadly = TASKS[size // 2][0]
    scripted = Scripted(deadly=[deadly])
    finished = await pull(scripted, TASKS[:size], TASKS[1000:1040])

    assert set(finished) == {task[0] for task in [*TASKS[:size], *TASKS[1000:1040]]}
    assert [name for name, event in finished.items() if event.reason] == [deadly]
    assert finished[deadly].reason == reasons.AGENT_FS_ERROR
    assert f"{DEATHS} fetchers" in finished[deadly].detail


@pytest.mark.usefixtures("quickly")
async def test_several_tasks_that_kill_fetchers_fail_alone() -> None:
    """Each by itself, and nothing else with them."""
    deadly = {TASKS[number][0] for number in (0, 7, 8, 39)}
    finished = await pull(Scripted(deadly=deadly), TASKS[:40], TASKS[40:60])

    assert {name for name, event in finished.items() if event.reason} == deadly
    assert len(finished) == 60


@pytest.mark.usefixtures("quickly")
async def test_fetchers_that_are_killed_cost_no_task() -> None:
    """Thirty deaths that have nothing to do with tasks, as an operator or the kernel makes them."""
    finished = await pull(Scripted(*[1] * 30), TASKS[:40])

    assert [event.reason for event in finished.values()] == [None] * 40


async def test_a_fetcher_that_does_not_come_up_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No files, no memory, no program: the tasks wait, and so it is told."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    scripted, waited, troubles = Scripted(), [], ["open", "begin", "end"]

    @asynccontextmanager
    async def open_or_not() -> AsyncIterator[Line]:
        waited.append([wait.subject for wait in fetcher.waits.causes])
        trouble = troubles.pop() if troubles else ""
        if trouble == "open":
            raise OSError(24, "Too many open files")
        if trouble == "begin":
            raise trio.BrokenResourceError
        async with scripted.open() as line:
            if trouble == "end":
                await line.stream.aclose()
            yield line

    fetcher = FetcherHandle(open_or_not)
    finished: list[Finished] = []
    fetcher.on_report = lambda report: finished.extend(report.finished)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.run)
        with trio.fail_after(20):
            await pull_part(fetcher, Part(ASSIGNMENT, TASKS[:5]), lambda: 1)
        nursery.cancel_scope.cancel()

    assert [event.reason for event in finished] == [None] * 5
    assert waited == [[], *[["fetcher process 0"]] * 3]
    assert fetcher.waits.causes == []


async def test_a_side_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send cannot be cancelled, so it has a limit; the connection is not used again."""
    monkeypatch.setattr(line_module, "SEND_S", 0.2)
    ours, theirs = socket.socketpair()
    line = Line.over(ours)
    with theirs, trio.fail_after(10):
        with pytest.raises(trio.BrokenResourceError, match="nothing was taken"):
            await line.send(Begin("x" * (64 << 20)))
        with pytest.raises(trio.ClosedResourceError):
            await line.send(Want(1))
        assert await line.receive() is None


def test_a_fetcher_process_leaves_nothing_open_at_its_end() -> None:
    """Python warns of what is left, in the agent's log."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        command = [sys.executable, "-W", "error", "-m", "rebalancer.agent.transfer.process"]
        done = subprocess.run(
            [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )

    assert (done.returncode, done.stderr) == (0, b"")
