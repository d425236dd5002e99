"""What trying again can help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason, Remedy, http_status_code
from rebalancer.domain.retries import (
    _MOST_TELLING,
    Failure,
    Next,
    Tried,
    after_failure,
    most_telling,
)
from tests.domain.test_reasons import SPELLINGS

REMEDIES = {
    "ObjectAlreadyOnDestShark": Remedy.NONE,
    "ObjectAlreadyInDatacenter": Remedy.NONE,
    "DestinationInsufficientSpace": Remedy.LATER,
    "MD5Mismatch": Remedy.OTHER_SOURCE,
    "NetworkError": Remedy.OTHER_SOURCE,
    "SourceIsEvacShark": Remedy.OTHER_SOURCE,
    "SourceOtherError": Remedy.OTHER_SOURCE,
    "AgentAssignmentNoEnt": Remedy.ELSEWHERE,
    "AgentBusy": Remedy.ELSEWHERE,
    "AgentFSError": Remedy.ELSEWHERE,
    "AssignmentError": Remedy.ELSEWHERE,
    "AssignmentMismatch": Remedy.ELSEWHERE,
    "AssignmentRejected": Remedy.ELSEWHERE,
    "DestinationUnreachable": Remedy.ELSEWHERE,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_reason_has_its_remedy(name: str) -> None:
    """No reason is forgotten; a word nobody knows may be about that destination only."""
    assert Reason(name).remedy is REMEDIES[name]
    assert reasons.http_status_code(404).remedy is Remedy.OTHER_SOURCE
    assert Reason("OutOfCoffee").remedy is Remedy.ELSEWHERE


def test_a_source_is_remembered_only_if_it_is_to_blame() -> None:
    """A full disk says nothing of the shark that was read."""
    tried = Tried()
    for reason, destination in (
        (reasons.AGENT_FS_ERROR, "2.stor"),
        (reasons.MD5_MISMATCH, "3.stor"),
    ):
        failure = Failure(reason, f"source of {destination}")
        tried = tried.and_also(destination, failure.bad_source)
    assert tried == Tried(frozenset({"2.stor", "3.stor"}), frozenset({"source of 3.stor"}))


@pytest.mark.parametrize(
    ("reason", "failures", "fate"),
    [
        (reasons.DESTINATION_UNREACHABLE, 1, Next.AT_ONCE),
        (reasons.DESTINATION_UNREACHABLE, 2, Next.DEFERRED),
        (reasons.DESTINATION_UNREACHABLE, 3, Next.SKIPPED),
        (reasons.AGENT_BUSY, 2, Next.DEFERRED),
        (reasons.MD5_MISMATCH, 2, Next.AT_ONCE),
        (reasons.MD5_MISMATCH, 3, Next.SKIPPED),
        (reasons.OBJECT_ALREADY_ON_DEST_SHARK, 1, Next.SKIPPED),
    ],
)
def test_the_last_try_waits_for_a_destination_that_was_away(
    reason: Reason, failures: int, fate: Next
) -> None:
    """Of three tries; what waiting cannot help is tried at once."""
    assert after_failure(reason, failures, 3) is fate


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([http_status_code(404), reasons.SOURCE_IS_EVAC_SHARK], http_status_code(404)),
        ([reasons.SOURCE_IS_EVAC_SHARK, http_status_code(404)], http_status_code(404)),
        ([reasons.SOURCE_IS_EVAC_SHARK], reasons.SOURCE_IS_EVAC_SHARK),
        ([reasons.MD5_MISMATCH, http_status_code(404)], reasons.MD5_MISMATCH),
        ([http_status_code(404), http_status_code(503)], http_status_code(503)),
        ([reasons.NETWORK_ERROR, reasons.AGENT_BUSY], reasons.NETWORK_ERROR),
        ([reasons.AGENT_BUSY, reasons.SOURCE_OTHER_ERROR], reasons.SOURCE_OTHER_ERROR),
        ([Reason("OutOfCoffee"), reasons.DESTINATION_UNREACHABLE], Reason("OutOfCoffee")),
        ([reasons.AGENT_ASSIGNMENT_NO_ENT] * 2, reasons.AGENT_ASSIGNMENT_NO_ENT),
    ],
)
def test_of_all_failures_the_most_telling_reason_is_kept(
    failures: list[Reason], told: Reason
) -> None:
    """A read from the evacuated node as the last try does not hide what ails the other copies."""
    tried = Tried()
    for failure in failures:
        tried = tried.and_also("2.stor", reason=failure)
    assert tried.reason == told


@given(
    st.lists(
        st.sampled_from([*map(Reason, SPELLINGS), http_status_code(404), Reason("new")]), min_size=1
    )
)
def test_the_order_of_failures_hardly_matters(failures: list[Reason]) -> None:
    """Another order tells the same, or one that tells a person as much."""
    there, back = Tried(), Tried()
    for failure in failures:
        there = there.and_also("2.stor", reason=failure)
    for failure in reversed(failures):
        back = back.and_also("2.stor", reason=failure)
    assert there.reason in failures
    assert there.reason is not None
    assert back.reason is not None
    assert most_telling(there.reason, back.reason) == back.reason
    assert most_telling(back.reason, there.reason) == there.reason


def test_every_known_reason_has_its_place() -> None:
    """One that is new must be put into the order."""
    unordered = {*SPELLINGS, reasons.HTTP_STATUS_CODE} - set(_MOST_TELLING)
    assert unordered == set()
