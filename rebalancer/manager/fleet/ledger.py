"""This module counts what the running jobs have under way at each destination.

Jobs share destinations, so each has a ledger of its own and sees the claims of all.  Methods have
no await, hence are atomic.  Nothing in it is worth saving: a restart rebuilds it from the open
assignments.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

#: A finished claim still counts this many seconds: until the node's heartbeat (5 s), storinfo's
#: poll of it (30 s) and ours (10 s) can have told of the space it used.
SETTLING_S = 45.0
#: A destination that failed is avoided for this many seconds, doubled each time in a row.
AVOID_S = 10.0
AVOID_MAX_S = 600.0
#: A destination that did not answer so many times in a row is away.
SILENT = 2
#: Seconds until one that is away is asked whether it is back, doubled each time in a row.
PROBE_S, PROBE_MAX_S = 0.5, 30.0
#: One that has answered to anything within so many seconds is there.
HEARD_S = 60.0


@attrs.define
class _Account:
    """An account is of one destination, all jobs together."""

    claimed: int = 0  # bytes, settling ones included
    settling: deque[tuple[float, int]] = attrs.field(factory=deque)  # (until, bytes), in order
    assignments: int = 0
    failures: int = 0  # in a row
    avoid_until: float = 0.0
    silent: int = 0  # questions in a row without an answer
    heard_at: float = -math.inf
    away_since: float | None = None
    why_away: str = ""
    probe_at: float = math.inf
    probe_pause_s: float = PROBE_S
    untaken_since: float | None = None  # since it took an assignment last, if it should have

    def settle(self, now: float) -> None:
        while self.settling and self.settling[0][0] <= now:
            self.claimed -= self.settling.popleft()[1]


@attrs.frozen
class Standing:
    """A standing tells people of one destination."""

    shark: str
    #: Bytes promised to objects, or copied so lately that storinfo may not know.
    claimed: int
    #: Under way.
    assignments: int
    #: In a row.
    failures: int
    #: Seconds for which it gets nothing if others can have it; 0: it is not avoided.
    avoided_for_s: float


class Ledgers:
    """A manager has one object of this kind, with the accounts of all destinations.

    Mutable state: the accounts, of which there are not more than storage nodes; how often one
    got better; and an event for that.
    """

    def __init__(self) -> None:
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._changed = trio.Event()
        #: Counts the times that a destination may have become a better one.
        self.changes = 0
        #: Counts the times that a destination which was away came back.
        self.returns = 0
        #: Names of the destinations that are away.
        self.away: set[str] = set()
        #: Names of those of which somebody wants to know whether they are.
        self.unsure: set[str] = set()

    @contextmanager
    def open(self, max_assignments: int) -> "Iterator[Ledger]":
        """Open a job's ledger.  When it is left, what the job had under way is forgotten."""
        ledger = Ledger(self, max_assignments)
        try:
            yield ledger
        finally:
            ledger.close()

    def snapshot(self) -> list[Standing]:
        """Return every destination that has, or had, to do with a job, by name."""
        return [
            Standing(
                name,
                (account := self.account(name)).claimed,
                account.assignments,
                account.failures,
                max(0.0, account.avoid_until - trio.current_time()),
            )
            for name in sorted(self._accounts)
        ]

    def account(self, shark: str) -> _Account:
        """Return the account of `shark` as of now."""
        account = self._accounts[shark]
        if account.settling:
            account.settle(trio.current_time())
        return account

    async def wait_change(self) -> None:
        """Return after the next assignment of any job is over."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let those who wait look again."""
        self.changes += 1
        self._changed.set()
        self._changed = trio.Event()


