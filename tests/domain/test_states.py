"""The tables decide every pair of state and event."""

import enum
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import states
from rebalancer.domain.states import (
    JobEvent,
    JobState,
    ObjectEvent,
    Words,
    cancelling_event,
    job_state,
    words_of,
)
from rebalancer.errors import IllegalTransition

TABLES: list[tuple[Mapping[Any, Any], type[enum.StrEnum], type[enum.StrEnum]]] = [
    (states.OBJECT, states.ObjectStatus, states.ObjectEvent),
    (states.LINK, states.LinkStatus, states.ObjectEvent),
    (states.ASSIGNMENT, states.AssignmentState, states.AssignmentEvent),
    (states.JOB, states.JobState, states.JobEvent),
]


@pytest.mark.row("TEST-TYPES-3")
@pytest.mark.parametrize(("table", "state_kind", "event_kind"), TABLES)
def test_every_pair_is_decided(
    table: Mapping[Any, Any], state_kind: type[enum.StrEnum], event_kind: type[enum.StrEnum]
) -> None:
    """Each event in each state either has one next state or is refused as a bug."""
    assert set(table) == set(state_kind)
    for state in state_kind:
        for event in event_kind:
            if event in table[state]:
                assert states.advance(table, state, event) is table[state][event]
            else:
                with pytest.raises(IllegalTransition):
                    states.advance(table, state, event)


@pytest.mark.parametrize(("table", "state_kind", "_event_kind"), TABLES)
def test_every_state_is_reached_or_is_the_first(
    table: Mapping[Any, Any], state_kind: type[enum.StrEnum], _event_kind: type[enum.StrEnum]
) -> None:
    """No state is there for nothing."""
    reached = {new for events in table.values() for new in events.values()}
    assert set(state_kind) - reached <= {next(iter(state_kind))}


@pytest.mark.row("DEF-1", "L6")
def test_no_object_is_complete_before_its_copy_is_verified() -> None:
    """Invariant 1 in the table: complete follows post_processing only, that follows assigned.

    But for a job that moves nothing, whose objects are confirmed where they are.
    """
    moving = {
        old: {event: new for event, new in events.items() if event is not ObjectEvent.CONFIRMED}
        for old, events in states.OBJECT.items()
    }
    before = {
        new: {old for old, events in moving.items() if new in events.values()}
        for new in states.ObjectStatus
    }
    assert before[states.ObjectStatus.COMPLETE] == {states.ObjectStatus.POST_PROCESSING}
    assert before[states.ObjectStatus.POST_PROCESSING] == {states.ObjectStatus.ASSIGNED}


def test_ends_are_ends() -> None:
    """Invariant 6 in the table: only a final scan gives complete, skipped or error another turn."""
    for status in ("complete", "skipped", "error"):
        assert states.OBJECT[states.ObjectStatus(status)] == {
            states.ObjectEvent.REOPENED: states.ObjectStatus.UNPROCESSED
        }


# --- jobs, and the columns that record them ----------------------------------------------------

WORDS = {
    JobState.QUEUED: ("setup", None),
    JobState.RUNNING: ("running", None),
    JobState.PAUSING: ("running", "pause"),
    JobState.PAUSED: ("stopped", "pause"),
    JobState.CANCELLING: ("setup", "cancel"),
    JobState.DRAINING: ("running", "cancel"),
    JobState.CANCELLED: ("stopped", "cancel"),
    JobState.COMPLETE: ("complete", None),
    JobState.FAILED: ("failed", None),
}
#: What people and the predecessor write, and what such a job is taken for.
ODD_WORDS = {
    ("setup", "pause"): JobState.PAUSING,
    ("stopped", None): JobState.CANCELLED,
    ("complete", "pause"): JobState.COMPLETE,
    ("complete", "cancel"): JobState.COMPLETE,
    ("failed", "pause"): JobState.FAILED,
    ("failed", "cancel"): JobState.FAILED,
    ("init", None): None,
    ("strange", "cancel"): None,
    ("Running", None): None,
}

wishes = st.sampled_from([None, *states.WISH_WORDS])


def test_the_columns_of_a_job_have_the_deployed_words() -> None:
    """Each state has columns of its own, and other columns are read as documented."""
    assert {state: words_of(state) for state in JobState} == WORDS
    assert {words: job_state(Words(*words)) for words in ODD_WORDS} == ODD_WORDS
    assert states.STATE_WORDS == ("init", "setup", "running", "stopped", "complete", "failed")
    assert states.WISH_WORDS == ("pause", "cancel")


@given(state=st.sampled_from(JobState), wish=wishes)
def test_a_state_is_read_as_it_was_recorded(state: JobState, wish: str | None) -> None:
    """Whatever had been asked of the job before."""
    assert job_state(words_of(state, wish)) is state


@given(word=st.sampled_from(states.STATE_WORDS), wish=wishes)
def test_columns_are_recorded_as_they_were_read(word: str, wish: str | None) -> None:
    """But for those that this program never writes."""
    words = Words(word, wish)
    state = job_state(words)
    if state is not None and (word, wish) not in (("setup", "pause"), ("stopped", None)):
        assert words_of(state, wish) == words


@given(events=st.lists(st.sampled_from(JobEvent)))
def test_the_columns_alone_carry_a_job_through_any_events(events: list[JobEvent]) -> None:
    """A manager that is killed after each event knows as much as one that is not."""
    state, words = JobState.QUEUED, words_of(JobState.QUEUED)
    for event in events:
        if event in states.JOB[state]:
            state = states.advance(states.JOB, state, event)
            words = words_of(state, words.wish)
        assert job_state(words) is state


def test_a_job_that_has_never_begun_is_cancelled_at_once() -> None:
    """One that has begun is drained first, since agents may have some of its work."""

    def cancelled(state: JobState, *, has_begun: bool) -> JobState:
        return states.JOB[state][cancelling_event(state, has_begun=has_begun)]

    for state in (JobState.QUEUED, JobState.PAUSED):
        assert cancelled(state, has_begun=False) is JobState.CANCELLED
        assert cancelled(state, has_begun=True) is JobState.CANCELLING
    for state in (JobState.RUNNING, JobState.PAUSING, JobState.DRAINING):
        assert cancelled(state, has_begun=True) is JobState.DRAINING


def test_sets_of_states_of_jobs() -> None:
    """They follow from the table, so a change of it shows here."""
    assert {JobState.RUNNING, JobState.PAUSING, JobState.DRAINING} == states.AT_WORK
    assert {JobState.CANCELLED, JobState.COMPLETE, JobState.FAILED} == states.ENDED
