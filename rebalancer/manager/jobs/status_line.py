"""This module says in a line which jobs are at work, from memory alone.

`systemctl status` shows the line; it is made for the watchdog's sake too, which no slow disk may
keep waiting.
"""

from collections.abc import Collection

from rebalancer.manager.jobs.running import RunningJob
from rebalancer.rates import MINUTE_S

#: The most jobs that a line has.
MOST = 4


def status_line(running: Collection[RunningJob]) -> str:
    """Return which jobs are at work, how far each is, and what it waits for."""
    if not running:
        return "no job at work"
    shown = [_of(job) for job in list(running)[:MOST]]
    more = [f"{len(running) - MOST} more"] if len(running) > MOST else []
    jobs = "job" if len(running) == 1 else "jobs"
    return f"{len(running)} {jobs} at work: {'; '.join([*shown, *more])}"


def _of(running: RunningJob) -> str:
    row, parts = running.row, list[str]()
    if running.rates.has_begun:
        _, objects, _ = running.rates.samples[-1]
        per_s, _ = running.rates.per_s(MINUTE_S)
        parts.append(f"{objects:,} objects settled, {per_s:,.1f}/s")
    if causes := running.waits.causes:
        parts.append(f"waits for {causes[0].subject}")
    named = " ".join(filter(None, [row.id[:8], row.action, row.node]))
    return ", ".join([named, *parts])
