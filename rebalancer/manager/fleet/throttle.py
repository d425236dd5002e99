"""This module tells a job's destinations which bandwidth to keep to."""

from collections.abc import Sequence

import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.peers.agents import Agents

#: Agents told at a time when the limit changes.
AT_ONCE = 10

log = get_logger()


class Throttle:
    """What each agent that works for a job may take in, in bytes a second.

    Mutable state: the limit (None: what each agent is configured to), what each agent was told
    last, and which could not be told.  An agent keeps to it until it is told otherwise or starts
    again, also when the job is over.
    """

    def __init__(self, agents: Agents, limit: int | None) -> None:
        self._agents = agents
        self._limit = limit
        self._told: dict[str, int | None] = {}
        self._untold: set[str] = set()

    async def tell(self, shark: str) -> None:
        """Before `shark` is given work: see that its agent knows the limit.

        One that cannot be told, as older ones cannot, is given work all the same.
        """
        limit = self._limit
        if self._told.get(shark) == limit:
            return
        try:
            if not await self._agents.limit_bandwidth(shark, limit):
                log.warning("agent cannot limit its bandwidth", shark=shark)
        except PeerError as exc:
            if shark not in self._untold:  # else at each assignment, while it is away
                log.warning("agent not told of the bandwidth", shark=shark, error=str(exc))
            self._untold.add(shark)
            return
        self._untold.discard(shark)
        self._told[shark] = limit

    async def change(self, limit: int | None, working: Sequence[str]) -> None:
        """Have another limit from now on; agents that are at work are told at once."""
        self._limit = limit
        slots = trio.CapacityLimiter(AT_ONCE)

        async def tell(shark: str) -> None:
            async with slots:
                await self.tell(shark)

        async with trio.open_nursery() as nursery:
            for shark in {*self._told, *working}:
                nursery.start_soon(tell, shark)
