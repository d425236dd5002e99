"""What is under way at each destination."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.manager.fleet.health import AVOID_MAX_S, AVOID_S
from rebalancer.manager.fleet.ledger import UNREPORTED_S, FleetLedger, Standing

A, B = "2.stor.lab", "3.stor.lab"


@pytest.mark.row("N13")
async def test_claims_count_until_they_have_settled(autojump_clock: object) -> None:
    """Until storinfo can have told of them: copied ones, and lost ones, which may be there too."""
    with FleetLedger().open(4) as ledger:
        for size in (1, 300, 5000, 70_000):
            ledger.claim(A, size)
            ledger.posted(A)
        assert ledger.claimed(A) == 75_301
        ledger.done(A, 5000)
        ledger.failed(A, 300)
        ledger.unsent(A, 70_000)
        assert ledger.claimed(A) == 5301
        await trio.sleep(UNREPORTED_S - 1)
        assert ledger.claimed(A) == 5301
        await trio.sleep(2)
        assert ledger.claimed(A) == 1
        assert ledger.claimed(B) == 0


async def test_a_destination_is_busy_at_its_limit() -> None:
    """And whoever waits is woken when it is not any more."""
    with FleetLedger().open(2) as ledger:
        ledger.posted(A)
        assert not ledger.is_busy(A)
        ledger.posted(A)
        assert ledger.is_busy(A)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.wait_change)
            await trio.testing.wait_all_tasks_blocked()
            ledger.done(A, 0)
        assert not ledger.is_busy(A)


@pytest.mark.row("L24")
async def test_a_destination_that_fails_is_avoided_longer_each_time(
    autojump_clock: object,
) -> None:
    """Doubled in a row up to a limit; a success forgives all."""
    with FleetLedger().open(4) as ledger:
        for failures in range(10):
            ledger.posted(A)
            ledger.failed(A, 0)
            pause = min(AVOID_S * 2**failures, AVOID_MAX_S)
            assert ledger.health.is_avoided(A)
            await trio.sleep(pause - 1)
            assert ledger.health.is_avoided(A)
            await trio.sleep(2)
            assert not ledger.health.is_avoided(A)
        ledger.posted(A)
        ledger.done(A, 0)
        ledger.posted(A)
        ledger.failed(A, 0)
        await trio.sleep(AVOID_S + 1)
        assert not ledger.health.is_avoided(A)


async def test_jobs_see_each_others_claims(autojump_clock: object) -> None:
    """Both count everywhere; those of a job that is over vanish, but for what is settling."""
    fleet_ledger = FleetLedger()
    with fleet_ledger.open(2) as one:
        one.claim(A, 1)
        one.posted(A)
        with fleet_ledger.open(1) as other:
            other.claim(A, 20)
            other.claim(A, 300)
            other.posted(A)
            other.posted(A)
            assert one.claimed(A) == other.claimed(A) == 321
            assert one.is_busy(A)
            other.failed(A, 20)
            assert one.health.is_avoided(A)
            changes = one.changes
        assert one.claimed(A) == 21
        assert not one.is_busy(A)
        assert one.changes > changes  # whoever waits for room looks again
        await trio.sleep(UNREPORTED_S + 1)
        assert one.claimed(A) == 1


async def test_a_cancelled_job_leaves_no_claims(autojump_clock: object) -> None:
    """However it ends."""
    fleet_ledger = FleetLedger()
    with trio.move_on_after(1), fleet_ledger.open(2) as ledger:
        ledger.claim(A, 20)
        ledger.posted(A)
        await trio.sleep_forever()
    assert [(one.claimed, one.assignments) for one in fleet_ledger.snapshot()] == [(0, 0)]


async def test_a_node_is_promised_until_what_was_to_come_has_come(autojump_clock: object) -> None:
    """Room that storinfo only may not know to be used is promised to nobody."""
    fleet_ledger = FleetLedger()
    with fleet_ledger.open(2) as ledger:
        assert not fleet_ledger.is_promised(A)
        assert fleet_ledger.snapshot() == []  # a question makes no destination
        ledger.claim(A, 5)
        ledger.claim(A, 7)
        ledger.posted(A)
        ledger.done(A, 5)
        assert fleet_ledger.is_promised(A)
        ledger.posted(A)
        ledger.done(A, 7)
        assert not fleet_ledger.is_promised(A)
        assert ledger.claimed(A) == 12


async def test_destinations_can_be_shown(autojump_clock: object) -> None:
    """What is under way, and why one gets nothing."""
    fleet_ledger = FleetLedger()
    with fleet_ledger.open(2) as ledger:
        ledger.claim(B, 7)
        ledger.posted(B)
        ledger.claim(A, 5)
        ledger.posted(A)
        ledger.failed(A, 5)
        await trio.sleep(4)
        shown = fleet_ledger.snapshot()
    left = shown[0].avoided_for_s
    assert left == pytest.approx(AVOID_S - 4)
    assert shown == [
        Standing(A, claimed=5, assignments=0, failures=1, avoided_for_s=left),
        Standing(B, claimed=7, assignments=1, failures=0, avoided_for_s=0),
    ]


@pytest.mark.row("L22")
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "done", "failed", "unsent", "unclaim", "wait", "close"]),
            st.sampled_from([0, 1]),
            st.integers(1, 1000),
        ),
        max_size=40,
    )
)
def test_nothing_is_left_of_any_history(history: list[tuple[str, int, int]]) -> None:
    """Claims are what the open jobs claim and what settles; at the end they are exactly nothing."""

    async def run() -> None:
        fleet_ledger = FleetLedger()
        open_jobs = [fleet_ledger.open(3), fleet_ledger.open(3)]
        jobs = [job.__enter__() for job in open_jobs]
        claims: list[list[int]] = [[], []]
        settling: list[tuple[float, int]] = []
        for step, index, size in history:
            mine = claims[index]
            if step == "wait":
                await trio.sleep(size / 20)
            elif step == "claim":
                jobs[index].claim(A, size)
                jobs[index].posted(A)
                mine.append(size)
            elif step == "close":
                open_jobs[index].__exit__(None, None, None)
                open_jobs[index] = fleet_ledger.open(3)
                jobs[index] = open_jobs[index].__enter__()
                mine.clear()
            elif mine:
                size = mine.pop()
                if step == "unclaim":
                    jobs[index].unclaim(A, size)
                    jobs[index].unsent(A, 0)
                else:
                    getattr(jobs[index], step)(A, size)
                if step in ("done", "failed"):
                    settling.append((trio.current_time() + UNREPORTED_S, size))
            now = trio.current_time()
            expected = sum(sum(mine) for mine in claims)
            expected += sum(size for until, size in settling if until > now)
            assert expected == jobs[0].claimed(A)
            assert jobs[0].is_busy(A) == (len(claims[0]) + len(claims[1]) >= 3)
        for job in open_jobs:
            job.__exit__(None, None, None)
        await trio.sleep(UNREPORTED_S)
        assert all((one.claimed, one.assignments) == (0, 0) for one in fleet_ledger.snapshot())

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
