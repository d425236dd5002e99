"""Sharing one limit of bytes per second between fetcher processes.

The agent holds one bucket that fills at the limit; fetchers receive first and then ask for what
they owe, and wait until it is granted.  So the sum is exact whoever needs how much, and without
a limit nobody asks.  Times are seconds of whatever clock the caller has.
"""

import math
from collections.abc import Callable

import attrs
import trio

#: A bucket holds what flows in so many seconds, and grants come in steps of about half of it.
BURST_S = 0.1
#: Without a limit, and the least with one, a fetcher receives so many bytes at once.
AT_ONCE_BYTES, LEAST_BYTES = 1 << 20, 4 << 10


def receive_at_once(rate: int | None) -> int:
    """Bytes to receive at once, so that a wait for the next grant stays short."""
    if rate is None:
        return AT_ONCE_BYTES
    return max(LEAST_BYTES, min(AT_ONCE_BYTES, int(rate * BURST_S / 2)))


@attrs.define
class Bucket:
    """What may flow now.  Mutable state: the limit, bytes at hand, and when that was reckoned."""

    rate: int | None
    _level: float = 0.0
    _at: float = -math.inf

    def limit(self, rate: int | None, now: float) -> None:
        """Change the limit; what has flowed in stays."""
        self._fill(now)
        self.rate = rate

    def take(self, wanted: int, now: float) -> int:
        """As much of `wanted` as is there."""
        if self.rate is None:
            return wanted
        self._fill(now)
        granted = min(wanted, int(self._level))
        self._level -= granted
        return granted

    def wait_s(self, wanted: int) -> float:
        """Seconds from the last `take` until a grant is worth its message."""
        if self.rate is None:
            return 0.0
        enough = min(wanted, self.rate * BURST_S / 2)
        return max(0.0, (max(1.0, enough) - self._level) / self.rate)

    def _fill(self, now: float) -> None:
        if self.rate is not None:
            flowed = self.rate * max(0.0, now - self._at)
            self._level = min(self._level + flowed, max(1.0, self.rate * BURST_S))
        self._at = now


@attrs.define(eq=False)
class Allowance:
    """A fetcher's side.

    Mutable state: whether there is a limit, bytes to receive at once, what is owed, how much of
    it was asked for, and who waits.
    """

    #: Called when there is something to ask for.
    on_want: Callable[[], None] = lambda: None
    is_limited: bool = False
    at_once: int = AT_ONCE_BYTES
    _owed: int = 0
    _asked: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    async def received(self, size: int) -> None:
        """`size` bytes came in; wait until that is granted."""
        if not self.is_limited:
            return
        self._owed += size
        self.on_want()
        while self._owed > 0 and self.is_limited:
            await self._changed.wait()

    def to_ask(self) -> int:
        """What is owed and was not asked for yet; it is asked for now."""
        wanted, self._asked = self._owed - self._asked, self._owed
        return wanted

    def granted(self, size: int) -> None:
        """The agent grants `size` bytes."""
        self._owed = max(0, self._owed - size)
        self._asked = max(0, self._asked - size)
        self._wake()

    def limit(self, is_limited: bool, at_once: int) -> None:
        """From now on there is a limit, or none: then nothing is owed any more."""
        self.is_limited, self.at_once = is_limited, at_once
        if not is_limited:
            self._owed = self._asked = 0
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
