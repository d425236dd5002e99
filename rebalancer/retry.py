"""This module tries again, with pauses that grow and are spread over many clients.

`insistently` tries a few times; `patiently` tries for as long as waiting can help, and says so.
"""

import errno
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from rebalancer.errors import JobFailed, PeerError, StoreBusy, StoreError
from rebalancer.log import get_logger
from rebalancer.waits import Waits

log = get_logger()
T = TypeVar("T")

#: What a process or its machine runs out of, and will have again: files and memory.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
#: Shortages of disk and processes besides, and troubles of disks and mounts that a person mends.
_PASSING_ERRNO = SHORTAGES | frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
#: The same by sqlite's result codes: busy, locked, no memory, I/O error, full, cannot open.
_PASSING_SQLITE = frozenset({5, 6, 7, 10, 13, 14})


def waiting_helps(exc: BaseException) -> bool:
    """Tell whether what failed with `exc` may succeed later, alone or with a person's help."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(waiting_helps, exc.exceptions))
    if isinstance(exc, PeerError):
        return exc.retryable
    if isinstance(exc, StoreBusy):
        return True
    if isinstance(exc, StoreError | JobFailed):
        return exc.__cause__ is not None and waiting_helps(exc.__cause__)
    if (code := getattr(exc, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _PASSING_SQLITE  # extended codes have more above
    if isinstance(exc, OSError):
        return exc.errno in _PASSING_ERRNO
    # No thread can be had: the machine has too many.
    is_threads = isinstance(exc, RuntimeError) and "start new thread" in str(exc)
    return is_threads or isinstance(exc, MemoryError)


def pauses(first_s: float, longest_s: float, rng: random.Random | None = None) -> Iterator[float]:
    """Yield pauses for ever: doubling from `first_s` to `longest_s`, each cut by up to half."""
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


async def patiently(
    ask: Callable[[], Awaitable[T]],
    *,
    waits: Waits,
    subject: str,
    first_s: float = 0.5,
    longest_s: float = 15.0,
    bound_s: float = math.inf,
    rest: Callable[[float], Awaitable[None]] = trio.sleep,
) -> T:
    """Ask for as long as waiting helps, and show meanwhile that `subject` is waited for.

    `rest` sleeps between two tries.

    Raises:
      Exception: one that no further try will change, or that still came after `bound_s` seconds.
    """
    pause, until = pauses(first_s, longest_s), trio.current_time() + bound_s
    try:
        while True:
            try:
                return await ask()
            except Exception as exc:
                if not waiting_helps(exc) or trio.current_time() >= until:
                    raise
                waits.begin(subject, str(exc) or repr(exc))
            await rest(next(pause))
    finally:
        waits.end(subject)
