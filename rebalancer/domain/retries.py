"""This module decides whether another try can help an object, and what that try avoids."""

import enum

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason, Remedy


class Next(enum.Enum):
    """The step that follows for an object that was not copied."""

    SKIPPED = enum.auto()
    AT_ONCE = enum.auto()  # it is tried again
    DEFERRED = enum.auto()  # it is tried again when all else of the job is done


def after_failure(reason: Reason, failures: int, max_attempts: int) -> Next:
    """Decide what becomes of an object that has failed `failures` times, now for `reason`.

    The last try is deferred if the destination may only have been away.
    """
    if reason.remedy is Remedy.NONE or failures >= max_attempts:
        return Next.SKIPPED
    is_last = failures + 1 >= max_attempts
    return Next.DEFERRED if is_last and reason.may_come_back else Next.AT_ONCE


@attrs.frozen
class Failure:
    """A failure says why an agent did not copy an object, and which shark it was to read."""

    reason: Reason
    source: str
    #: The source did not answer, which says nothing of what it has.
    was_away: bool = False

    @property
    def bad_source(self) -> str | None:
        """Return the shark to read from no more, if it is to blame."""
        return self.source if self.reason.remedy is Remedy.OTHER_SOURCE else None


#: The reasons that help a person most come first: about the copies of the object, then the way to
#: them, the destinations, the manager's part.  That the evacuated shark was the last resort says
#: least: it hides what is wrong with the other copies.
_MOST_TELLING = (
    reasons.MD5_MISMATCH.name,
    reasons.HTTP_STATUS_CODE,
    reasons.SOURCE_OTHER_ERROR.name,
    reasons.NETWORK_ERROR.name,
    reasons.AGENT_FS_ERROR.name,
    reasons.ASSIGNMENT_REJECTED.name,
    reasons.ASSIGNMENT_MISMATCH.name,
    reasons.DESTINATION_INSUFFICIENT_SPACE.name,
    reasons.DESTINATION_UNREACHABLE.name,
    reasons.AGENT_BUSY.name,
    reasons.AGENT_ASSIGNMENT_NO_ENT.name,
    reasons.ASSIGNMENT_ERROR.name,
    reasons.OBJECT_ALREADY_ON_DEST_SHARK.name,
    reasons.OBJECT_ALREADY_IN_DATACENTER.name,
    reasons.SOURCE_IS_EVAC_SHARK.name,
)


def _rank(reason: Reason) -> int:
    # A word that only the agent knows is worth a look.
    return _MOST_TELLING.index(reason.name) if reason.name in _MOST_TELLING else 0


def most_telling(earlier: Reason | None, latest: Reason) -> Reason:
    """Return which reason of two failures tells a person most; of two alike the latest."""
    if earlier is None or _rank(latest) <= _rank(earlier):
        return latest
    return earlier


@attrs.frozen
class Tried:
    """Names of the destinations and sources with which copying an object failed, and why it did.

    `reason` is the one of all failures that tells most.
    """

    destinations: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    reason: Reason | None = None
    #: Sources that did not answer, once each: a second time they are among `sources`.
    away: frozenset[str] = frozenset()

    def and_also(
        self, destination: str, source: str | None = None, reason: Reason | None = None
    ) -> "Tried":
        """Add `destination`, the `source` if it is to blame, and why copying failed this time."""
        sources = self.sources if source is None else self.sources | {source}
        most = self.reason if reason is None else most_telling(self.reason, reason)
        return Tried(self.destinations | {destination}, sources, most, self.away)

    def is_excused(self, failure: Failure) -> bool:
        """Tell whether `failure` is no attempt: its source was away for the first time.

        Else the restart of a node would use up the attempts of objects whose other copy is no good.
        """
        return failure.was_away and failure.source not in self.away | self.sources

    def without_answer(self, destination: str, failure: Failure) -> "Tried":
        """Add the source of an excused failure; it may be away for `destination` only."""
        most = most_telling(self.reason, failure.reason)
        away = self.away | {failure.source}
        return Tried(self.destinations | {destination}, self.sources, most, away)


UNTRIED = Tried()
