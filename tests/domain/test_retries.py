"""What trying again can help."""

import pytest

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure, Next, Remedy, Tried, after_failure, remedy
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
    assert remedy(Reason(name)) is REMEDIES[name]
    assert remedy(reasons.http_status_code(404)) is Remedy.OTHER_SOURCE
    assert remedy(Reason("OutOfCoffee")) is Remedy.ELSEWHERE


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
        (reasons.DESTINATION_UNREACHABLE, 2, Next.PUT_OFF),
        (reasons.DESTINATION_UNREACHABLE, 3, Next.SKIPPED),
        (reasons.AGENT_BUSY, 2, Next.PUT_OFF),
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
