"""This module announces a job's limit of bandwidth to the agents of its destinations."""

from collections.abc import Sequence

import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.peers.protocols import AgentThrottle

#: Agents that are asked at a time when the limit changes.
AT_ONCE = 10

log = get_logger()


class BandwidthLimit:
    """Each agent that works for a job may take in so many bytes a second.

    Mutable state: the limit (None: what each agent is configured to), the limit that each agent
    knows, and the agents to which it could not be announced.  An agent keeps to the limit until
    another is announced or the agent starts again, also when the job is over.
    """

    def __init__(self, agents: AgentThrottle, limit: int | None) -> None:
        self._agents = agents
        self._limit = limit
        self._known: dict[str, int | None] = {}
        self._unreached: set[str] = set()

    async def announce(self, shark: str) -> None:
        """Announce the limit to the agent of `shark`, unless that knows it, before it has work.

        An agent that cannot keep a limit, as older ones cannot, is given work all the same.
        """
        limit = self._limit
        if self._known.get(shark) == limit:
            return
        try:
            if not await self._agents.limit_bandwidth(shark, limit):
                log.warning("agent cannot limit its bandwidth", shark=shark)
        except PeerError as exc:
            if shark not in self._unreached:  # else at each assignment, while it is away
                log.warning("agent not told of the bandwidth", shark=shark, error=str(exc))
            self._unreached.add(shark)
            return
        self._unreached.discard(shark)
        self._known[shark] = limit

    async def change(self, limit: int | None, working: Sequence[str]) -> None:
        """Have another limit from now on; it is announced to agents that are at work at once."""
        self._limit = limit
        slots = trio.CapacityLimiter(AT_ONCE)

        async def announce(shark: str) -> None:
            async with slots:
                await self.announce(shark)

        async with trio.open_nursery() as nursery:
            for shark in {*self._known, *working}:
                nursery.start_soon(announce, shark)
