"""This module has every legal change of state of objects, links, assignments and jobs.

The tables are used twice: to move, and to recover after a crash.  No other module has the words of
these states, except for the frozen steps of the schema.  docs/states.md shows the tables.
"""

import enum
from collections.abc import Collection, Mapping
from typing import Generic, NamedTuple, TypeVar

import attrs

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
    """An event in the life of an object."""

    PLACED = "placed"
    DEFERRED = "deferred"  # no destination has room now: it waits for all else to end
    REQUEUED = "requeued"  # not copied there, or deferred until now: find another destination
    COPIED = "copied"
    REFUSED = "refused"  # this copy cannot be made now
    UNUSABLE = "unusable"  # its record cannot be used
    CONFIRMED = "confirmed"  # its copies are as its record says, where nothing is to be moved
    FAULTY = "faulty"  # they are not
    METADATA_WRITTEN = "metadata_written"
    SUPERSEDED = "superseded"  # a user's write won, or the object is gone
    REOPENED = "reopened"  # a final scan met its record, which names the shark once more


class LinkStatus(enum.StrEnum):
    """The `status` column of `links`; what happens to a link is an `ObjectEvent`."""

    WAITING = "waiting"  # its object is not copied yet, or its record not updated
    COMPLETE = "complete"  # its record names the destination
    SKIPPED = "skipped"  # a user's write won, or the record is gone
    ERROR = "error"  # needs a person


class AssignmentState(enum.StrEnum):
    """The `state` column of `assignments`."""

    INIT = "init"  # recorded here; the agent may or may not know it
    ASSIGNED = "assigned"  # the agent has confirmed it
    REJECTED = "rejected"  # no agent will work on it
    AGENT_COMPLETE = "agent_complete"  # the agent is done, metadata is not
    POST_PROCESSED = "post_processed"  # every object of it is settled


class AssignmentEvent(enum.StrEnum):
    """An event in the life of an assignment."""

    ACCEPTED = "accepted"
    LOST = "lost"  # no agent will finish it
    AGENT_DONE = "agent_done"
    SETTLED = "settled"


class JobState(enum.StrEnum):
    """A job's true state; `words_of` has the columns that record it."""

    QUEUED = "queued"  # waiting for its turn
    RUNNING = "running"
    PAUSING = "pausing"  # an operator has paused it, and what ran of it has not come to rest
    PAUSED = "paused"
    CANCELLING = "cancelling"  # cancelled after it had begun; draining it waits for its turn
    DRAINING = "draining"  # cancelled: what its agents still finish is recorded, nothing begins
    CANCELLED = "cancelled"
    COMPLETE = "complete"
    FAILED = "failed"


class JobEvent(enum.StrEnum):
    """An event in the life of a job."""

    STARTED = "started"
    FINISHED = "finished"
    BROKE = "broke"
    RESTED = "rested"  # what ran of a job that was paused has stopped
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"  # cancelled before it had begun anything: nothing needs draining


_O, _OE = ObjectStatus, ObjectEvent
OBJECT: Mapping[ObjectStatus, Mapping[ObjectEvent, ObjectStatus]] = {
    _O.UNPROCESSED: {
        _OE.PLACED: _O.ASSIGNED,
        _OE.DEFERRED: _O.UNPROCESSED,
        _OE.REQUEUED: _O.UNPROCESSED,
        _OE.REFUSED: _O.SKIPPED,
        _OE.UNUSABLE: _O.ERROR,
        _OE.CONFIRMED: _O.COMPLETE,
        _OE.FAULTY: _O.ERROR,
    },
    _O.ASSIGNED: {
        _OE.COPIED: _O.POST_PROCESSING,
        _OE.REQUEUED: _O.UNPROCESSED,
        _OE.REFUSED: _O.SKIPPED,
    },
    _O.POST_PROCESSING: {
        _OE.METADATA_WRITTEN: _O.COMPLETE,
        _OE.SUPERSEDED: _O.SKIPPED,
        _OE.UNUSABLE: _O.ERROR,
    },
    # Ends, but for a final scan.
    _O.COMPLETE: {_OE.REOPENED: _O.UNPROCESSED},
    _O.SKIPPED: {_OE.REOPENED: _O.UNPROCESSED},
    _O.ERROR: {_OE.REOPENED: _O.UNPROCESSED},
}

