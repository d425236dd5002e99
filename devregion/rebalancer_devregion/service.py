"""This module runs a whole region until it is told to end, and starts again what ends before.

`<folder>/pids.json` has the process of each program, so that another command can kill one.
"""

import json
import os
import signal
import time
from pathlib import Path

import click
import trio

from rebalancer_devregion.layout import AGENT_PORT, METRICS_PORT, Layout
from rebalancer_devregion.processes import Process
from rebalancer_devregion.region import Region, make_region, running

#: A program that has ended is started again after this many seconds.
AWAY_S = 1.0
_LOOK_S = 0.1


def variables(layout: Layout) -> dict[str, str]:
    """Return what a shell needs to know of a region: where its manager and one agent are."""
    agent = next(node for node in layout.nodes if node.manta_storage_id != layout.evacuated)
    return {
        "REBALANCER_URL": layout.manager_url,
        "METRICS_URL": f"http://{layout.manager_address}:{METRICS_PORT}/metrics",
        "AGENT_URL": f"http://{agent.address}:{AGENT_PORT}",
    }


async def serve_all(layout: Layout) -> None:
    """Run all programs of a region until SIGTERM or SIGINT.

    Raises:
      ProcessError: a program did not start.
    """
    # All nodes share this machine, which needs no more processes to move a few objects.
    region = make_region(layout, agent_server={"fetchers": 1})
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with running(region), trio.open_nursery() as nursery:
            _note(region)
            click.echo(
                f"running: {len(layout.shards)} Moray shards, storinfo, {len(layout.nodes)} storage"
                f" nodes with their agents, the manager at {region.url}\n"
                "Ctrl-C ends all of it.  In another shell:"
                f'  eval "$(rebalancer region env {layout.folder})"'
            )
            for process in region.processes:
                nursery.start_soon(_restart, region, process)
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _restart(region: Region, process: Process) -> None:
    while True:
        while process.is_running:  # noqa: ASYNC110 - in another process
            await trio.sleep(_LOOK_S)
        click.echo(f"{time.strftime('%T')} {process.name} has ended; it is started again")
        await trio.sleep(AWAY_S)
        await process.start()
        _note(region)


def _note(region: Region) -> None:
    pids = {process.name: process.pid for process in region.processes}
    new = _pids(region.layout).with_suffix(".new")
    new.write_text(json.dumps(pids, indent=2))
    new.replace(_pids(region.layout))


def _pids(layout: Layout) -> Path:
    return layout.folder / "pids.json"


def kill(layout: Layout, name: str) -> str:
    """Send SIGKILL to a program of a region that runs; return its whole name.

    Raises:
      LookupError: the region does not run, or has no such program.
    """
    try:
        known: dict[str, int] = json.loads(_pids(layout).read_text())
    except FileNotFoundError:
        raise LookupError(f"{layout.folder}: does not run") from None
    full = next((one for one in known if one in (name, f"agent-{name}.{layout.domain}")), None)
    if full is None:
        raise LookupError(f"no program {name}; there are {', '.join(known)}")
    try:
        os.kill(known[full], signal.SIGKILL)
    except ProcessLookupError:
        raise LookupError(f"{full} does not run") from None
    return full
