"""This module is the manager as a process: it opens everything in one place, and serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from rebalancer import daemon
from rebalancer.config import ManagerConfig, load_manager, read_token, trust_authorities
from rebalancer.errors import ConfigError
from rebalancer.lock import claimed
from rebalancer.log import configure, get_logger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.http.api import make_api
from rebalancer.manager.jobs import scratch
from rebalancer.manager.jobs.assembly import Resources, check_discovery
from rebalancer.manager.jobs.figures import Figures
from rebalancer.manager.jobs.index import open_index
from rebalancer.manager.jobs.service import Jobs
from rebalancer.manager.jobs.status_line import status_line
from rebalancer.manager.jobs.tuning import adopted
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.page.front import Front
from rebalancer.manager.page.routes import make_page
from rebalancer.metrics import metrics_app
from rebalancer.peers.connections import affordable
from rebalancer.peers.http import open_http
from rebalancer.peers.storinfo import LeftOut, storage_nodes
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token

LOG_NAME = "rebalancer-manager"
#: Pauses in seconds before a file that cannot be used is read again.
REREAD_S = (0.2, 1.0)

log = get_logger()


async def run(config: ManagerConfig, path: Path | None = None) -> None:
    """Serve the API and run the jobs until a signal ends them; SIGUSR1 has `path` read once more.

    Raises:
      StoreError: the state cannot be opened, or another manager has it.
      ConfigError: an address cannot be served on, or there is no token where one should be.
    """
    check_discovery(config)
    agent_token = Token.of(config.agent_token_file, "agent_token_file")
    api_token = Token.of(config.api.token_file, "api.token_file")
    async with _open_jobs(config, agent_token) as jobs:
        metrics, access = jobs.resources.metrics, config.api
        api = make_api(jobs, metrics)
        exported = metrics_app(metrics.registry, Figures(jobs.queries).refresh)
        page = make_page(jobs, api_token, is_secure=bool(access.tls_cert))
        daemon.require_token(api, api_token)
        if config.metrics_behind_token:
            daemon.require_token(exported, api_token)

        async def service() -> None:
            await _take_up_change(jobs, path)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(jobs.resources.node_list.poll)
                nursery.start_soon(jobs.run)

        async def reload() -> None:
            await daemon.reload_token(api_token)
            await _reload(jobs, path)

        await daemon.serve(
            service,
            api=Front(api=api, page=page),
            api_at=daemon.Listen(
                config.listen_host, config.listen_port, access.tls_cert, access.tls_key
            ),
            metrics=exported,
            metrics_at=daemon.Listen(config.metrics_host, config.metrics_port),
            on_reload=reload,
            on_stop=page.stopping.set,
            status=lambda: status_line(jobs.running.values()),
        )


@asynccontextmanager
async def _open_jobs(config: ManagerConfig, agent_token: Token) -> AsyncIterator[Jobs]:
    """Open the state of the manager, and the peers that its jobs share.

    Raises:
      StoreError: the state cannot be opened, or another manager has it.
    """
    data_dir = Path(config.data_dir)
    # Before anything there is touched: it may be another manager's.
    with claimed(data_dir, LOG_NAME):
        await run_sync(Work.OTHER, scratch.clean, data_dir)
        async with (
            open_http(
                config.hosts,
                read_s=config.http_timeout_s,
                connections=affordable(daemon.open_many_files()),
                tls=trust_authorities(config.agent_tls_ca, "agent_tls_ca")
                if config.agent_tls
                else None,
            ) as http,
            open_index(data_dir / "rebalancer.sqlite") as index,
        ):
            ask = partial(storage_nodes, http.over("http"), config.storinfo, LeftOut())
            metrics = ManagerMetrics(config)
            resources = Resources(config, NodeList(ask), http, metrics, agent_token)
            metrics.watch_fleet(resources.fleet_ledger, resources.node_list)
            yield Jobs(index, resources)


def _load(path: Path | None) -> ManagerConfig:
    config = load_manager(path)
    check_discovery(config)
    read_token(config.agent_token_file, "agent_token_file")
    return config


async def _take_up_change(jobs: Jobs, path: Path | None) -> None:
    """Reload if the file has changed since the start, when SIGUSR1 was still ignored."""
    try:
        config = await run_sync(Work.OTHER, _load, path)
    except ConfigError:
        changed = True  # so that it is read again, and the fault logged
    else:
        changed = config != jobs.resources.config
    if changed:
        await _reload(jobs, path)


async def _reload(jobs: Jobs, path: Path | None) -> None:
    """Read the file anew: its values hold for the next job, its live keys for running jobs.

    A bad file leaves the old values in force.
    """
    # config-agent does not write at once: half a file may be whole a moment later.
    for pause_s in (*REREAD_S, None):
        try:
            config = await run_sync(Work.OTHER, _load, path)
        except ConfigError as exc:
            if pause_s is None:
                log.error("configuration not reloaded", error=str(exc))
                return
            log.warning("configuration read again soon", error=str(exc), pause_s=pause_s)
            await trio.sleep(pause_s)
            continue
        break
    configure(LOG_NAME, config.log_level)
    config, kept = adopted(jobs.resources.config, config)
    log.info("configuration reloaded", need_a_restart=kept)
    jobs.reload(config)
    try:
        await run_sync(Work.OTHER, jobs.resources.agent_token.read, config.agent_token_file)
    except ConfigError as exc:
        log.error("token not read again", error=str(exc))
