"""Fetchers: what is said to them, and what happens when they die."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from rebalancer.agent import messages
from rebalancer.agent.fetcher import Setup
from rebalancer.agent.fetchers import DEATHS, LOT, Errand, FetcherDied, FetcherLine
from rebalancer.agent.messages import (
    Begin,
    Grant,
    Limit,
    Line,
    Lot,
    Message,
    Outcome,
    Report,
    Want,
    Width,
)
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.wire import Task
from tests.sources import OWNER, md5, uuid

TASKS = [Task(uuid(n), OWNER, md5(b"x"), Shark("dc1", "2.stor.lab")) for n in range(1200)]


async def send_both(line: Line, *messages: Message) -> None:
    for message in messages:
        await line.send(message)


@pytest.mark.parametrize(
    "message",
    [
        Lot(7, 3, tuple(TASKS[:2])),
        Lot(8, 3, tuple(TASKS)),
        Report((Outcome(7, 1, 4096, 0.5), Outcome(7, 2))),
        Report((Outcome(7, 1, reason=reasons.http_status_code(404), detail='a "status"\n'),)),
        Report((Outcome(7, 1, 5, 0.1, Reason("NewOne"), "ü"),), (7, 8), 3),
        Width(7, 2),
        Limit(True, 4096),
        Want(1 << 40),
        Grant(5),
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

    Mutable state: how many lives have begun, and the lots that came.
    """

    def __init__(self, *answers: int) -> None:
        self._answers = list(answers)
        self.lots: list[Lot] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        ours, theirs = (Line.over(end) for end in socket.socketpair())
        async with ours.stream, theirs.stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._live, theirs, self._answers.pop(0))
            yield ours
            nursery.cancel_scope.cancel()

    async def _live(self, line: Line, answers: int) -> None:
        while isinstance(lot := await line.receive(), Lot):
            self.lots.append(lot)
            for index in range(min(answers, len(lot.tasks))):
                await line.send(Report((Outcome(lot.number, index, 1),)))
            answers -= len(lot.tasks)
            if answers < 0:
                await line.stream.aclose()
                return


async def fetch(scripted: Scripted, tasks: list[Task]) -> list[str]:
    """The objects that were settled, in order."""
    settled: list[str] = []
    fetcher = FetcherLine(scripted.open)

    def settle(ended: Sequence[tuple[Task, Outcome]]) -> None:
        settled.extend(task.object_id for task, _ in ended)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.run)
        try:
            with trio.fail_after(20):
                await fetcher.fetch(Errand(tasks, settle), lambda: 4)
        finally:
            nursery.cancel_scope.cancel()
        assert fetcher.tasks == 0
    return settled


async def test_large_assignments_go_in_lots() -> None:
    """A message has a limit; every task is settled once, in order."""
    scripted = Scripted(1 << 30)
    settled = await fetch(scripted, TASKS)

    assert settled == [task.object_id for task in TASKS]
    assert [len(lot.tasks) for lot in scripted.lots] == [LOT, LOT, 1200 - 2 * LOT]
    assert {lot.width for lot in scripted.lots} == {4}


async def test_what_a_dead_fetcher_had_told_is_not_asked_for_again() -> None:
    """The next life gets the rest."""
    scripted = Scripted(3, 2, 1 << 30)
    settled = await fetch(scripted, TASKS[:10])

    assert settled == [task.object_id for task in TASKS[:10]]
    assert [len(lot.tasks) for lot in scripted.lots] == [10, 7, 5]


@pytest.mark.row("A3")
async def test_deaths_have_a_limit() -> None:
    """Tasks that kill every fetcher do not do so for ever."""
    with pytest.raises(ExceptionGroup) as caught:
        await fetch(Scripted(*[0] * 99), TASKS[:10])
    assert caught.group_contains(FetcherDied, match=f"{DEATHS} times over 10 tasks")


async def test_a_side_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send cannot be cancelled, so it has a limit; the connection is not used again."""
    monkeypatch.setattr(messages, "SEND_S", 0.2)
    ours, theirs = socket.socketpair()
    line = Line.over(ours)
    with theirs, trio.fail_after(10):
        with pytest.raises(trio.BrokenResourceError, match="nothing was taken"):
            await line.send(Begin("x" * (64 << 20)))
        with pytest.raises(trio.ClosedResourceError):
            await line.send(Want(1))
        assert await line.receive() is None
