"""This module has every legal change of state of objects, assignments and jobs.

The tables are used twice: to move, and to recover after a crash.  docs/states.md shows them.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from rebalancer.errors import IllegalTransition


class ObjectStatus(enum.StrEnum):
    """The `status` column of `evacuateobjects`."""

    UNPROCESSED = "unprocessed"  # found; no destination yet
    ASSIGNED = "assigned"  # in an assignment, which the agent may know
    POST_PROCESSING = "post_processing"  # verified and durable on the destination
    COMPLETE = "complete"  # its record names the destination
    SKIPPED = "skipped"  # not now: a retry may succeed
    ERROR = "error"  # needs a person


class ObjectEvent(enum.StrEnum):
    """What happens to an object."""

    PLACED = "placed"
    PUT_OFF = "put_off"  # there is no room now: find a destination when all else is settled
    RETURNED = "returned"  # not copied there: find another destination
    COPIED = "copied"
    REFUSED = "refused"  # this copy cannot be made now
    UNUSABLE = "unusable"  # its record cannot be used
    METADATA_WRITTEN = "metadata_written"
    SUPERSEDED = "superseded"  # a user's write won, or the object is gone
    FOUND_AGAIN = "found_again"  # a final scan met a record that names the shark once more


class AssignmentState(enum.StrEnum):
    """The `state` column of `assignments`."""

    INIT = "init"  # recorded here; the agent may or may not know it
    ASSIGNED = "assigned"  # the agent has confirmed it
    REJECTED = "rejected"  # no agent will work on it
    AGENT_COMPLETE = "agent_complete"  # the agent is done, metadata is not
    POST_PROCESSED = "post_processed"  # every object of it is settled


class AssignmentEvent(enum.StrEnum):
    """What happens to an assignment."""

    ACCEPTED = "accepted"
    LOST = "lost"  # no agent will finish it
    AGENT_DONE = "agent_done"
    SETTLED = "settled"


class JobState(enum.StrEnum):
    """The `state` column of `jobs`, and, capitalised, the API's word for it."""

    INIT = "init"
    SETUP = "setup"  # waiting for its turn
    RUNNING = "running"
    STOPPED = "stopped"  # paused, or cancelled
    COMPLETE = "complete"
    FAILED = "failed"


class JobEvent(enum.StrEnum):
    """What happens to a job."""

    RECORDED = "recorded"
    STARTED = "started"
    FINISHED = "finished"
    BROKE = "broke"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    RESUMED = "resumed"


class Wish(enum.StrEnum):
    """What an operator has asked of a job; it outlives restarts of the manager."""

    PAUSE = "pause"  # stop as it is, until it is resumed
    CANCEL = "cancel"  # begin nothing more, and record what agents still finish


_O, _OE = ObjectStatus, ObjectEvent
OBJECT: Mapping[ObjectStatus, Mapping[ObjectEvent, ObjectStatus]] = {
    _O.UNPROCESSED: {
        _OE.PLACED: _O.ASSIGNED,
        _OE.PUT_OFF: _O.UNPROCESSED,
        _OE.REFUSED: _O.SKIPPED,
        _OE.UNUSABLE: _O.ERROR,
    },
    _O.ASSIGNED: {
        _OE.COPIED: _O.POST_PROCESSING,
        _OE.RETURNED: _O.UNPROCESSED,
        _OE.REFUSED: _O.SKIPPED,
    },
    _O.POST_PROCESSING: {
        _OE.METADATA_WRITTEN: _O.COMPLETE,
        _OE.SUPERSEDED: _O.SKIPPED,
        _OE.UNUSABLE: _O.ERROR,
    },
    # Ends, but for a final scan.
    _O.COMPLETE: {_OE.FOUND_AGAIN: _O.UNPROCESSED},
    _O.SKIPPED: {_OE.FOUND_AGAIN: _O.UNPROCESSED},
    _O.ERROR: {_OE.FOUND_AGAIN: _O.UNPROCESSED},
}

_A, _AE = AssignmentState, AssignmentEvent
ASSIGNMENT: Mapping[AssignmentState, Mapping[AssignmentEvent, AssignmentState]] = {
    _A.INIT: {
        _AE.ACCEPTED: _A.ASSIGNED,
        _AE.LOST: _A.REJECTED,
        _AE.AGENT_DONE: _A.AGENT_COMPLETE,  # its answer to our POST was lost
    },
    _A.ASSIGNED: {_AE.AGENT_DONE: _A.AGENT_COMPLETE, _AE.LOST: _A.REJECTED},
    _A.REJECTED: {},
    _A.AGENT_COMPLETE: {_AE.SETTLED: _A.POST_PROCESSED},
    _A.POST_PROCESSED: {},
}

_J, _JE = JobState, JobEvent
JOB: Mapping[JobState, Mapping[JobEvent, JobState]] = {
    _J.INIT: {_JE.RECORDED: _J.SETUP, _JE.BROKE: _J.FAILED},
    _J.SETUP: {
        _JE.STARTED: _J.RUNNING,
        _JE.BROKE: _J.FAILED,
        _JE.PAUSED: _J.STOPPED,
        _JE.CANCELLED: _J.STOPPED,
    },
    _J.RUNNING: {
        _JE.FINISHED: _J.COMPLETE,
        _JE.BROKE: _J.FAILED,
        _JE.PAUSED: _J.STOPPED,
        _JE.CANCELLED: _J.STOPPED,
    },
    _J.STOPPED: {_JE.RESUMED: _J.SETUP},  # only one that was paused
    _J.COMPLETE: {},
    _J.FAILED: {},
}

S = TypeVar("S", bound=enum.StrEnum)
E = TypeVar("E", bound=enum.StrEnum)


def advance(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """Return the state that follows `state` when `event` happens.

    Raises:
      IllegalTransition: the table has no such change, and nothing was changed.
    """
    try:
        return table[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to something {state}") from None
