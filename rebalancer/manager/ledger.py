"""What a job has under way at each destination: the one thing that flows against the stream.

Its methods have no await, hence are atomic.  Nothing in it is worth saving: a restart rebuilds
it from the open assignments.
"""

from collections import defaultdict

import attrs
import trio

#: A finished claim still counts this many seconds: until the node's heartbeat (5 s), storinfo's
#: poll of it (30 s) and ours (10 s) can have told of the space it used.
SETTLING_S = 45.0
#: A destination that failed is avoided for this many seconds, doubled each time in a row.
AVOID_S = 10.0
AVOID_MAX_S = 600.0


@attrs.define
class _Account:
    claimed: int = 0
    settling: list[tuple[float, int]] = attrs.field(factory=list)  # (until, bytes)
    assignments: int = 0
    failures: int = 0
    avoid_until: float = 0.0


class Ledger:
    """Claims in bytes, assignments under way and failures, by destination."""

    def __init__(self, max_assignments: int) -> None:
        self._max_assignments = max_assignments
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._changed = trio.Event()

    def claim(self, shark: str, size: int) -> None:
        """Promise `size` bytes at `shark` to an object."""
        self._accounts[shark].claimed += size

    def claimed(self, shark: str) -> int:
        """Bytes promised at `shark`, with those it may not have reported as used yet."""
        account = self._accounts[shark]
        now = trio.current_time()
        account.settling = [(until, size) for until, size in account.settling if until > now]
        return account.claimed + sum(size for _, size in account.settling)

    def posted(self, shark: str) -> None:
        """One more assignment is under way to `shark`."""
        self._accounts[shark].assignments += 1

    def done(self, shark: str, size: int, *, copied: bool) -> None:
        """An assignment of `size` bytes is over, `copied` or not."""
        account = self._accounts[shark]
        account.assignments -= 1
        account.claimed -= size
        if copied:
            account.settling.append((trio.current_time() + SETTLING_S, size))
            account.failures = 0
        else:
            pause = min(AVOID_S * 2**account.failures, AVOID_MAX_S)
            account.avoid_until = trio.current_time() + pause
            account.failures += 1
        self._wake()

    def is_busy(self, shark: str) -> bool:
        """Whether `shark` has all the assignments it may have."""
        return self._accounts[shark].assignments >= self._max_assignments

    def is_avoided(self, shark: str) -> bool:
        """Whether `shark` failed lately."""
        return self._accounts[shark].avoid_until > trio.current_time()

    async def wait_change(self) -> None:
        """Return after the next assignment is over."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
