"""The servers of a region in one process: Moray shards, storinfo, the nodes' HTTP servers."""

import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from rebalancer.daemon import Listen, listen
from rebalancer.devregion import postgres
from rebalancer.devregion.layout import (
    MORAY_PORT,
    POSTGRES_PORT,
    SOURCE_PORT,
    STORINFO_PORT,
    Layout,
)
from rebalancer.devregion.moray.server import serve_shard
from rebalancer.devregion.moray.store import ShardStore
from rebalancer.devregion.storagenode import serve_node
from rebalancer.devregion.storinfo import listing, make_storinfo_app
from rebalancer.log import get_logger

log = get_logger()


async def serve(layout: Layout) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
      MorayDied: a client did what would have killed a real Moray.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _clones(layout), trio.open_nursery() as nursery:
            for number in layout.shards:
                store = ShardStore(layout.shard_file(number))
                address = layout.moray_address(number)
                await nursery.start(serve_shard, store, address, MORAY_PORT)
            for node in layout.nodes:
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
            storinfo = Listen(layout.storinfo_address, STORINFO_PORT)
            app = make_storinfo_app(lambda: listing(layout))
            await listen(nursery, app, storinfo, trio.Event())
            log.info("listening", shards=len(layout.shards), nodes=len(layout.nodes))
            await anext(signals)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _clones(layout: Layout) -> AsyncIterator[None]:
    """A PostgreSQL for each shard, if the region has them, with what the shard holds now."""

    def start(stack: ExitStack) -> None:
        for number in layout.shards:
            server = postgres.running(layout.moray_address(number), POSTGRES_PORT)
            cluster = stack.enter_context(server)
            postgres.clone_shard(cluster, layout.shard_file(number))

    stack = ExitStack()
    try:
        if layout.clones:
            await trio.to_thread.run_sync(start, stack)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stack.close)


def access_log(layout: Layout, name: str) -> Path:
    """The log of what a node's HTTP server sent."""
    return layout.folder / "log" / f"access-{name}.log"
