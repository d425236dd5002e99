"""This module asks all destinations that are away whether they are back, in one task."""

from functools import partial

import trio

from rebalancer.errors import PeerError
from rebalancer.manager.pipeline.job import Job

#: Destinations asked at a time.
AT_ONCE = 10


async def probe(job: Job) -> None:
    """Ask each destination that is away, at growing intervals, until it answers; for ever.

    The job shows each of them among its waits.  Jobs share the destinations, and their probes.
    """
    shown: set[str] = set()
    try:
        while True:
            # Until none is due: what came to be due meanwhile has woken nobody.
            while due := job.health.take_due():
                async with trio.open_nursery() as nursery:
                    places = trio.CapacityLimiter(AT_ONCE)
                    for shark in due:
                        nursery.start_soon(_ask, job, shark, places)
            away = dict(job.health.away())
            for shark, why in away.items():
                job.waits.begin(_subject(shark), why)
            for shark in shown - away.keys():
                job.waits.end(_subject(shark))
            shown = set(away)
            with trio.move_on_at(job.health.next_probe_at()):
                await job.ledger.wait_change()
    finally:
        for shark in shown:
            job.waits.end(_subject(shark))


def _subject(shark: str) -> str:
    return f"the agent of {shark}"


async def _ask(job: Job, shark: str, places: trio.CapacityLimiter) -> None:
    note = partial(job.health.still_away, shark)  # also if this is cancelled
    try:
        async with places:
            features = await job.agents.ping(shark)
        note = partial(job.health.answered_probe, shark, features)
    except PeerError as exc:
        note = partial(job.health.still_away, shark, str(exc))
    finally:
        note()
