"""Which jobs begin follows from the list of jobs, those that run and the limit alone."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.states import ENDED, JobState
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.scheduler import to_start, why_queued

DRAINED = (JobState.CANCELLING, JobState.DRAINING)


def row(name: str, state: JobState = JobState.QUEUED, node: str | None = None) -> JobRow:
    params: dict[str, Any] = {"from_shark": node or f"{name}.stor"}
    return JobRow(name, "evacuate", state, params, "", None, None, None)


def chosen(rows: list[JobRow], running: list[JobRow], limit: int) -> list[str]:
    return [job.id for job in to_start(rows, running, limit)]


def test_jobs_begin_in_their_order_up_to_the_limit() -> None:
    """A job that is paused is passed over."""
    rows = [row("a"), row("b", JobState.PAUSED), row("c"), row("d")]
    assert chosen(rows, [], 2) == ["a", "c"]
    assert chosen(rows, [row("a", JobState.RUNNING)], 2) == ["c"]


def test_a_job_that_is_drained_takes_no_turn() -> None:
    """It begins whatever runs, and keeps nobody from beginning."""
    running = [row("a", JobState.RUNNING), row("b", JobState.DRAINING)]
    assert chosen([row("c", JobState.CANCELLING), row("d")], running, 1) == ["c"]
    assert chosen([row("d")], running, 2) == ["d"]


def test_jobs_about_one_node_run_one_after_another() -> None:
    """Be it one that runs already, or one that begins now."""
    rows = [row("a", node="1.stor"), row("b", node="1.stor"), row("c")]
    assert chosen(rows, [], 3) == ["a", "c"]
    assert chosen([row("b", JobState.CANCELLING, "a.stor")], [row("a", JobState.RUNNING)], 3) == []


def test_a_queued_job_says_what_it_waits_for() -> None:
    """The jobs that have their turn, how many come first, or the job for the same node."""
    first, second = row("a", JobState.RUNNING), row("b", JobState.RUNNING)
    drained = row("c", JobState.DRAINING, "c.stor")
    queue = [row("d"), row("e", JobState.PAUSED), row("f"), row("c2", node="c.stor")]
    unfinished = [first, second, drained, *queue]

    def why(place: int, at_work: list[JobRow], limit: int) -> str | None:
        return why_queued(queue[place], unfinished, at_work, limit)

    assert why(0, [first], 1) == (
        "as many jobs run as may (max_concurrent_jobs is 1): job a (evacuate, a.stor)"
    )
    assert why(2, [first, second, drained], 2) == (
        "as many jobs run as may (max_concurrent_jobs is 2): job a (evacuate, a.stor),"
        " job b (evacuate, b.stor); 1 queued before this one"
    )
    assert why(3, [first, drained], 2) == (
        "job c (evacuate, c.stor) is for the same storage node, and comes first"
    )
    assert why(0, [first], 2) is None  # it is begun by now


unfinished = st.sampled_from(sorted(set(JobState) - ENDED))
jobs = st.lists(st.tuples(unfinished, st.sampled_from("123")), max_size=8).map(
    lambda made: [row(str(n), state, node) for n, (state, node) in enumerate(made)]
)


@given(rows=jobs, limit=st.integers(1, 3))
def test_no_choice_breaks_a_rule(rows: list[JobRow], limit: int) -> None:
    """And what is left out could not have begun beside what was chosen."""
    started = to_start(rows, [], limit)
    nodes = [job.node for job in started]
    turns = [job for job in started if job.state not in DRAINED]
    assert len(set(nodes)) == len(nodes)
    assert len(turns) <= limit
    assert to_start(rows, started, limit) == []
    assert all(job.state is not JobState.PAUSED for job in started)
    for job in rows:
        if job not in started and job.state is not JobState.PAUSED:
            assert job.node in nodes or len(turns) == limit
