"""What is known of storage nodes."""

from collections.abc import Sequence

import pytest
import trio

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import JobFailed, PeerError, PeerUnreachable
from rebalancer.manager.fleet import FIRST_TRIES, PERIOD_S, Fleet
from tests.manager.world import NODES


class Answers:
    """A storinfo that gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: Sequence[StorageNode] | PeerError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self) -> Sequence[StorageNode]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, PeerError):
            raise answer
        return answer


@pytest.mark.row("DEF-10", "L4")
async def test_a_bad_answer_keeps_the_last_good_list(autojump_clock: object) -> None:
    """Empty or failed: old news is better than none; a new list replaces it."""
    ask = Answers(NODES[:2], (), PeerUnreachable("gone"), NODES[2:4])
    fleet = Fleet(ask)
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.poll)
        for _ in range(4):
            await trio.sleep(PERIOD_S - 1)
            seen.append(fleet.nodes)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert seen == [NODES[:2], NODES[:2], NODES[:2], NODES[2:4]]


@pytest.mark.row("DEF-10", "TEST-EVAC-4", "L4")
@pytest.mark.parametrize("answer", [(), PeerUnreachable("gone")])
async def test_a_job_waits_for_the_first_list_but_not_for_ever(
    autojump_clock: object, answer: tuple[()] | PeerError
) -> None:
    """Some tries, then a clear cause; a list on the last try is enough."""
    late = Fleet(Answers(*[answer] * (FIRST_TRIES - 1), NODES))
    await late.ready()
    assert late.nodes == NODES

    never = Answers(answer)
    with pytest.raises(JobFailed, match="nowhere to move objects to"):
        await Fleet(never).ready()
    assert never.asked == FIRST_TRIES


async def test_the_age_of_the_list_is_known() -> None:
    """None before the first."""
    fleet = Fleet(Answers(NODES))
    ages = [fleet.age_s]
    await fleet.refresh()
    ages.append(fleet.age_s)
    assert [age is None for age in ages] == [True, False]
