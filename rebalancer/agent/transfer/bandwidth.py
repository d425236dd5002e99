"""This module shares one limit of bytes per second between fetcher processes.

The agent holds one bucket that fills at the limit.  A fetcher asks before it receives, and what
it did not need goes to its next transfer; so the sum is exact whoever needs how much, and without
a limit nobody asks.  Times are seconds of whatever clock the caller has.
"""

import math
from collections.abc import Callable

import attrs
import trio

#: A bucket holds what flows in so many seconds.
BURST_S = 0.1
#: Without a limit, and the least with one, a fetcher receives so many bytes at once.
AT_ONCE_BYTES, LEAST_BYTES = 1 << 20, 4 << 10


def receive_at_once(rate: int | None) -> int:
    """Return how many bytes to ask for and to receive at once: half of what the bucket holds."""
    if rate is None:
        return AT_ONCE_BYTES
    return max(LEAST_BYTES, min(AT_ONCE_BYTES, int(rate * BURST_S / 2)))


@attrs.define
class Bucket:
    """A bucket is what may flow now.

    Mutable state: the limit, bytes at hand, and when that was reckoned.
    """

    rate: int | None
    _level: float = 0.0
    _at: float = -math.inf

    def limit(self, rate: int | None, now: float) -> None:
        """Change the limit; what has flowed in stays."""
        self._fill(now)
        self.rate = rate

    def take(self, wanted: int, now: float) -> bool:
        """Take `wanted` bytes, if so many are there."""
        if self.wait_s(wanted, now) > 0:
            return False
        self._level -= wanted
        return True

    def wait_s(self, wanted: int, now: float) -> float:
        """Return how many seconds it takes until `wanted` bytes are there."""
        if self.rate is None:
            return 0.0
        self._fill(now)
        return max(0.0, wanted - self._level) / self.rate

    def _fill(self, now: float) -> None:
        if self.rate is not None:
            most = max(float(LEAST_BYTES), self.rate * BURST_S)
            # At first there is nothing: an infinite time would fill it.
            passed = now - self._at if math.isfinite(self._at) else 0.0
            self._level = min(self._level + self.rate * max(0.0, passed), most)
        self._at = now


@attrs.define(eq=False)
class Allowance:
    """An allowance is a fetcher's leave to receive, which it asks the agent for.

    Mutable state: whether there is a limit, bytes to receive at once, bytes that may be received
    now, whether some were asked for, and an event for each change.
    """

    #: Called to ask for `at_once` bytes.
    on_want: Callable[[], None] = lambda: None
    is_limited: bool = False
    at_once: int = AT_ONCE_BYTES
    _left: int = 0
    _is_asked: bool = False
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_open(self) -> bool:
        """Return whether there is leave to receive."""
        return not self.is_limited or self._left > 0

    async def wait(self) -> None:
        """Wait for leave to receive about `at_once` bytes; `spend` counts what comes then."""
        while not self.is_open:
            if not self._is_asked:
                self._is_asked = True
                self.on_want()
            await self._changed.wait()

    def spend(self, size: int) -> None:
        """Count `size` bytes as received, a negative number of those that did not come after all.

        Too many are made up for by the next ones.
        """
        if self.is_limited:
            self._left -= size
            if size < 0:
                self._wake()

    def granted(self, size: int) -> None:
        """Add `size` bytes that the agent has granted."""
        self._is_asked = False
        self._left += size
        self._wake()

    def limit(self, is_limited: bool, at_once: int) -> None:
        """Change the limit, or end it: under the new one nothing was granted or asked for yet."""
        self.is_limited, self.at_once = is_limited, at_once
        self._left, self._is_asked = 0, False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
