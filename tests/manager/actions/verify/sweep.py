"""The sweep of crashes over a verification."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from rebalancer.actions.verify import VerifyParams
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers.http import open_http
from tests.manager.actions.sweep import Sweep, Turn
from tests.manager.actions.verify.region import good_record, open_region
from tests.manager.world import counts

NODE = "2.stor.lab"


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Turn]:
    """Six objects with a copy on the node, one of which is not there."""
    records = [good_record(number) for number in range(1, 13)]
    async with open_region(folder, records) as region, open_http(region.hosts) as http:
        region.copy(1, NODE).unlink()
        config = attrs.evolve(region.config, discovery="moray", data_dir=str(folder))
        made = Resources(config, NodeList(region.world.ask), http, ManagerMetrics(config))

        async def check(store: JobStore, error: str | None) -> None:
            assert "copy_missing 1" in str(error)
            assert await counts(store) == {("complete", ""): 5, ("error", "copy_missing"): 1}

        yield Turn(made, region.world.moray, check)


SWEEP = Sweep(VerifyParams(shark=NODE, sample=1.0), opened, least=8, is_mocked=False)
