"""Sweeps of crashes: a job dies at each of its commits, a later one each time, and starts again."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from rebalancer.manager.store.job_store import JobStore

T = TypeVar("T")
#: What a run must do to each store that it opens whose commits count.
Arm = Callable[[JobStore], None]

WHERE = pytest.mark.parametrize("where", ["before_commit", "after_commit"])


class Crash(Exception):
    """Stands for kill -9: nothing after it runs, not even cleanup that matters."""


async def sweep(
    folder: Path,
    where: str,
    opened: Callable[[Path], AbstractAsyncContextManager[T]],
    run: Callable[[T, Arm], Awaitable[object]],
    finish: Callable[[T, int], Awaitable[None]],
) -> int:
    """Crash `run` one commit later each time, until it gets through; the number of crashes.

    Each turn has a world of its own, which `opened` lends.  `finish` starts the job again and looks
    at the world.
    """
    for k in itertools.count(1):
        commits, crashed = 0, False

        def crash() -> None:
            nonlocal commits
            commits += 1
            if commits == k:  # noqa: B023 - called within this turn only
                raise Crash

        async with opened(folder / str(k)) as world:
            try:
                await run(world, lambda store: setattr(store.database, where, crash))
            except* Crash:
                crashed = True
            with trio.fail_after(100_000):
                await finish(world, k)
        if not crashed:
            return k - 1
    raise AssertionError
