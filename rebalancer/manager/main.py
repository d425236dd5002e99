"""The manager as a process: everything opened in one place, then served."""

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from rebalancer import daemon
from rebalancer.config import ManagerConfig, load_manager, read_token
from rebalancer.errors import ConfigError
from rebalancer.log import configure, get_logger
from rebalancer.manager.api import make_api
from rebalancer.manager.fleet import Fleet
from rebalancer.manager.index import open_index
from rebalancer.manager.jobs import Jobs
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.metrics import metrics_app
from rebalancer.peers.http import open_http
from rebalancer.peers.storinfo import storage_nodes

LOG_NAME = "rebalancer-manager"
#: Pauses in seconds before a file that cannot be used is read again.
REREAD_S = (0.2, 1.0)

log = get_logger()


async def run(config: ManagerConfig, path: Path | None = None) -> None:
    """Serve the API and run the jobs until told to stop; `path` is read again on SIGUSR1.

    Raises:
      StoreError: the state cannot be opened.
      ConfigError: an address cannot be served on, or there is no token where one should be.
    """
    read_token(config.agent_token_file)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            open_http(config.hosts, read_s=config.http_timeout_s)
        )
        index = await stack.enter_async_context(
            open_index(Path(config.data_dir) / "rebalancer.sqlite")
        )
        fleet = Fleet(partial(storage_nodes, http, config.storinfo))
        metrics = ManagerMetrics(config)
        jobs = Jobs(config, index, fleet, http, metrics)

        async def service() -> None:
            await _take_up_change(jobs, path)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fleet.poll)
                nursery.start_soon(jobs.run)

        await daemon.serve(
            service,
            api=make_api(jobs),
            api_at=daemon.Listen(config.listen_host, config.listen_port),
            metrics=metrics_app(metrics.registry),
            metrics_at=daemon.Listen(config.metrics_host, config.metrics_port),
            on_reload=partial(_reload, jobs, path),
        )


def _load(path: Path | None) -> tuple[ManagerConfig, list[str]]:
    config, unknown = load_manager(path)
    read_token(config.agent_token_file)
    return config, unknown


async def _take_up_change(jobs: Jobs, path: Path | None) -> None:
    """Reload if the file has changed since it was read: until now SIGUSR1 was ignored."""
    try:
        config, _ = await trio.to_thread.run_sync(_load, path)
    except ConfigError:
        changed = True  # so that it is read again, and told
    else:
        changed = config != jobs.config
    if changed:
        await _reload(jobs, path)


async def _reload(jobs: Jobs, path: Path | None) -> None:
    """Take the file's new values for the next job; a bad file leaves the old ones in force."""
    # config-agent does not write at once: half a file may be whole a moment later.
    for pause_s in (*REREAD_S, None):
        try:
            config, unknown = await trio.to_thread.run_sync(_load, path)
        except ConfigError as exc:
            if pause_s is None:
                log.error("configuration not reloaded", error=str(exc))
                return
            log.warning("configuration read again soon", error=str(exc), pause_s=pause_s)
            await trio.sleep(pause_s)
            continue
        break
    configure(LOG_NAME, config.log_level)
    log.info("configuration reloaded", unknown_keys=unknown)
    jobs.config = config
