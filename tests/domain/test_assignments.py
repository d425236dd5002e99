"""What an agent's report means."""

import pytest

from rebalancer.domain import reasons
from rebalancer.domain.assignments import adds_up, failures, is_useless, poll_interval
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure


@pytest.mark.row("L9", "N9")
@pytest.mark.parametrize(
    ("failed_ids", "failed", "complete", "total", "verdict"),
    [
        ([], 0, 3, 3, True),
        (["a"], 1, 3, 3, True),
        ([], 0, 2, 3, False),  # says complete, but is not
        ([], 0, 2, 2, False),  # a task is missing
        ([], 0, 4, 4, False),  # a task too many
        (["x"], 1, 3, 3, False),  # a task we never posted
        (["a", "a"], 2, 3, 3, False),  # one counted twice
        (["a"], 0, 3, 3, False),
        ([], 1, 3, 3, False),
    ],
)
def test_a_report_that_does_not_add_up_counts_nothing(
    failed_ids: list[str], failed: int, complete: int, total: int, verdict: bool
) -> None:
    """Only a report that accounts for each posted task is believed."""
    told = adds_up({"a", "b", "c"}, failed_ids, failed=failed, complete=complete, total=total)
    assert verdict is told


def test_the_only_copy_that_cannot_be_read_is_told_apart() -> None:
    """A read failure from the evacuated shark is its own reason; a wrong digest stays one."""
    origin, other = Shark("dc1", "1.stor"), Shark("dc1", "2.stor")
    told = failures(
        [
            ("a", reasons.http_status_code(404), origin),
            ("b", reasons.http_status_code(404), other),
            ("c", reasons.NETWORK_ERROR, origin),
            ("d", reasons.MD5_MISMATCH, origin),
            ("e", None, other),
        ],
        "1.stor",
    )
    assert {name: failure.reason for name, failure in told.items()} == {
        "a": reasons.SOURCE_IS_EVAC_SHARK,
        "b": reasons.http_status_code(404),
        "c": reasons.SOURCE_IS_EVAC_SHARK,
        "d": reasons.MD5_MISMATCH,
        "e": reasons.ASSIGNMENT_ERROR,
    }
    assert {name: failure.bad_source for name, failure in told.items()} == {
        "a": "1.stor",
        "b": "2.stor",
        "c": "1.stor",
        "d": "1.stor",
        "e": None,
    }


@pytest.mark.parametrize(
    ("failed", "verdict"),
    [
        ([], False),
        ([reasons.AGENT_FS_ERROR] * 2, False),  # the third one was copied
        ([reasons.AGENT_FS_ERROR] * 3, True),
        ([reasons.AGENT_FS_ERROR, reasons.NETWORK_ERROR, reasons.NETWORK_ERROR], True),
        ([reasons.NETWORK_ERROR] * 3, False),  # the sources' fault
    ],
)
def test_a_destination_that_copies_nothing_is_known(failed: list[Reason], verdict: bool) -> None:
    """A broken disk is done with everything at once, and must not get everything."""
    assert is_useless(3, [Failure(reason, "2.stor") for reason in failed]) is verdict


def test_long_assignments_are_asked_for_seldom() -> None:
    """A second-long one is noticed at once, an hour-long one is not pestered."""
    assert poll_interval(0) == 0.1
    assert poll_interval(20) == 2
    assert poll_interval(3600) == 10
