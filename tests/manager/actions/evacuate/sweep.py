"""The sweep of crashes over an evacuation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import attrs

from rebalancer.actions.evacuate import EvacuateParams
from rebalancer.config import ManagerConfig
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import open_http
from tests.manager.actions.sweep import Sweep, Turn
from tests.manager.http.test_api import storage_records
from tests.manager.pipeline.test_crashes import a_world, check_end
from tests.manager.world import World


@attrs.define(eq=False)
class WorldResources(Resources):
    """The agents are those of a world."""

    world: World = attrs.field(kw_only=True)

    def agents(self, _config: ManagerConfig) -> Agents:
        return cast(Agents, self.world.agents)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Turn]:
    """Objects to be moved, one that fails, one that fits nowhere; the first shard has the node."""
    async with a_world(folder) as world, open_http({}) as http:
        world.shards[1].seed("manta_storage", list(storage_records()))
        config = attrs.evolve(world.config, discovery="moray", data_dir=str(folder))
        metrics = ManagerMetrics(config)
        made = WorldResources(config, NodeList(world.ask), http, metrics, world=world)

        async def check(store: JobStore, error: str | None) -> None:
            assert error is None
            await check_end(world, store)

        yield Turn(made, world.moray, check)


SWEEP = Sweep(EvacuateParams("1.stor"), opened, least=35, is_mocked=True)
