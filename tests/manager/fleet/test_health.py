"""Destinations are judged by how they answer: some are away, some are avoided."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.manager.fleet.health import (
    AVOID_MAX_S,
    AVOID_S,
    HEARD_S,
    PROBE_MAX_S,
    PROBE_S,
    SILENT,
    Changes,
    Health,
)

A, B = "2.stor.lab", "3.stor.lab"


async def test_a_destination_is_away_after_two_questions_without_an_answer(
    autojump_clock: object,
) -> None:
    """An answer between them shows that it is there."""
    health = Health(Changes())
    health.no_answer(A, "refused")
    health.answered(A)
    for _ in range(SILENT - 1):
        health.no_answer(A, "refused")
    assert not health.is_away(A)
    health.no_answer(A, "timed out")
    assert health.is_away(A)
    assert health.away() == [(A, "timed out")]
    await trio.sleep(7)
    assert health.away_s(A) == pytest.approx(7)
    assert health.away_s(B) == 0


async def test_a_destination_that_is_away_is_probed_at_growing_intervals(
    autojump_clock: object,
) -> None:
    """One task takes the probe; once the destination answers, it is given work at once."""
    health = Health(Changes())
    health.set_away(A, "gone")
    pause = PROBE_S
    for _ in range(10):
        assert health.take_due() == set()
        assert health.next_probe_at() == pytest.approx(trio.current_time() + pause)
        await trio.sleep_until(health.next_probe_at())
        assert health.take_due() == {A}
        assert health.take_due() == set()
        health.still_away(A, "gone")
        pause = min(2 * pause, PROBE_MAX_S)
    health.back(A)
    assert (health.is_away(A), health.times_back, health.away()) == (False, 1, [])


async def test_a_destination_of_which_nothing_is_known_is_probed(autojump_clock: object) -> None:
    """So is one that has not answered to anything for long."""
    health = Health(Changes())
    assert not health.is_there(A)
    assert health.take_due() == {A}
    health.back(A)
    assert health.is_there(A)
    await trio.sleep(HEARD_S + 1)
    assert not health.is_there(A)
    assert health.take_due() == {A}


async def test_what_an_agent_announces_is_known_and_asked_for_anew(autojump_clock: object) -> None:
    """An agent that takes no bucket objects may be replaced by one that does."""
    changes = Changes()
    health = Health(changes)
    assert health.takes_v2(A) is None
    assert health.take_due() == {A}
    before = changes.count
    health.answered_probe(A, frozenset())
    assert (changes.count > before, health.takes_v2(A), health.take_due()) == (True, False, set())
    await trio.sleep(HEARD_S + 1)
    assert (health.takes_v2(A), health.take_due()) == (False, {A})
    health.answered_probe(A, {"v2"})
    await trio.sleep(HEARD_S + 1)
    assert (health.takes_v2(A), health.take_due()) == (True, set())


async def test_one_that_is_away_is_probed_once_for_all_that_is_unknown(
    autojump_clock: object,
) -> None:
    """At the intervals of its absence."""
    health = Health(Changes())
    health.set_away(A, "gone")
    assert health.takes_v2(A) is None
    assert health.take_due() == set()


async def test_a_destination_that_answers_but_takes_nothing_is_timed(
    autojump_clock: object,
) -> None:
    """From the first post without an answer to the next assignment that it takes or refuses."""
    health = Health(Changes())
    health.no_answer(A, "timed out", to_post=True)
    await trio.sleep(5)
    health.answered(A)
    health.no_answer(A, "timed out", to_post=True)
    assert health.untaken_s(A) == pytest.approx(5)
    health.took(A)
    assert health.untaken_s(A) == 0


@given(failures=st.integers(1, 12))
def test_a_destination_that_fails_is_avoided_for_a_bounded_time(failures: int) -> None:
    """Twice as long for each failure in a row."""

    async def run() -> None:
        health = Health(Changes())
        for _ in range(failures):
            health.failed(A)
        pause = min(AVOID_S * 2 ** (failures - 1), AVOID_MAX_S)
        assert health.failures(A)[0] == failures
        assert health.failures(A)[1] == pytest.approx(pause)
        assert health.is_avoided(A)
        await trio.sleep(pause)
        assert not health.is_avoided(A)
        health.succeeded(A)
        assert health.failures(A) == (0, 0)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_waiting_tasks_are_woken_when_a_destination_comes_back(
    autojump_clock: object,
) -> None:
    """Each time something may be possible that was not."""
    changes = Changes()
    health = Health(changes)
    health.set_away(A, "gone")
    before = changes.count
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes.wait)
        await trio.testing.wait_all_tasks_blocked()
        health.back(A)
    assert changes.count > before
