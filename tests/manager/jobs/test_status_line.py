"""The line that `systemctl status` shows of a manager."""

from typing import Any, cast

from trio.testing import MockClock

from rebalancer.manager.jobs.running import RunningJob
from rebalancer.manager.jobs.status_line import status_line
from tests.manager.jobs.test_scheduler import row


def running(name: str) -> RunningJob:
    """A job that has begun nothing, for which no resources are needed."""
    return RunningJob(row(name, node=f"{name}.stor"), cast(Any, None), base=cast(Any, None))


async def test_a_line_says_which_jobs_are_at_work(autojump_clock: MockClock) -> None:
    """Of each: how far it is, how fast it goes, what it waits for."""
    job = running("4ba2f8a3-9f6a")
    assert status_line([]) == "no job at work"
    assert status_line([job]) == "1 job at work: 4ba2f8a3 evacuate 4ba2f8a3-9f6a.stor"

    job.rates.add(0.0, 1000, 0)
    job.rates.add(10.0, 1250, 0)
    job.waits.begin("storinfo", "no answer")
    assert status_line([job]).endswith("1,250 objects settled, 25.0/s, waits for storinfo")


async def test_a_line_stays_short() -> None:
    """However many jobs are at work."""
    line = status_line([running(name) for name in "abcdef"])

    assert line.startswith("6 jobs at work: a evacuate a.stor; b ")
    assert line.endswith("; d evacuate d.stor; 2 more")
