"""This module knows how each destination answers: whether it is away, or avoided.

All jobs share it.  Methods have no await, hence are atomic.  Nothing in it is worth saving: after
a restart, destinations are asked anew.
"""

import math
from collections import defaultdict
from collections.abc import Collection

import attrs
import trio

from rebalancer.agent_protocol import V2

#: A destination that failed is avoided for this many seconds, doubled each time in a row.
AVOID_S = 10.0
AVOID_MAX_S = 600.0
#: A destination that did not answer so many times in a row is away.
SILENT = 2
#: Seconds until a destination that is away is probed, doubled each time in a row.
PROBE_S, PROBE_MAX_S = 0.5, 30.0
#: A destination that has answered to anything within so many seconds is there.
HEARD_S = 60.0


class Changes:
    """This object wakes the tasks that wait until a destination may have become a better one.

    Mutable state: the event that they wait for.
    """

    def __init__(self) -> None:
        self._changed = trio.Event()
        #: Counts the changes.
        self.count = 0

    async def wait(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    def wake(self) -> None:
        """Have the waiting tasks look once more."""
        self.count += 1
        self._changed.set()
        self._changed = trio.Event()


@attrs.define
class _Answers:
    """The answers of one destination so far."""

    failures: int = 0  # in a row
    avoid_until: float = 0.0
    silent: int = 0  # questions in a row without an answer
    heard_at: float = -math.inf
    away_since: float | None = None
    why_away: str = ""
    probe_at: float = math.inf
    probe_pause_s: float = PROBE_S
    untaken_since: float | None = None  # since it took an assignment last, if it should have
    takes_v2: bool | None = None  # whether its agent takes bucket objects
    announced_at: float = -math.inf


class Health:
    """This object judges destinations by their answers.

    Mutable state: the answers of each destination; the names of those that are away, and of
    those of which a job wants to know whether they are; how often one came back.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._answers: defaultdict[str, _Answers] = defaultdict(_Answers)
        self._away: set[str] = set()
        self._unsure: set[str] = set()
        #: Counts the times that a destination which was away came back.
        self.times_back = 0

    @property
    def names(self) -> Collection[str]:
        """Return the names of all destinations whose answers are known, or were asked for."""
        return self._answers.keys()

    # --- assignments ----------------------------------------------------------------------

    def succeeded(self, shark: str) -> None:
        """Note that the agent of `shark` did what it could for an assignment."""
        self._answers[shark].failures = 0

    def failed(self, shark: str) -> None:
        """Note that an assignment came to nothing by the fault of the agent of `shark`."""
        answers = self._answers[shark]
        pause = min(AVOID_S * 2**answers.failures, AVOID_MAX_S)
        answers.avoid_until = trio.current_time() + pause
        answers.failures += 1

    def is_avoided(self, shark: str) -> bool:
        """Tell whether `shark` failed lately."""
        until = self._answers[shark].avoid_until
        return until > 0 and until > trio.current_time()

    def failures(self, shark: str) -> tuple[int, float]:
        """Return how often `shark` failed in a row, and for how many seconds it is avoided."""
        answers = self._answers[shark]
        return answers.failures, max(0.0, answers.avoid_until - trio.current_time())

    # --- answers --------------------------------------------------------------------------

    def no_answer(self, shark: str, why: str, *, to_post: bool = False) -> None:
        """Note that `shark` did not answer; after `SILENT` times in a row it is away."""
        answers = self._answers[shark]
        answers.silent += 1
        if to_post and answers.untaken_since is None:
            answers.untaken_since = trio.current_time()
        if answers.silent >= SILENT:
            self.set_away(shark, why)

    def set_away(self, shark: str, why: str) -> None:
        """Give `shark` nothing before it answers to a probe."""
        answers = self._answers[shark]
        answers.why_away = why
        if answers.away_since is None:
            answers.away_since = trio.current_time()
            answers.probe_at = answers.away_since + answers.probe_pause_s
            self._away.add(shark)
            self._changes.wake()

    def answered(self, shark: str) -> None:
        """Note that `shark` has answered, be it only to a question."""
        answers = self._answers[shark]
        answers.silent, answers.heard_at = 0, trio.current_time()

    def took(self, shark: str) -> None:
        """Note that `shark` has taken or refused an assignment, so it is there."""
        answers = self._answers[shark]
        answers.untaken_since, answers.probe_pause_s = None, PROBE_S
        self.back(shark)

    def back(self, shark: str) -> None:
        """Note that `shark` has answered to a probe, so it seems to be there again."""
        answers = self._answers[shark]
        is_news = trio.current_time() - answers.heard_at > HEARD_S
        self.answered(shark)
        if is_news:
            self._changes.wake()
        if answers.away_since is not None:
            answers.away_since, answers.probe_at = None, math.inf
            # An agent that comes back only for a moment is trusted later each time.
            answers.probe_pause_s = min(2 * answers.probe_pause_s, PROBE_MAX_S)
            self._away.discard(shark)
            self.times_back += 1
            self._changes.wake()

    def announced(self, shark: str, features: Collection[str]) -> None:
        """Note the features that the agent of `shark` has announced."""
        answers = self._answers[shark]
        takes_v2, answers.announced_at = V2 in features, trio.current_time()
        if takes_v2 is not answers.takes_v2:
            answers.takes_v2 = takes_v2
            self._changes.wake()

    def takes_v2(self, shark: str) -> bool | None:
        """Tell whether the agent of `shark` takes bucket objects; None if that is not known.

        It is probed then, and from time to time as long as it does not, for it may be replaced by
        a newer one.
        """
        answers = self._answers[shark]
        is_old = trio.current_time() - answers.announced_at > HEARD_S
        if not answers.takes_v2 and is_old and shark not in self._away | self._unsure:
            self._unsure.add(shark)
            self._changes.wake()
        return answers.takes_v2

    def is_away(self, shark: str) -> bool:
        """Tell whether `shark` did not answer lately."""
        return shark in self._away

    def is_there(self, shark: str) -> bool:
        """Tell whether `shark` has answered lately; if that is not known, it is probed."""
        if self.is_away(shark):
            return False
        if trio.current_time() - self._answers[shark].heard_at <= HEARD_S:
            return True
        if shark not in self._unsure:
            self._unsure.add(shark)
            self._changes.wake()
        return False

    def away(self) -> list[tuple[str, str]]:
        """List the destinations that are away, and why."""
        return [(shark, self._answers[shark].why_away) for shark in sorted(self._away)]

    def away_s(self, shark: str) -> float:
        """Return for how many seconds `shark` has been away; 0 if it is not."""
        since = self._answers[shark].away_since
        return 0.0 if since is None else trio.current_time() - since

    def untaken_s(self, shark: str) -> float:
        """Return for how many seconds `shark` has answered to no assignment that it was posted."""
        since = self._answers[shark].untaken_since
        return 0.0 if since is None else trio.current_time() - since

    # --- probes ---------------------------------------------------------------------------

    def next_probe_at(self) -> float:
        """Return when the next probe of a destination that is away is due."""
        return min((self._answers[shark].probe_at for shark in self._away), default=math.inf)

    def take_due(self) -> set[str]:
        """Take the destinations that are to be probed now; no other task probes them meanwhile."""
        now = trio.current_time()
        due = {shark for shark in self._away if self._answers[shark].probe_at <= now}
        due, self._unsure = due | self._unsure, set()
        for shark in due:
            self._answers[shark].probe_at = math.inf
        return due

    def answered_probe(self, shark: str, features: Collection[str]) -> None:
        """Note that `shark` has answered to a probe, and what its agent announced."""
        self.announced(shark, features)
        self.back(shark)

    def still_away(self, shark: str, why: str | None = None) -> None:
        """Note that a probe of `shark` had no answer, and `why`; None: it was not finished."""
        answers = self._answers[shark]
        if why is not None:
            self.set_away(shark, why)
        if answers.away_since is not None:
            answers.probe_pause_s = min(2 * answers.probe_pause_s, PROBE_MAX_S)
            answers.probe_at = trio.current_time() + answers.probe_pause_s
