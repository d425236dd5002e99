"""This module limits how many updates of a job run at a time: by the operator, and by overload.

A metadata tier that is overloaded is given fewer updates than the operator allows; a shard that is
down is waited for, but not for ever.
"""

from collections import defaultdict

import trio

from rebalancer.domain.pace import Pace, Patience
from rebalancer.domain.tiers import shard_name
from rebalancer.log import get_logger
from rebalancer.waits import Waits

log = get_logger()


class UpdateLimiter:
    """This object lets updates begin, and slows them down in an overload.

    Mutable state: the limiter and the pace, in step; the patience with each shard.  `waits` has
    the shards that are waited for.
    """

    def __init__(self, limit: int, patience_s: float, waits: Waits | None = None) -> None:
        self._pace = Pace(limit)
        self._limiter = trio.CapacityLimiter(limit)
        self._patience_s = patience_s
        self._shards: defaultdict[int, Patience] = defaultdict(self.patience)
        self._waits = Waits() if waits is None else waits

    @property
    def limit(self) -> int:
        """Return the limit that the operator has set."""
        return self._pace.ceiling

    @property
    def in_force(self) -> int:
        """Return the limit in force: an update may begin while fewer than these run."""
        return int(self._limiter.total_tokens)

    def resize(self, limit: int) -> None:
        """Allow `limit` updates from now on, whatever was in force; those that run go on."""
        self._pace.resize(limit)
        self._limiter.total_tokens = limit

    async def acquire(self, borrower: object) -> None:
        """Wait until one more update may run; `release` must follow."""
        await self._limiter.acquire_on_behalf_of(borrower)

    def release(self, borrower: object) -> None:
        """Note that an update has ended."""
        self._limiter.release_on_behalf_of(borrower)

    def patience(self) -> Patience:
        """Return a patience for one update that is retried."""
        return Patience(self._patience_s)

    def answered(self, shard: int) -> None:
        """Note that a shard has answered, whatever its answer."""
        self._shards[shard].on_success()
        self._waits.end(shard_name(shard))

    def succeeded(self, shard: int) -> None:
        """Note that a shard has done what it was asked."""
        self.answered(shard)
        self._pace.on_success()
        self._apply()

    def failed(self, shard: int, detail: str) -> None:
        """Note that a shard did not answer, or has not done what it was asked, for now."""
        self._shards[shard].on_failure(trio.current_time())
        self._waits.begin(shard_name(shard), detail)

    def overloaded(self, asked_at: float) -> None:
        """Note that a shard has too much to do, as it answered to what was asked at `asked_at`."""
        at_work = self._limiter.borrowed_tokens
        self._pace.on_overload(asked_at=asked_at, now=trio.current_time(), at_work=at_work)
        before = self.in_force
        self._apply()
        if self.in_force != before:
            log.warning("a shard is overloaded", limit=self.limit, in_force=self.in_force)

    def is_given_up(self, shard: int) -> bool:
        """Tell whether a shard has done nothing for so long that it is not waited for."""
        return self._shards[shard].is_over(trio.current_time())

    def _apply(self) -> None:
        self._limiter.total_tokens = self._pace.limit
