"""Limits of bandwidth: each agent keeps to the least that the jobs at work have, and no longer."""

import attrs
import pytest
import trio

from rebalancer.errors import JobFailed, PeerUnreachable, StoreBusy
from rebalancer.manager.fleet.bandwidth import FRESH_S, KEEP_S, LIFT_S, BandwidthLimit, Throttle


@attrs.define
class Agents:
    """Agents that keep to the limit that they were announced last."""

    limits: dict[str, int | None] = attrs.field(factory=dict)
    heard: list[tuple[str, int | None]] = attrs.field(factory=list)
    #: Those that answer to nothing.
    away: set[str] = attrs.field(factory=set)

    async def limit_bandwidth(self, shark: str, bytes_per_s: int | None) -> bool:
        await trio.sleep(1)
        if shark in self.away:
            raise PeerUnreachable("gone")
        self.limits[shark] = bytes_per_s
        self.heard.append((shark, bytes_per_s))
        return True


async def work(limit: BandwidthLimit, *sharks: str) -> None:
    for shark in sharks:
        await limit.announce(shark)


async def test_an_agent_is_announced_a_limit_before_it_has_work(autojump_clock: object) -> None:
    """Once, for all assignments of the next seconds; never, if no job has a limit."""
    agents, throttle = Agents({"3": 7}), Throttle()
    async with BandwidthLimit(agents, throttle, None).in_force():
        await work(BandwidthLimit(agents, throttle, None), "1", "3")
    assert agents.heard == []
    async with BandwidthLimit(agents, throttle, 5).in_force() as limit:
        await work(limit, "1", "1", "2")
        assert agents.heard == [("1", 5), ("2", 5)]


async def test_no_limit_is_announced_to_agents_that_an_earlier_run_has_limited(
    autojump_clock: object,
) -> None:
    """The manager was started again since, and knows only what its job's file has."""
    agents, throttle = Agents({"1": 2000, "2": 2000, "3": 2000}), Throttle()
    async with BandwidthLimit(agents, throttle, 2000).in_force() as limit:
        limit.value = None
        await limit.announce_change(["1"])
    assert agents.limits == {"1": None, "2": 2000, "3": 2000}
    async with BandwidthLimit(agents, throttle, 2000).in_force(["1", "2"]) as limit:
        limit.value = None
        await limit.announce_change(["3"])
        assert agents.limits == {"1": None, "2": None, "3": None}


async def test_the_end_of_a_job_ends_its_limit(autojump_clock: object) -> None:
    """At all agents that it has worked with, also before the manager was started again."""
    agents = Agents({"1": 2000, "2": 2000})
    async with BandwidthLimit(agents, Throttle(), 2000).in_force(["1"]) as limit:
        await work(limit, "2")
    assert agents.limits == {"1": None, "2": None}


@pytest.mark.parametrize(
    ("why", "left"), [(JobFailed("no"), None), (StoreBusy("full"), 5), (None, 5)]
)
async def test_a_job_that_goes_on_later_leaves_its_agents_limited(
    autojump_clock: object, why: Exception | None, left: int | None
) -> None:
    """Paused, or held up: agents still finish what they have.  One that failed does not go on."""
    agents, throttle = Agents(), Throttle()
    with trio.CancelScope() as scope:
        try:
            async with BandwidthLimit(agents, throttle, 5).in_force() as limit:
                await work(limit, "1")
                if why is not None:
                    raise why
                scope.cancel()
                await trio.sleep_forever()
        except Exception as exc:
            assert exc is why
    assert agents.limits == {"1": left}
    # Whoever gives the agent work next does so without that limit.
    async with BandwidthLimit(agents, throttle, None).in_force() as limit:
        await work(limit, "1")
        assert agents.limits == {"1": None}


async def test_two_jobs_share_an_agent_by_the_lesser_limit(autojump_clock: object) -> None:
    """Whichever announces last; the limit of the one that is left is in force then."""
    agents, throttle = Agents(), Throttle()
    async with BandwidthLimit(agents, throttle, 9).in_force() as one:
        async with BandwidthLimit(agents, throttle, 5).in_force() as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, other, "1")
                nursery.start_soon(work, one, "1", "2")
            assert agents.limits == {"1": 5, "2": 5}
            one.value = 3
            await one.announce_change([])
            assert agents.limits == {"1": 3, "2": 3}
            one.value = None
            await one.announce_change([])
            assert agents.limits == {"1": 5, "2": 5}
            one.value = 9
        assert agents.limits == {"1": 9, "2": 9}
    assert agents.limits == {"1": None, "2": None}


async def test_an_agent_that_starts_again_is_limited_again(autojump_clock: object) -> None:
    """Nothing says that it has; so every agent at work is announced its limit in turn."""
    agents, at_work = Agents(), ["1"]
    limit = BandwidthLimit(agents, Throttle(), 5)
    async with limit.in_force(), trio.open_nursery() as nursery:
        nursery.start_soon(limit.keep, lambda: at_work)
        await trio.sleep(2)
        assert agents.limits == {"1": 5}
        agents.limits.clear()
        await trio.sleep(FRESH_S + 2 * KEEP_S)
        assert agents.limits == {"1": 5}
        at_work.clear()
        agents.heard.clear()
        await trio.sleep(10 * FRESH_S)
        assert agents.heard == []
        nursery.cancel_scope.cancel()


async def test_an_agent_that_does_not_answer_is_announced_the_limit_later(
    autojump_clock: object,
) -> None:
    """Also the end of one; the end of the job waits for it for a bounded time only."""
    agents, throttle = Agents(away={"1"}), Throttle()
    async with BandwidthLimit(agents, throttle, 5).in_force() as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(limit.keep, lambda: ["1"])
            await trio.sleep(KEEP_S)
            agents.away.clear()
            await trio.sleep(KEEP_S + 2)
            assert agents.limits == {"1": 5}
            nursery.cancel_scope.cancel()
        agents.away.add("1")
        await limit.announce("1")
        began = trio.current_time()
    assert trio.current_time() - began <= LIFT_S
    agents.away.clear()
    async with BandwidthLimit(agents, throttle, None).in_force() as limit:
        await work(limit, "1")
        assert agents.limits == {"1": None}
