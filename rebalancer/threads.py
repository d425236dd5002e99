"""This module runs blocking work in threads, with a limit for each kind of work.

With one limit for all, sixty slow readers of a database kept commits, status requests and look-ups
of names waiting for a thread.  Here a kind that is slow makes only its own kind wait.
"""

import enum
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Work(enum.Enum):
    """A kind of blocking work."""

    #: Transactions of state files.  A file's lock lets one writer and one reader in.
    STORE = enum.auto()
    #: Looking into state files from outside, for requests.
    VIEWS = enum.auto()
    #: PostgreSQL clones, a thread for each reader that the configuration can allow.
    CLONES = enum.auto()
    #: Names, which a dead nameserver keeps waiting for seconds.
    NAMES = enum.auto()
    #: Objects on the disk of a storage node.
    OBJECTS = enum.auto()
    #: All else: configuration, listings, folders.
    OTHER = enum.auto()


#: How many threads each kind may have at a time.
THREADS = {
    Work.STORE: 32,
    Work.VIEWS: 16,
    Work.CLONES: 250,
    Work.NAMES: 16,
    Work.OBJECTS: 64,
    Work.OTHER: 16,
}

_limiters = trio.lowlevel.RunVar[dict[Work, trio.CapacityLimiter]]("work limiters")


def limiter(work: Work) -> trio.CapacityLimiter:
    """Return the limiter of `work` in this run of trio."""
    try:
        made = _limiters.get()
    except LookupError:
        made = {kind: trio.CapacityLimiter(count) for kind, count in THREADS.items()}
        _limiters.set(made)
    return made[work]


async def run_sync(
    work: Work,
    fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
) -> T:
    """Run the blocking `fn(*args)` in a thread as soon as `work` has one free."""
    return await trio.to_thread.run_sync(
        fn, *args, limiter=limiter(work), abandon_on_cancel=abandon_on_cancel
    )
