"""Reasons in their three spellings."""

import pytest

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason

SPELLINGS = {
    "AgentFSError": "agent_fs_error",
    "AgentAssignmentNoEnt": "agent_assignment_no_ent",
    "AgentBusy": "agent_busy",
    "AssignmentError": "assignment_error",
    "AssignmentMismatch": "assignment_mismatch",
    "AssignmentRejected": "assignment_rejected",
    "DestinationInsufficientSpace": "destination_insufficient_space",
    "DestinationUnreachable": "destination_unreachable",
    "MD5Mismatch": "md5_mismatch",
    "NetworkError": "network_error",
    "ObjectAlreadyOnDestShark": "object_already_on_dest_shark",
    "ObjectAlreadyInDatacenter": "object_already_in_datacenter",
    "SourceOtherError": "source_other_error",
    "SourceIsEvacShark": "source_is_evac_shark",
}


@pytest.mark.row("TEST-TYPES-2")
@pytest.mark.parametrize(("name", "column"), SPELLINGS.items())
def test_columns_are_spelled_as_the_predecessor_did(name: str, column: str) -> None:
    """Every reason has the column text operators query for."""
    assert column == Reason(name).column
    assert Reason(name).is_known


@pytest.mark.row("TEST-TYPES-2")
def test_status_codes_keep_their_braces() -> None:
    """A code is a reason of its own, in braces."""
    assert reasons.http_status_code(404).column == "{http_status_code:404}"


@pytest.mark.row("CRIT-6")
def test_an_unknown_reason_is_kept() -> None:
    """Text nobody knows is neither lost nor turned into something else."""
    assert Reason("OutOfCoffee").name == "OutOfCoffee"
    assert not Reason("OutOfCoffee").is_known


@pytest.mark.parametrize("reason", [Reason("OutOfCoffee"), Reason("HTTPStatusCode", -1)])
def test_what_columns_cannot_hold_is_no_known_reason(reason: Reason) -> None:
    """Nor does it make another label in metrics."""
    assert not reason.is_known
    assert reason.label == "unknown_reason"
    assert reasons.http_status_code(404).label == "http_status_code"
