"""This module is the agent as a process: it opens everything in one place, and serves."""

import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from rebalancer import daemon
from rebalancer.agent.api import Agent, make_api
from rebalancer.agent.limits import Limits, configured
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent.transfer.disk.names import new_run
from rebalancer.agent.transfer.pool import make_fetchers
from rebalancer.agent.transfer.sources.choice import check_engine
from rebalancer.agent.transfer.startup import Setup, open_files
from rebalancer.agent.worker import Worker
from rebalancer.config import AgentConfig
from rebalancer.lock import claimed
from rebalancer.metrics import WaitMetrics, metrics_app
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token


def open_agent(config: AgentConfig) -> Agent:
    """Open an agent on the folders of `config`; `agent.worker.run` is its service.

    Raises:
      StoreError: the state folder cannot be used.
      ConfigError: the configured engine cannot be loaded.
    """
    check_engine(config.source)
    store = AssignmentStore(Path(config.storage.state_dir))
    store.prepare()
    metrics = AgentMetrics(config.metrics)
    count = metrics.cleanup_failures.inc
    files = open_files(config.storage, count, new_run())
    setup = Setup(config.storage, config.source, config.hosts, config.log.level)
    fetchers = make_fetchers(setup, config.server.fetchers, files)
    metrics.running.set_function(lambda: sum(fetcher.at_work for fetcher in fetchers))
    with suppress(OSError):
        metrics.disk_free.set(files.free_bytes())
    limits = Limits(fetchers, configured(config.server, config.source))
    worker = Worker(config.server, store, files, fetchers, limits, metrics)
    metrics.registry.register(WaitMetrics("agent", lambda: worker.waits.causes))
    return Agent(config.api, store, worker, metrics)


async def run(config: AgentConfig) -> None:
    """Serve the API and work on assignments until a signal ends the agent.

    Raises:
      StoreError: the state folder cannot be used, or another agent uses it or the folder of
        temporary files.
      ConfigError: an address cannot be served on, a file for the API is not usable, or objects
        cannot be put into place below the configured root.
    """
    # Before anything is touched: what lies there may be another's, who works on it.
    with claimed(Path(config.storage.state_dir), "rebalancer-agent"):
        await _serve(config)


async def _serve(config: AgentConfig) -> None:
    # By default a thread that writes state may keep the loop waiting for 5 ms.
    sys.setswitchinterval(0.0005)
    agent = open_agent(config)
    api = make_api(agent)
    token = Token.of(config.api.token_file, "api.token_file")
    daemon.require_token(api, token)
    exported = metrics_app(agent.metrics.registry)
    if config.metrics.behind_token:
        daemon.require_token(exported, token)
    at = daemon.Listen(
        config.server.host, config.server.port, config.api.tls_cert, config.api.tls_key
    )

    def drain() -> None:
        agent.is_draining = True

    with agent.worker.files.claimed():
        await run_sync(Work.STORE, agent.worker.resume)
        await daemon.serve(
            agent.worker.run,
            api=api,
            api_at=at,
            metrics=exported,
            metrics_at=daemon.Listen(config.metrics.host, config.metrics.port),
            on_reload=partial(daemon.reload_token, token),
            on_stop=drain,
            status=agent.worker.status_line,
        )
