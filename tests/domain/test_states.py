"""The tables decide every pair of state and event."""

import enum
from collections.abc import Mapping
from typing import Any

import pytest

from rebalancer.domain import states
from rebalancer.errors import IllegalTransition

TABLES: list[tuple[Mapping[Any, Any], type[enum.StrEnum], type[enum.StrEnum]]] = [
    (states.OBJECT, states.ObjectStatus, states.ObjectEvent),
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
    """Invariant 1 in the table: complete follows post_processing only, that follows assigned."""
    before = {
        new: {old for old, events in states.OBJECT.items() if new in events.values()}
        for new in states.ObjectStatus
    }
    assert before[states.ObjectStatus.COMPLETE] == {states.ObjectStatus.POST_PROCESSING}
    assert before[states.ObjectStatus.POST_PROCESSING] == {states.ObjectStatus.ASSIGNED}


def test_ends_are_ends() -> None:
    """Invariant 6 in the table: only a final scan gives complete, skipped or error another turn."""
    for status in ("complete", "skipped", "error"):
        assert states.OBJECT[states.ObjectStatus(status)] == {
            states.ObjectEvent.FOUND_AGAIN: states.ObjectStatus.UNPROCESSED
        }