class Ledger:
    """A ledger counts a job's claims in bytes, assignments and failures, by destination.

    What it tells is of all jobs together.  Mutable state: the part of the accounts that is this
    job's.
    """

    def __init__(self, ledgers: Ledgers, max_assignments: int) -> None:
        self._all = ledgers
        self._max_assignments = max_assignments
        self._claims: Counter[str] = Counter()
        self._assignments: Counter[str] = Counter()

    # --- what the job does ---------------------------------------------------------------

    def claim(self, shark: str, size: int) -> int:
        """Promise `size` bytes at `shark` to an object; returns what is promised there now."""
        self._claims[shark] += size
        account = self._all.account(shark)
        account.claimed += size
        return account.claimed

    def posted(self, shark: str) -> None:
        """Count one more assignment under way to `shark`."""
        self._assignments[shark] += 1
        self._all.account(shark).assignments += 1

    def done(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes, whose agent did what it could."""
        self._end(shark, size).failures = 0

    def failed(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes by the fault of its agent.

        The bytes settle like others: the agent may have written them all the same.
        """
        account = self._end(shark, size)
        pause = min(AVOID_S * 2**account.failures, AVOID_MAX_S)
        account.avoid_until = trio.current_time() + pause
        account.failures += 1

    def unsent(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes that was never sent."""
        self._release(shark, size, 1)
        self._all.wake()

    def unclaim(self, shark: str, size: int) -> None:
        """Take back the promise of `size` bytes at `shark`: those objects do not go there."""
        self._release(shark, size, 0)
        self._all.wake()

    def close(self) -> None:
        """Forget what the job has under way."""
        for shark in self._claims.keys() | self._assignments.keys():
            self._release(shark, self._claims[shark], self._assignments[shark])
        self._all.wake()

    def _end(self, shark: str, size: int) -> _Account:
        account = self._release(shark, size, 1)
        account.claimed += size
        account.settling.append((trio.current_time() + SETTLING_S, size))
        self._all.wake()
        return account

    def _release(self, shark: str, size: int, assignments: int) -> _Account:
        account = self._all.account(shark)
        account.claimed -= size
        account.assignments -= assignments
        self._claims[shark] -= size
        self._assignments[shark] -= assignments
        return account

    # --- which destinations are away ------------------------------------------------------

    def no_answer(self, shark: str, why: str, *, to_post: bool = False) -> None:
        """Note that `shark` did not answer; after `SILENT` times in a row it is away."""
        account = self._all.account(shark)
        account.silent += 1
        if to_post and account.untaken_since is None:
            account.untaken_since = trio.current_time()
        if account.silent >= SILENT:
            self.set_away(shark, why)

    def set_away(self, shark: str, why: str) -> None:
        """Give `shark` nothing before it answers to a probe."""
        account = self._all.account(shark)
        account.why_away = why
        if account.away_since is None:
            account.away_since = trio.current_time()
            account.probe_at = account.away_since + account.probe_pause_s
            self._all.away.add(shark)
            self._all.wake()

    def answered(self, shark: str) -> None:
        """Note that `shark` has answered, be it only to a question."""
        account = self._all.account(shark)
        account.silent, account.heard_at = 0, trio.current_time()

    def took(self, shark: str) -> None:
        """Note that `shark` has taken or refused an assignment, so it is there."""
        account = self._all.account(shark)
        account.untaken_since, account.probe_pause_s = None, PROBE_S
        self.back(shark)

    def back(self, shark: str) -> None:
        """Note that `shark` has answered to a probe, so it seems to be there again."""
        account = self._all.account(shark)
        is_news = trio.current_time() - account.heard_at > HEARD_S
        self.answered(shark)
        if is_news:
            self._all.wake()
        if account.away_since is not None:
            account.away_since, account.probe_at = None, math.inf
            # What takes assignments again after a moment is not trusted at once each time.
            account.probe_pause_s = min(2 * account.probe_pause_s, PROBE_MAX_S)
            self._all.away.discard(shark)
            self._all.returns += 1
            self._all.wake()

    def is_away(self, shark: str) -> bool:
        """Tell whether `shark` did not answer lately."""
        return shark in self._all.away

    def is_there(self, shark: str) -> bool:
        """Tell whether `shark` has answered lately; if that is not known, it is probed."""
        if self.is_away(shark):
            return False
        if trio.current_time() - self._all.account(shark).heard_at <= HEARD_S:
            return True
        if shark not in self._all.unsure:
            self._all.unsure.add(shark)
            self._all.wake()
        return False

    def away(self) -> list[tuple[str, str]]:
        """List the destinations that are away, and why."""
        return [(shark, self._all.account(shark).why_away) for shark in sorted(self._all.away)]

    def away_s(self, shark: str) -> float:
        """Return for how many seconds `shark` has been away; 0 if it is not."""
        since = self._all.account(shark).away_since
        return 0.0 if since is None else trio.current_time() - since

    def untaken_s(self, shark: str) -> float:
        """Return for how many seconds `shark` has answered to no assignment that it was posted."""
        since = self._all.account(shark).untaken_since
        return 0.0 if since is None else trio.current_time() - since

    def next_probe_at(self) -> float:
        """Return when the next probe of a destination that is away is due."""
        return min(
            (self._all.account(shark).probe_at for shark in self._all.away), default=math.inf
        )

    def take_due(self) -> set[str]:
        """Take the destinations that are to be probed now; nobody else probes them meanwhile."""
        now = trio.current_time()
        due = {shark for shark in self._all.away if self._all.account(shark).probe_at <= now}
        due, self._all.unsure = due | self._all.unsure, set()
        for shark in due:
            self._all.account(shark).probe_at = math.inf
        return due

    def still_away(self, shark: str, why: str | None = None) -> None:
        """Note that a probe of `shark` had no answer, and `why`; None: it was not finished."""
        account = self._all.account(shark)
        if why is not None:
            self.set_away(shark, why)
        if account.away_since is not None:
            account.probe_pause_s = min(2 * account.probe_pause_s, PROBE_MAX_S)
            account.probe_at = trio.current_time() + account.probe_pause_s

    # --- how destinations stand ----------------------------------------------------------

    @property
    def changes(self) -> int:
        """Return how many times a destination may have become a better one."""
        return self._all.changes

    @property
    def returns(self) -> int:
        """Return how many times a destination that was away came back."""
        return self._all.returns

    @property
    def at_work(self) -> list[str]:
        """Return the destinations that have an assignment of the job."""
        return [shark for shark, count in self._assignments.items() if count]

    def look(self, shark: str) -> tuple[int, bool, bool]:
        """Return bytes promised at `shark`, and whether it is busy and avoided, as below."""
        account = self._all.account(shark)
        is_avoided = account.avoid_until > 0 and account.avoid_until > trio.current_time()
        return account.claimed, account.assignments >= self._max_assignments, is_avoided

    def claimed(self, shark: str) -> int:
        """Return bytes promised at `shark`, with those it may not have reported as used yet."""
        return self.look(shark)[0]

    def is_busy(self, shark: str) -> bool:
        """Tell whether `shark` has all the assignments it may have."""
        return self.look(shark)[1]

    def is_avoided(self, shark: str) -> bool:
        """Tell whether `shark` failed lately."""
        return self.look(shark)[2]

    async def wait_change(self) -> None:
        """Return after the next assignment of any job is over."""
        await self._all.wait_change()
