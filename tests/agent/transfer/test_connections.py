"""How many connections a process may have, and silences that are judged fairly."""

import resource
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from rebalancer.agent.transfer.connections import FILES_EACH, MOST, OWN_FILES, most_connections
from rebalancer.agent.transfer.sources.silence import Silences


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        (resource.RLIM_INFINITY, MOST),
        (1 << 20, MOST),
        (256, (256 - OWN_FILES) // FILES_EACH),
        (20, 2),
    ],
)
def test_the_bound_follows_the_limit_of_files(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    """With room for what else the process opens."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert most_connections() == most
    assert most == MOST or most == 2 or most * FILES_EACH + OWN_FILES <= limit


# --- silence ---------------------------------------------------------------------------------


async def wait_silently(silences: Silences, news: list[bool], most_s: float = 10.0) -> float:
    """After how many seconds the silence was ended."""
    begun = trio.current_time()
    with silences.limit(most_s, lambda: news.pop(0) if news else False):
        await trio.sleep_forever()
    return trio.current_time() - begun


async def test_silence_has_an_end(autojump_clock: MockClock) -> None:
    """Within a tick of its time; something to read is time for one more look, and not for ever."""
    silences = Silences()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silences.run, 10.0)
        assert 9.5 < await wait_silently(silences, []) < 11.5
        assert 10.5 < await wait_silently(silences, [True] * 99) < 12.5
        nursery.cancel_scope.cancel()


async def test_time_in_which_the_process_did_not_run_does_not_count(mock_clock: MockClock) -> None:
    """An hour of sleep is one tick: what came meanwhile is read first."""
    silences, heard = Silences(), trio.Event()

    async def wait() -> None:
        with silences.limit(10.0) as silence:
            await heard.wait()
        assert not silence.scope.cancelled_caught
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(silences.run, 10.0))
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        heard.set()
