"""What is known of storage nodes, and what is under way at each."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import JobFailed, PeerError, PeerUnreachable
from rebalancer.manager.fleet import FIRST_TRIES, PERIOD_S, Fleet
from rebalancer.manager.ledger import AVOID_MAX_S, AVOID_S, SETTLING_S, Ledger
from tests.manager.world import NODES

A = "2.stor.lab"


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


async def test_claims_count_until_they_have_settled(autojump_clock: object) -> None:
    """Copied bytes are claimed until storinfo can have told of them; lost ones not at all."""
    ledger = Ledger(4)
    for size in (1, 300, 5000):
        ledger.claim(A, size)
    ledger.posted(A)
    ledger.posted(A)
    assert ledger.claimed(A) == 5301
    ledger.done(A, 5000, copied=True)
    ledger.done(A, 300, copied=False)
    assert ledger.claimed(A) == 5001
    await trio.sleep(SETTLING_S - 1)
    assert ledger.claimed(A) == 5001
    await trio.sleep(2)
    assert ledger.claimed(A) == 1
    assert ledger.claimed("3.stor.lab") == 0


async def test_a_destination_is_busy_at_its_limit() -> None:
    """And whoever waits is woken when it is not any more."""
    ledger = Ledger(2)
    ledger.posted(A)
    assert not ledger.is_busy(A)
    ledger.posted(A)
    assert ledger.is_busy(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.wait_change)
        await trio.testing.wait_all_tasks_blocked()
        ledger.done(A, 0, copied=True)
    assert not ledger.is_busy(A)


async def test_a_destination_that_fails_is_avoided_longer_each_time(
    autojump_clock: object,
) -> None:
    """Doubled in a row up to a limit; a success forgives all."""
    ledger = Ledger(4)
    for failures in range(10):
        ledger.posted(A)
        ledger.done(A, 0, copied=False)
        pause = min(AVOID_S * 2**failures, AVOID_MAX_S)
        assert ledger.is_avoided(A)
        await trio.sleep(pause - 1)
        assert ledger.is_avoided(A)
        await trio.sleep(2)
        assert not ledger.is_avoided(A)
    ledger.posted(A)
    ledger.done(A, 0, copied=True)
    ledger.posted(A)
    ledger.done(A, 0, copied=False)
    await trio.sleep(AVOID_S + 1)
    assert not ledger.is_avoided(A)
