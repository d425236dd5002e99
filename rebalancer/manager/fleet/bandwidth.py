"""This module keeps the agents of destinations to the limits of bandwidth that jobs have."""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import attrs
import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.peers.protocols import AgentThrottle
from rebalancer.transient import is_transient

#: Agents that are asked at a time.
AT_ONCE = 10
#: Seconds after which an agent is announced its limit again: it may have been started anew, and
#: has forgotten it.
FRESH_S = 30.0
#: Seconds between two looks at which agents are to be announced a limit.
KEEP_S = 10.0
#: Seconds for which the end of a job waits for agents to hear that its limit is over.
LIFT_S = 20.0

log = get_logger()


@attrs.frozen
class _Announced:
    """An announcement has the limit that an agent was sent last, and the time of that."""

    limit: int | None
    at: float


#: It is unknown what the agent keeps to.
_IN_DOUBT = _Announced(0, -math.inf)


class Throttle:
    """A manager has one object of this kind, which knows the limits of its jobs and agents.

    An agent cannot tell jobs apart: it keeps to the least limit of the jobs at work, until it is
    announced another, or starts again.  Mutable state: these jobs' limits; what each agent was
    announced; the agents that could not be reached.
    """

    def __init__(self) -> None:
        self.in_force: set[BandwidthLimit] = set()
        self._announced: dict[str, _Announced] = {}
        self._unreached: set[str] = set()
        self._turns: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    @property
    def limit(self) -> int | None:
        """Return the least limit of the jobs at work; None: what each agent is configured to."""
        limits = (one.value for one in self.in_force)
        return min((value for value in limits if value is not None), default=None)

    @property
    def known(self) -> set[str]:
        """Return the agents that keep to a limit, or may."""
        return {name for name, last in self._announced.items() if last.limit is not None}

    def doubt(self, sharks: Iterable[str]) -> None:
        """Note that these agents may keep to a limit, unless it is known what they keep to."""
        for shark in sharks:
            self._announced.setdefault(shark, _IN_DOUBT)

    async def announce(self, agents: AgentThrottle, shark: str) -> None:
        """Announce the limit to the agent of `shark`, unless that keeps to it already.

        An agent that was never limited is left alone, for an operator may have limited it.
        """
        # In turn, or the agent could be left with the limit that was announced first.
        async with self._turns[shark]:
            limit, last = self.limit, self._announced.get(shark, _Announced(None, -math.inf))
            is_fresh = limit is None or trio.current_time() - last.at < FRESH_S
            if last.limit == limit and is_fresh:
                return
            self._announced[shark] = _IN_DOUBT
            try:
                can = await agents.limit_bandwidth(shark, limit)
            except PeerError as exc:
                if shark not in self._unreached:  # else each time, while it is away
                    log.warning("agent not told of the bandwidth", shark=shark, error=str(exc))
                self._unreached.add(shark)
                return
            if not can and last.limit != limit:
                log.warning("agent cannot limit its bandwidth", shark=shark)
            self._unreached.discard(shark)
            self._announced[shark] = _Announced(limit, trio.current_time())

    async def announce_to(self, agents: AgentThrottle, sharks: Iterable[str]) -> None:
        """Announce the limit to several agents, as above."""
        slots = trio.CapacityLimiter(AT_ONCE)

        async def announce(shark: str) -> None:
            async with slots:
                await self.announce(agents, shark)

        async with trio.open_nursery() as nursery:
            for shark in set(sharks):
                nursery.start_soon(announce, shark)


@attrs.define(eq=False)
class BandwidthLimit:
    """Each agent that works for a job may take in so many bytes a second.

    Mutable state: the limit, None: what each agent is configured to.
    """

    agents: AgentThrottle
    throttle: Throttle
    value: int | None

    @asynccontextmanager
    async def in_force(self, sharks: Iterable[str] = ()) -> "AsyncIterator[BandwidthLimit]":
        """Have the limit in force in this context; an earlier run may have limited `sharks`.

        If the job goes on later, its agents keep to the limit, for they still finish what they
        have.  Otherwise the limit is over, before it is recorded that the job has ended.
        """
        self.throttle.doubt(sharks)
        self.throttle.in_force.add(self)
        failure = None
        try:
            yield self
        except Exception as exc:
            failure = exc
        finally:
            self.throttle.in_force.discard(self)
        if failure is None or not is_transient(failure):
            await self._lift()
        if failure is not None:
            raise failure

    async def _lift(self) -> None:
        with trio.move_on_after(LIFT_S):
            await self.throttle.announce_to(self.agents, self.throttle.known)

    async def announce(self, shark: str) -> None:
        """Announce the limit to the agent of `shark`, before it has work.

        An agent that cannot keep a limit, as older ones cannot, is given work all the same.
        """
        await self.throttle.announce(self.agents, shark)

    async def announce_change(self, working: Iterable[str]) -> None:
        """Announce that the limit has changed, also to the agents `working` for the job."""
        self.throttle.doubt(working)
        await self.throttle.announce_to(self.agents, self.throttle.known)

    async def keep(self, working: Callable[[], Iterable[str]]) -> None:
        """Announce the limit to the agents that are `working` again and again, for ever.

        One may have been started anew, or been away, or have its work of an earlier run of ours.
        """
        while True:
            await self.throttle.announce_to(self.agents, working())
            await trio.sleep(KEEP_S)
