"""The agent as a process: everything opened in one place, then served."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from rebalancer import daemon
from rebalancer.agent.api import Agent, make_api
from rebalancer.agent.fetch import Fetcher
from rebalancer.agent.files import ObjectFiles
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.store import AssignmentStore
from rebalancer.agent.worker import Worker
from rebalancer.config import AgentConfig
from rebalancer.metrics import metrics_app


@contextmanager
def open_agent(config: AgentConfig) -> Iterator[Agent]:
    """An agent on the folders of `config`; `agent.worker.run` is its service.

    Raises:
      StoreError: the state folder cannot be used.
    """
    store = AssignmentStore(Path(config.storage.state_dir))
    store.prepare()
    metrics = AgentMetrics(config.metrics)
    files = ObjectFiles(
        root=config.storage.root,
        temp=config.storage.temp,
        reserve_bytes=config.storage.reserve_mb << 20,
        durable=config.storage.durable,
        on_cleanup_failure=metrics.cleanup_failures.inc,
    )
    fetcher = Fetcher(files, config.source, config.hosts)
    worker = Worker(config.server, store, files, fetcher, metrics)
    try:
        yield Agent(config.api, store, worker, metrics)
    finally:
        fetcher.close()


async def run(config: AgentConfig) -> None:
    """Serve the API and work on assignments until told to stop.

    Raises:
      StoreError: the state folder cannot be used.
      ConfigError: an address cannot be served on.
    """
    with open_agent(config) as agent:

        def drain() -> None:
            agent.is_draining = True

        await trio.to_thread.run_sync(agent.worker.resume)
        await daemon.serve(
            agent.worker.run,
            api=make_api(agent),
            api_at=daemon.Listen(config.server.host, config.server.port),
            metrics=metrics_app(agent.metrics.registry),
            metrics_at=daemon.Listen(config.metrics.host, config.metrics.port),
            on_stop=drain,
        )
