"""This module tells what an agent's report means for each object of an assignment."""

from collections.abc import Collection, Iterable, Sequence

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure

#: Failures that say the source could not be read, not that what was read is wrong.
_UNREADABLE = (reasons.SOURCE_OTHER_ERROR, reasons.NETWORK_ERROR)


@attrs.frozen
class Account:
    """The posted tasks by what a report of completion says of them; each is in one set."""

    #: Named as failed.
    failed: frozenset[str]
    #: Copied and verified, for everything adds up.
    copied: frozenset[str]
    #: Whether they were copied cannot be told.
    unaccounted: frozenset[str]


def account(
    posted: Collection[str], failed_ids: Sequence[str], *, failed: int, complete: int, total: int
) -> Account:
    """Sort the tasks that were posted by what a report of completion says of them.

    `complete` counts processed tasks, failed ones included.  An agent names the tasks that failed
    and no others, so a task is known to be copied only if all are accounted for: one that is
    missing could be any of those not named.  The failed tasks are believed if their list is
    sound, whatever the counts say: a failure never makes a copy count.
    """
    tasks, named = frozenset(posted), frozenset(failed_ids)
    if not (failed == len(failed_ids) == len(named) and named <= tasks):
        return Account(frozenset(), frozenset(), tasks)
    rest = tasks - named
    if complete == total == len(tasks):
        return Account(named, rest, frozenset())
    return Account(named, frozenset(), rest)


def failures(
    reported: Iterable[tuple[str, Reason | None, Shark]], evacuated: str
) -> dict[str, Failure]:
    """Return why each failed object was not copied, given (object id, reason, source) of each.

    An object that could not be read from the evacuated shark, the last resort, is told apart.
    """
    return {
        object_id: Failure(
            _judge(reason or reasons.ASSIGNMENT_ERROR, source, evacuated),
            source.manta_storage_id,
            was_away=reason in _UNREADABLE,
        )
        for object_id, reason, source in reported
    }


def is_useless(posted: int, failed: Collection[Failure]) -> bool:
    """Tell whether a destination has copied none of `posted` objects, and not for want of sources.

    One whose disk is gone is done with every assignment at once, so it would be given all.
    """
    return len(failed) == posted and any(failure.bad_source is None for failure in failed)


def _judge(reason: Reason, source: Shark, evacuated: str) -> Reason:
    unreadable = reason in _UNREADABLE or reason.name == reasons.HTTP_STATUS_CODE
    if unreadable and source.manta_storage_id == evacuated:
        return reasons.SOURCE_IS_EVAC_SHARK
    return reason


def poll_interval(age_s: float) -> float:
    """Return seconds until an assignment that is `age_s` old is asked for again.

    A tenth of its age, so that its end is noticed 10 % late and the number of questions grows
    with the logarithm of the time it takes; 0.1 s at least and 10 s at most.
    """
    return min(max(age_s / 10, 0.1), 10.0)