_L = LinkStatus
LINK: Mapping[LinkStatus, Mapping[ObjectEvent, LinkStatus]] = {
    _L.WAITING: {
        _OE.METADATA_WRITTEN: _L.COMPLETE,
        _OE.SUPERSEDED: _L.SKIPPED,
        _OE.UNUSABLE: _L.ERROR,
    },
    # Ends, but for a final scan.
    _L.COMPLETE: {_OE.REOPENED: _L.WAITING},
    _L.SKIPPED: {_OE.REOPENED: _L.WAITING},
    _L.ERROR: {_OE.REOPENED: _L.WAITING},
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
    _J.QUEUED: {
        _JE.STARTED: _J.RUNNING,
        _JE.PAUSED: _J.PAUSED,
        _JE.CANCELLED: _J.CANCELLING,  # it was paused and resumed: agents may have work of it
        _JE.WITHDRAWN: _J.CANCELLED,
    },
    _J.RUNNING: {
        _JE.FINISHED: _J.COMPLETE,
        _JE.BROKE: _J.FAILED,
        _JE.PAUSED: _J.PAUSING,
        _JE.CANCELLED: _J.DRAINING,
    },
    _J.PAUSING: {
        _JE.RESTED: _J.PAUSED,
        _JE.FINISHED: _J.COMPLETE,
        _JE.BROKE: _J.FAILED,
        _JE.PAUSED: _J.PAUSING,
        _JE.CANCELLED: _J.DRAINING,
    },
    _J.PAUSED: {
        _JE.RESUMED: _J.QUEUED,
        _JE.CANCELLED: _J.CANCELLING,
        _JE.WITHDRAWN: _J.CANCELLED,
    },
    _J.CANCELLING: {_JE.STARTED: _J.DRAINING, _JE.CANCELLED: _J.CANCELLING},
    _J.DRAINING: {
        _JE.FINISHED: _J.CANCELLED,
        _JE.BROKE: _J.FAILED,
        _JE.RESTED: _J.DRAINING,  # it was being paused when it was cancelled: it runs once more
        _JE.CANCELLED: _J.DRAINING,
    },
    _J.CANCELLED: {},
    _J.COMPLETE: {},
    _J.FAILED: {},
}

#: States of a job that has its turn; after a restart it goes on before any other begins.
AT_WORK = frozenset(state for state, events in JOB.items() if _JE.FINISHED in events)
#: States of a job to which nothing happens any more.
ENDED = frozenset(state for state, events in JOB.items() if not events)


class Words(NamedTuple):
    """Columns `state` and `wish` of `jobs`; the API shows them, the state capitalised."""

    state: str
    wish: str | None


_WORDS = {
    _J.QUEUED: Words("setup", None),
    _J.RUNNING: Words("running", None),
    _J.PAUSING: Words("running", "pause"),
    _J.PAUSED: Words("stopped", "pause"),
    _J.CANCELLING: Words("setup", "cancel"),
    _J.DRAINING: Words("running", "cancel"),
    _J.CANCELLED: Words("stopped", "cancel"),
    _J.COMPLETE: Words("complete", None),
    _J.FAILED: Words("failed", None),
}
#: The words of column `state`.  Only the predecessor writes "init": nothing happens to such a job.
STATE_WORDS = tuple(dict.fromkeys(["init", *(words.state for words in _WORDS.values())]))
#: The words of column `wish`.
WISH_WORDS = tuple(dict.fromkeys(wish for _, wish in _WORDS.values() if wish is not None))
#: Ends that a job meets while it is asked for another; the wish stays in its row.
_KEEPING_WISH = (_J.COMPLETE, _J.FAILED)
_STATES = {
    **{words: state for state, words in _WORDS.items()},
    **{Words(_WORDS[end].state, wish): end for end in _KEEPING_WISH for wish in WISH_WORDS},
    # Written by people and by the predecessor.
    Words("setup", "pause"): _J.PAUSING,
    Words("stopped", None): _J.CANCELLED,
}


def words_of(state: JobState, wish: str | None = None) -> Words:
    """Return the columns that record `state` of a job whose column `wish` was `wish` so far."""
    words = _WORDS[state]
    return words._replace(wish=wish) if state in _KEEPING_WISH else words


def job_state(words: Words) -> JobState | None:
    """Return what the columns record; None: another version has written them."""
    return _STATES.get(words)


#: States of a job, as the API spells them, that something will still happen to by itself.
GOING = ("Init", "Setup", "Running")


def words_for_people(state: str, wish: str | None) -> str:
    """Return a job's state, as the API spells it, together with what an operator has asked for."""
    if state == "Stopped":
        return {"pause": "paused", "cancel": "cancelled"}.get(str(wish), "stopped")
    if state in GOING and wish is not None:
        return {"pause": "being paused", "cancel": "being cancelled"}.get(wish, state)
    return "waiting for its turn" if state in ("Init", "Setup") else state.lower()


def cancelling_event(state: JobState, *, has_begun: bool) -> JobEvent:
    """Return what happens to a job in `state` that an operator cancels."""
    is_withdrawn = not has_begun and JobEvent.WITHDRAWN in JOB[state]
    return JobEvent.WITHDRAWN if is_withdrawn else JobEvent.CANCELLED


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


@attrs.frozen
class Move(Generic[S]):
    """A change that a table allows, for statements that change many rows at once."""

    before: S
    after: S


def move(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> Move[S]:
    """Return the change of `state` when `event` happens.

    Raises:
      IllegalTransition: the table has no such change.
    """
    return Move(state, advance(table, state, event))


def open_states(table: Mapping[S, Mapping[E, S]], but_for: Collection[E] = ()) -> tuple[S, ...]:
    """Return the states to which something can happen, not counting the events `but_for`."""
    return tuple(state for state, events in table.items() if events.keys() - set(but_for))


#: States of objects that are on their way; the others are ends, but for a final scan.
OPEN_OBJECTS = open_states(OBJECT, but_for=[ObjectEvent.REOPENED])
#: States of objects of which an agent may make, or have made, a copy that no record names yet.
AT_DESTINATION = (ObjectStatus.ASSIGNED, ObjectStatus.POST_PROCESSING)
#: States of assignments that a restart takes up.
OPEN_ASSIGNMENTS = open_states(ASSIGNMENT)
