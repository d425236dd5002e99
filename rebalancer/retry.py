"""Trying again: with pauses that grow, and spread so that many clients do not knock together."""

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger

log = get_logger()
T = TypeVar("T")


def pauses(first_s: float, longest_s: float, rng: random.Random | None = None) -> Iterator[float]:
    """Endless pauses in seconds: doubling from `first_s` to `longest_s`, each cut by up to half."""
    draw = (rng or random).uniform
    pause = first_s
    while True:
        yield draw(pause / 2, pause)
        pause = min(pause * 2, longest_s)


async def insistently(
    ask: Callable[[], Awaitable[T]], *, tries: int, first_s: float, longest_s: float
) -> T:
    """Ask until there is an answer.

    Raises:
      PeerError: none came in `tries` tries, or one that no further try will change.
    """
    waits = pauses(first_s, longest_s)
    for _ in range(tries - 1):
        try:
            return await ask()
        except PeerError as exc:
            if not exc.retryable:
                raise
            log.warning("asking again", error=str(exc))
        await trio.sleep(next(waits))
    return await ask()
