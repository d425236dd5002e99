"""Connections to sources: how many are kept, for how long; and silences that are judged fairly."""

import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from rebalancer.agent import connections as module
from rebalancer.agent.connections import (
    AGE_S,
    FILES_EACH,
    KEPT_EACH,
    MOST,
    OWN_FILES,
    Connections,
    most_connections,
)
from rebalancer.agent.patience import Patience


@asynccontextmanager
async def pairs(count: int) -> AsyncIterator[list[tuple[trio.SocketStream, trio.SocketStream]]]:
    """Connected streams: ours and theirs."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            both = trio.socket.socketpair()
            streams = (trio.SocketStream(both[0]), trio.SocketStream(both[1]))
            for stream in streams:
                await stack.enter_async_context(stream)
            made.append(streams)
        yield made


def is_closed(stream: trio.SocketStream) -> bool:
    return stream.socket.fileno() < 0


async def test_all_sources_together_have_a_bound() -> None:
    """Those that were kept for longest go first, whichever source they lead to."""
    pool = Connections(most=5)
    async with pairs(8) as made:
        for number, (ours, _) in enumerate(made):
            pool.keep(f"{number}.stor", ours)
        assert [is_closed(ours) for ours, _ in made] == [True] * 3 + [False] * 5
        assert pool.take("0.stor") is None
        assert pool.take("7.stor") is made[7][0]
        async with pool.turns, trio.open_nursery():
            pool.make_room()
            assert len(pool) == 4
        pool.close()
        assert len(pool) == 0


async def test_one_source_has_a_bound_too() -> None:
    """And gets back what was used last."""
    pool = Connections(most=100)
    async with pairs(KEPT_EACH + 1) as made:
        for ours, _ in made:
            pool.keep("1.stor", ours)
        assert (len(pool), is_closed(made[-1][0])) == (KEPT_EACH, True)
        assert pool.take("1.stor") is made[-2][0]
        pool.close()


async def test_what_its_source_has_closed_is_closed() -> None:
    """Without waiting until somebody wants it: else its socket would wait for ever."""
    pool = Connections(most=100)
    async with pairs(3) as made:
        for ours, _ in made:
            pool.keep("1.stor", ours)
        await made[0][1].aclose()
        await made[1][1].send_all(b"unasked")
        pool.tidy()
        assert [is_closed(ours) for ours, _ in made] == [True, True, False]
        await made[2][1].aclose()
        assert pool.take("1.stor") is None
        assert (is_closed(made[2][0]), len(pool)) == (True, 0)


async def test_what_nobody_used_for_long_is_closed(autojump_clock: MockClock) -> None:
    """By itself, within seconds of its time."""
    pool = Connections(most=100)
    async with pairs(2) as made, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        pool.keep("1.stor", made[0][0])
        await trio.sleep(AGE_S / 2)
        pool.keep("1.stor", made[1][0])
        await trio.sleep(AGE_S / 2 + module.TIDY_S + 0.1)
        assert [is_closed(ours) for ours, _ in made] == [True, False]
        nursery.cancel_scope.cancel()


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


async def wait_silently(patience: Patience, news: list[bool], most_s: float = 10.0) -> float:
    """After how many seconds the silence was ended."""
    begun = trio.current_time()
    with patience.limit(most_s, lambda: news.pop(0) if news else False):
        await trio.sleep_forever()
    return trio.current_time() - begun


async def test_silence_has_an_end(autojump_clock: MockClock) -> None:
    """Within a tick of its time; something to read is time for one more look, and not for ever."""
    patience = Patience()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.run, 10.0)
        assert 9.5 < await wait_silently(patience, []) < 11.5
        assert 10.5 < await wait_silently(patience, [True] * 99) < 12.5
        nursery.cancel_scope.cancel()


async def test_time_in_which_the_process_did_not_run_does_not_count(mock_clock: MockClock) -> None:
    """An hour of sleep is one tick: what came meanwhile is read first."""
    patience, heard = Patience(), trio.Event()

    async def wait() -> None:
        with patience.limit(10.0) as silence:
            await heard.wait()
        assert not silence.scope.cancelled_caught
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(patience.run, 10.0))
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        heard.set()
