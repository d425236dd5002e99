"""An operator steers a real job: pauses it, restarts the manager, resumes, cancels."""

import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.layout import AGENT_PORT, METRICS_PORT
from rebalancer_devregion.region import Region, running
from tests.process.regions import PATIENCE_S, Api, count_rows, json_lines, new_region, shown

pytestmark = pytest.mark.process

OBJECTS = 600
OPTIONS = {"max_tasks_per_assignment": 5, "max_metadata_update_threads": 2}


@asynccontextmanager
async def a_region(folder: Path) -> AsyncIterator[tuple[Region, Api]]:
    region = await trio.to_thread.run_sync(lambda: new_region(folder, OBJECTS, options=OPTIONS))
    async with running(region), httpx.AsyncClient(timeout=30) as client:
        yield region, Api(client, region)


async def put(api: Api, job_id: str, action: str, params: Any = None) -> httpx.Response:
    body = {"action": action, "params": params}
    return await api.client.put(f"{api.region.url}/jobs/{job_id}", json=body)


def job_states(region: Region) -> list[str]:
    """The states of jobs, as the manager has logged them."""
    return [line["state"] for line in json_lines(region.manager.log) if line["msg"] == "job"]


async def reach_state(region: Region, state: str) -> list[str]:
    """Return the states of jobs once this is the last of them that the log has.

    It is shown before it is logged, and what is logged at the last moment dies with a process.
    """
    with trio.fail_after(PATIENCE_S):
        while (states := job_states(region))[-1] != state:  # noqa: ASYNC110
            await trio.sleep(0.02)
    return states


def offenders(region: Region, job_id: str) -> list[str]:
    report = audit(region.layout, region.job_file(job_id))
    return [text for check in report.checks for text in check.offenders]


async def test_a_paused_job_survives_a_restart_and_goes_on(tmp_path: Path) -> None:
    """Nothing moves while it is paused; resumed, it ends as if nothing had been."""
    async with a_region(tmp_path) as (region, api):
        job_id = await api.create()
        await api.reach(job_id, 40)
        assert (await put(api, job_id, "set_metadata_threads", 9)).status_code == 200
        assert (await put(api, job_id, "set_bandwidth", 50_000_000)).status_code == 200
        assert (await put(api, job_id, "pause")).status_code == 200
        paused = await api.get(job_id)
        await reach_state(region, "stopped")
        region.manager.kill()
        await region.manager.start()
        await trio.sleep(0.5)
        again = await api.get(job_id)
        limits = [
            (await api.client.get(f"http://{node.address}:{AGENT_PORT}/limits")).json()
            for node in region.layout.nodes
        ]
        assert (await put(api, job_id, "resume")).status_code == 200
        done = await api.finish(job_id)
        states = await reach_state(region, "complete")

    assert (paused["state"], again["state"]) == ("Stopped", "Stopped")
    assert paused["results"] == again["results"]
    assert shown(again) != shown(done)
    assert any(limit["bandwidth_bytes_per_s"] == 50_000_000 for limit in limits)
    assert done["state"] == "Complete"
    assert offenders(region, job_id) == []
    assert states == ["setup", "running", "stopped", "setup", "running", "complete"]


async def test_a_cancelled_job_records_what_agents_finish(tmp_path: Path) -> None:
    """Also if the manager is killed meanwhile: no copy is forgotten, none is begun."""
    async with a_region(tmp_path) as (region, api):
        job_id = await api.create()
        await api.reach(job_id, 40)
        assert (await put(api, job_id, "cancel")).status_code == 200
        region.manager.kill()
        await region.manager.start()
        view = await api.finish(job_id)
        report = await api.client.get(f"{region.url}/jobs/{job_id}/report")

    assert view["state"] == "Stopped"
    counts = count_rows(region.job_file(job_id))
    assert shown(view) == counts
    assert not counts["unprocessed"]
    assert not counts["assigned"]
    assert not counts["post_processing"]
    assert counts["complete"] >= 40
    with closing(sqlite3.connect(region.job_file(job_id))) as db:
        (unsettled,) = db.execute(
            "SELECT count(*) FROM assignments WHERE state NOT IN ('rejected', 'post_processed')"
        ).fetchone()
    assert unsettled == 0
    assert json.loads(report.text.splitlines()[-1])["type"] == "end"


async def test_the_number_of_updates_at_a_time_is_seen_at_the_shard(tmp_path: Path) -> None:
    """SIGUSR1 changes it for the running job; what a PUT asked for outweighs the file."""
    async with a_region(tmp_path) as (region, api):
        job_id = await api.create()
        await api.reach(job_id, 10)
        path = region.layout.folder / "etc" / "manager.json"
        config = json.loads(path.read_text())
        config["options"]["max_metadata_update_threads"] = 5
        path.write_text(json.dumps(config))
        region.manager.signal(signal.SIGUSR1)
        with trio.fail_after(PATIENCE_S):
            while await gauge(api, "md_thread_gauge") != 5:  # noqa: ASYNC110 - in another process
                await trio.sleep(0.02)
        assert (await put(api, job_id, "set_metadata_threads", 3)).status_code == 200
        assert await gauge(api, "md_thread_gauge") == 3
        config["options"]["max_metadata_update_threads"] = 8
        path.write_text(json.dumps(config))
        region.manager.signal(signal.SIGUSR1)
        await trio.sleep(0.3)
        assert await gauge(api, "md_thread_gauge") == 3
        assert (await api.finish(job_id))["state"] == "Complete"


async def gauge(api: Api, name: str) -> float:
    address = api.region.layout.manager_address
    text = (await api.client.get(f"http://{address}:{METRICS_PORT}/metrics")).text
    (value,) = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name}{{")]
    return float(value)
