"""A kind of blocking work that is slow makes no other kind wait."""

import threading

import trio
import trio.testing

from rebalancer.threads import THREADS, Work, limiter, run_sync


def test_every_kind_has_a_number_of_threads() -> None:
    """None is without a limit."""
    assert set(THREADS) == set(Work)


async def test_slow_work_of_one_kind_leaves_the_others_alone() -> None:
    """While every thread for names is taken, a transaction still runs."""
    release = threading.Event()
    count = THREADS[Work.NAMES]

    def hold() -> None:
        release.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(2 * count):
            nursery.start_soon(run_sync, Work.NAMES, hold)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter(Work.NAMES).available_tokens == 0
        with trio.fail_after(30):
            assert await run_sync(Work.STORE, lambda: "done") == "done"
        release.set()
