"""A region's servers are its shards of both tiers, storinfo, and the nodes' HTTP servers.

All are one process, or each part is one of its own, so that it can be killed alone.
"""

import signal
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import trio

from rebalancer.daemon import Listen, listen
from rebalancer.log import get_logger
from rebalancer_devregion import postgres
from rebalancer_devregion.buckets import tables
from rebalancer_devregion.buckets.garbage import collect_garbage
from rebalancer_devregion.buckets.server import serve_mdapi
from rebalancer_devregion.layout import (
    MDAPI_PORT,
    MORAY_PORT,
    POSTGRES_PORT,
    SOURCE_PORT,
    STORINFO_PORT,
    Layout,
)
from rebalancer_devregion.moray.server import serve_shard
from rebalancer_devregion.moray.store import ShardStore
from rebalancer_devregion.storagenode import serve_node
from rebalancer_devregion.storinfo import listing, make_storinfo_app

log = get_logger()


def parts(layout: Layout) -> tuple[str, ...]:
    """Name the parts that `serve` can serve alone: each shard, storinfo, all nodes."""
    shards = (f"moray-{number}" for number in layout.shards)
    buckets = (f"buckets-{number}" for number in layout.buckets)
    return (*shards, *buckets, "storinfo", "nodes")


async def serve(layout: Layout, only: Collection[str] = ()) -> None:
    """Serve all parts, or those named in `only`, until SIGTERM or SIGINT.

    Raises:
      MorayDied: a client did what would have killed a real Moray.
    """
    receiver = trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT)
    with receiver as signals, ExitStack() as stores:
        chosen = frozenset(only or parts(layout))
        shards = [number for number in layout.shards if f"moray-{number}" in chosen]
        buckets = [number for number in layout.buckets if f"buckets-{number}" in chosen]
        async with _databases(layout, shards, buckets), trio.open_nursery() as nursery:
            for number in buckets:
                address = layout.buckets_address(number)
                database = f"{address}:{POSTGRES_PORT}"
                await nursery.start(serve_mdapi, database, address, MDAPI_PORT)
                nursery.start_soon(collect_garbage, layout, number)
            for number in shards:
                store = stores.enter_context(closing(ShardStore(layout.shard_file(number))))
                address = layout.moray_address(number)
                await nursery.start(serve_shard, store, address, MORAY_PORT)
            for node in layout.nodes if "nodes" in chosen else ():
                name = node.manta_storage_id
                await nursery.start(
                    partial(
                        serve_node,
                        layout.manta_root(name),
                        node.address,
                        SOURCE_PORT,
                        access_log=access_log(layout, name),
                    )
                )
            if "storinfo" in chosen:
                storinfo = Listen(layout.storinfo_address, STORINFO_PORT)
                app = make_storinfo_app(lambda: listing(layout))
                await listen(nursery, app, storinfo, trio.Event())
            log.info("listening", parts=sorted(chosen))
            await anext(signals)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _databases(
    layout: Layout, shards: Collection[int], buckets: Collection[int]
) -> AsyncIterator[None]:
    """Run the PostgreSQL of each buckets shard, and a clone of each other, if there are clones.

    A clone has what the shard holds now.
    """

    def start(stack: ExitStack) -> None:
        for number in buckets:
            stack.enter_context(tables.running(layout, number))
        for number in shards if layout.clones else ():
            server = postgres.running(layout.moray_address(number), POSTGRES_PORT)
            cluster = stack.enter_context(server)
            postgres.clone_shard(cluster, layout.shard_file(number))

    stack = ExitStack()
    try:
        await trio.to_thread.run_sync(start, stack)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stack.close)


def access_log(layout: Layout, name: str) -> Path:
    """Return the log of what a node's HTTP server sent."""
    return layout.folder / "log" / f"access-{name}.log"
