"""What an agent's report means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.assignments import (
    Assignment,
    SortedTasks,
    Task,
    failures,
    is_useless,
    poll_interval,
    sort_tasks,
)
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import AssignmentEvent
from rebalancer.errors import IllegalTransition

SOURCE = Shark("dc2", "3.stor")


@pytest.mark.row("L9", "N9")
@pytest.mark.parametrize(
    ("failed_ids", "failed", "complete", "total", "named", "copied"),
    [
        ([], 0, 3, 3, "", "abc"),
        (["a"], 1, 3, 3, "a", "bc"),
        ([], 0, 2, 3, "", ""),  # says complete, but is not
        (["a"], 1, 2, 3, "a", ""),  # which of the others is missing?
        ([], 0, 2, 2, "", ""),  # a task is missing
        ([], 0, 4, 4, "", ""),  # a task too many
        (["b"], 1, 92, 60, "b", ""),  # counted on from the state file of another agent
        (["x"], 1, 3, 3, "", ""),  # a task we never posted
        (["a", "a"], 2, 3, 3, "", ""),  # one counted twice
        (["a"], 0, 3, 3, "", ""),
        ([], 1, 3, 3, "", ""),
    ],
)
def test_a_task_counts_as_copied_only_if_all_are_accounted_for(
    failed_ids: list[str], failed: int, complete: int, total: int, named: str, copied: str
) -> None:
    """Failures that are soundly listed are believed; the rest only if nothing is missing."""
    told = sort_tasks({"a", "b", "c"}, failed_ids, failed=failed, complete=complete, total=total)
    rest = frozenset("abc") - frozenset(named + copied)
    assert told == SortedTasks(frozenset(named), frozenset(copied), rest)


_NAMES = st.sampled_from("abcdefg")
_COUNTS = st.integers(-2, 9)


@given(st.frozensets(_NAMES), st.lists(_NAMES), _COUNTS, _COUNTS, _COUNTS)
def test_each_posted_task_is_in_one_set_whatever_is_reported(
    posted: frozenset[str], listed: list[str], failed: int, complete: int, total: int
) -> None:
    """None is lost, none is counted twice, and a copy never counts by a doubtful report."""
    told = sort_tasks(posted, listed, failed=failed, complete=complete, total=total)
    parts = (told.failed, told.copied, told.unaccounted)
    assert sorted(name for part in parts for name in part) == sorted(posted)
    assert told.failed <= frozenset(listed)
    if told.copied:
        assert complete == total == len(posted)
        assert failed == len(listed) == len(posted) - len(told.copied)
        assert not told.copied & frozenset(listed)


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


def test_an_assignment_keeps_its_objects_and_drops_its_tasks_once_its_agent_has_it() -> None:
    """What is polled costs its ids only; every change of state is one of the table."""
    placed = Assignment(
        "a", Shark("dc1", "2.stor"), ("x", "y"), 7, tuple(Task(n, "o", "m", SOURCE) for n in "xy")
    )
    doubted = placed.in_doubt()
    assert (doubted.state, doubted.is_in_doubt, doubted.tasks) == ("init", True, ())
    accepted = placed.after(AssignmentEvent.ACCEPTED)
    assert (accepted.state, accepted.object_ids, accepted.tasks) == ("assigned", ("x", "y"), ())
    for begun in (doubted, accepted):
        done = begun.after(AssignmentEvent.AGENT_DONE)
        assert (done.state, done.size, done.shark) == ("agent_complete", 7, "2.stor")
    with pytest.raises(IllegalTransition):
        accepted.after(AssignmentEvent.ACCEPTED)
