"""What is known of storage nodes."""

from collections.abc import Sequence

import pytest
import trio

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerError, PeerUnreachable
from rebalancer.manager.fleet.node_list import PERIOD_S, NodeList
from rebalancer.waits import Waits
from tests.logs import capture_logs
from tests.manager.world import NODES


class Answers:
    """A storinfo that gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: Sequence[StorageNode] | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self) -> Sequence[StorageNode]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.row("DEF-10", "L4")
async def test_a_bad_answer_keeps_the_last_good_list(autojump_clock: object) -> None:
    """Empty or failed, or no thread could be had to ask: old news is better than none."""
    trouble = (PeerUnreachable("gone"), RuntimeError("can't start new thread"), MemoryError())
    ask = Answers(NODES[:2], (), *trouble, NODES[2:4])
    fleet = NodeList(ask)
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.poll)
        for _ in range(6):
            await trio.sleep(PERIOD_S - 1)
            seen.append(fleet.nodes)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert seen == [*[NODES[:2]] * 5, NODES[2:4]]


@pytest.mark.row("DEF-10", "TEST-EVAC-4", "L4")
@pytest.mark.parametrize("answer", [(), PeerUnreachable("gone")])
async def test_a_job_waits_for_the_first_list_however_late_it_comes(
    autojump_clock: object, answer: tuple[()] | PeerError
) -> None:
    """Whether storinfo is away or knows of no nodes: both pass, and both are told."""
    waits, fleet = Waits(), NodeList(Answers(*[answer] * 1000, NODES))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.ready, waits)
        await trio.sleep(3600)
        (cause,) = waits.causes
    assert cause.subject == "storinfo"
    assert cause.detail == ("it lists no storage nodes" if answer == () else "gone")
    assert fleet.nodes == NODES
    assert waits.causes == []


async def test_a_plan_waits_for_the_first_list_for_its_time_only(autojump_clock: object) -> None:
    """A person is waiting for it."""
    ask = Answers(PeerUnreachable("gone"))
    began = trio.current_time()
    with pytest.raises(PeerUnreachable, match="gone"):
        await NodeList(ask).ready(Waits(), 60.0)
    assert 60 <= trio.current_time() - began < 60 + PERIOD_S


async def test_a_storinfo_that_is_away_is_told_once_a_minute(autojump_clock: object) -> None:
    """Not at every question."""
    fleet = NodeList(Answers(PeerUnreachable("gone")))
    with capture_logs() as lines, trio.move_on_after(599):
        await fleet.poll()
    assert 10 <= len(lines) <= 11


async def test_the_age_of_the_list_is_known() -> None:
    """None before the first."""
    fleet = NodeList(Answers(NODES))
    ages = [fleet.age_s]
    await fleet.refresh()
    ages.append(fleet.age_s)
    assert [age is None for age in ages] == [True, False]
