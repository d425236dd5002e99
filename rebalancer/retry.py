"""This module asks again after transient failures, with growing pauses spread over many clients.

`retry` asks a few times; `retry_while_transient` asks for as long as that can help, and shows
operators what it waits for.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.transient import is_transient
from rebalancer.waits import Waits

log = get_logger()
T = TypeVar("T")


def pauses(first_s: float, longest_s: float, rng: random.Random | None = None) -> Iterator[float]:
    """Yield pauses for ever: doubling from `first_s` to `longest_s`, each cut by up to half."""
    draw = (rng or random).uniform
    pause = first_s
    while True:
        yield draw(pause / 2, pause)
        pause = min(pause * 2, longest_s)


async def retry(
    ask: Callable[[], Awaitable[T]], *, tries: int, first_s: float, longest_s: float
) -> T:
    """Call `ask` up to `tries` times, with pauses in between, and return its answer.

    Raises:
      PeerError: the last call failed, or an earlier one in a way that is not transient.
    """
    waits = pauses(first_s, longest_s)
    for _ in range(tries - 1):
        try:
            return await ask()
        except PeerError as exc:
            if not exc.is_transient:
                raise
            log.warning("peer asked once more", error=str(exc))
        await trio.sleep(next(waits))
    return await ask()


async def retry_while_transient(
    ask: Callable[[], Awaitable[T]],
    *,
    waits: Waits,
    subject: str,
    first_s: float = 0.5,
    longest_s: float = 15.0,
    bound_s: float = math.inf,
    sleep: Callable[[float], Awaitable[None]] = trio.sleep,
) -> T:
    """Call `ask` until it succeeds, and show operators meanwhile that `subject` is waited for.

    `first_s` and `longest_s` bound the pauses between two calls; `sleep` makes them.

    Raises:
      Exception: a failure that is not transient, or the first one after `bound_s` seconds.
    """
    pause, until = pauses(first_s, longest_s), trio.current_time() + bound_s
    try:
        while True:
            try:
                return await ask()
            except Exception as exc:
                if not is_transient(exc) or trio.current_time() >= until:
                    raise
                waits.begin(subject, str(exc) or repr(exc))
            await sleep(next(pause))
    finally:
        waits.end(subject)
