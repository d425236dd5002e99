"""Fetchers: what is said to them, and what happens when they die."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from rebalancer.agent import messages
from rebalancer.agent.fetcher import Setup
from rebalancer.agent.fetchers import DEATHS, LOT, FetcherDied, FetcherLine
from rebalancer.agent.messages import Line, Lot, Outcome
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.wire import Task
from tests.sources import OWNER, md5, uuid

TASKS = [Task(uuid(n), OWNER, md5(b"x"), Shark("dc1", "2.stor.lab")) for n in range(1200)]


@pytest.mark.parametrize(
    "message",
    [
        Lot(7, 3, tuple(TASKS[:2])),
        Outcome(7, 1, 4096, 0.5),
        Outcome(7, 1),
        Outcome(7, 1, reason=reasons.http_status_code(404), detail='a "status"\n'),
        Outcome(7, 1, 5, 0.1, Reason("NewOne"), "ü"),
        Setup(AgentStorage(reserve_mb=7), AgentSource(allowed_domains=("a", "b")), {"a": "b:1"}),
    ],
)
def test_messages_survive_the_way(message: Lot | Outcome | Setup) -> None:
    """What is encoded is decoded."""
    assert type(message).decode(json.loads(json.dumps(message.encode()))) == message


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
        while (message := await line.receive()) is not None:
            self.lots.append(lot := Lot.decode(message))
            for index in range(min(answers, len(lot.tasks))):
                outcomes = [Outcome(lot.number, index, 1).encode()]
                await line.send({"outcomes": outcomes, "cleanup_failures": 0})
            answers -= len(lot.tasks)
            if answers < 0:
                await line.stream.aclose()
                return


async def fetch(scripted: Scripted, tasks: list[Task]) -> list[str]:
    """The objects that were settled, in order."""
    settled: list[str] = []
    fetcher = FetcherLine(scripted.open)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.run)
        try:
            with trio.fail_after(20):
                await fetcher.fetch(tasks, 4, lambda task, _: settled.append(task.object_id))
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
            await line.send("x" * (64 << 20))
        with pytest.raises(trio.ClosedResourceError):
            await line.send("x")
        assert await line.receive() is None
