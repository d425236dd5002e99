"""This module has an assignment, from placement to its end, and what its agent's report means."""

from collections.abc import Collection, Iterable, Sequence

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import AssignmentEvent, AssignmentState, advance

#: Failures that say the source could not be read, not that what was read is wrong.
_UNREADABLE = (reasons.SOURCE_OTHER_ERROR, reasons.NETWORK_ERROR)


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class Task:
    """A task is one object for an agent to pull from a source.

    `account` is the one under which the copies lie, as by `records.account_of`; the predecessor
    sent the record's owner, which is wrong for links across accounts.  `md5` is base64.
    """

    object_id: str
    account: str
    md5: str
    source: Shark


@attrs.frozen
class Assignment:
    """An assignment is a batch of tasks for one destination, from placement to its end.

    It is the same whether it was placed in this run or left by an earlier one.
    """

    id: str
    destination: Shark
    #: The objects that its agent is to copy; after a restart those that it may have yet to copy.
    object_ids: tuple[str, ...]
    #: Bytes that are claimed for it.
    size: int
    #: The tasks for its agent; nothing needs them once the assignment was posted.
    tasks: tuple[Task, ...] = ()
    state: AssignmentState = AssignmentState.INIT
    #: Whether it was posted in this run without an answer.
    is_in_doubt: bool = False

    @property
    def shark(self) -> str:
        """Return the name of the destination."""
        return self.destination.manta_storage_id

    def after(self, event: AssignmentEvent) -> "Assignment":
        """Return the assignment as it is after `event`, when nothing needs its tasks any more.

        Raises:
          IllegalTransition: `event` cannot happen to it.
        """
        state = advance(states.ASSIGNMENT, self.state, event)
        return attrs.evolve(self, state=state, tasks=(), is_in_doubt=False)

    def in_doubt(self) -> "Assignment":
        """Return the assignment as it is once it was posted and no answer came."""
        return attrs.evolve(self, tasks=(), is_in_doubt=True)


@attrs.frozen
class SortedTasks:
    """The posted tasks are sorted by what a report of completion says; each is in one set."""

    #: Named as failed.
    failed: frozenset[str]
    #: Copied and verified, for everything adds up.
    copied: frozenset[str]
    #: Perhaps copied, which the report leaves open.
    unaccounted: frozenset[str]


def sort_tasks(
    posted: Collection[str], failed_ids: Sequence[str], *, failed: int, complete: int, total: int
) -> SortedTasks:
    """Sort the tasks that were posted by what a report of completion says of them.

    `complete` counts processed tasks, failed ones included.  An agent names the tasks that failed
    and no others, so a task is known to be copied only if all are accounted for: a missing one
    could be any that is not named.  The failed tasks are believed if their list is sound, whatever
    the counts say: a failure never makes a copy count.
    """
    tasks, named = frozenset(posted), frozenset(failed_ids)
    if not (failed == len(failed_ids) == len(named) and named <= tasks):
        return SortedTasks(frozenset(), frozenset(), tasks)
    rest = tasks - named
    if complete == total == len(tasks):
        return SortedTasks(named, rest, frozenset())
    return SortedTasks(named, frozenset(), rest)


def failures(
    reported: Iterable[tuple[str, Reason | None, Shark]], evacuated: str
) -> dict[str, Failure]:
    """Return why each failed object was not copied, given (object id, reason, source) of each.

    A failure to read from the evacuated shark, the last resort, has a reason of its own.
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

    A destination whose disk is gone fails each assignment at once, so it would be given all.
    """
    return len(failed) == posted and any(failure.bad_source is None for failure in failed)


def _judge(reason: Reason, source: Shark, evacuated: str) -> Reason:
    unreadable = reason in _UNREADABLE or reason.name == reasons.HTTP_STATUS_CODE
    if unreadable and source.manta_storage_id == evacuated:
        return reasons.SOURCE_IS_EVAC_SHARK
    return reason


def poll_interval(age_s: float) -> float:
    """Return seconds until an assignment that is `age_s` old is asked for again.

    The interval is a tenth of the age, from 0.1 s to 10 s, so that the end is noticed 10 % late and
    the number of questions grows with the logarithm of the time.
    """
    return min(max(age_s / 10, 0.1), 10.0)
