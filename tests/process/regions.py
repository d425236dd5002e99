"""What the tests with real processes share: regions, the operator's view, a job's rows."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from rebalancer_devregion import layout as layouts
from rebalancer_devregion.buckets.contents import write_buckets
from rebalancer_devregion.buckets.tables import SHARDS
from rebalancer_devregion.contents import write
from rebalancer_devregion.processes import Process
from rebalancer_devregion.region import Region, make_region, to_toml

STATUSES = ("unprocessed", "assigned", "skipped", "error", "post_processing", "complete")
#: No job of these tests takes longer, in seconds.
PATIENCE_S = 60.0


def new_region(
    folder: Path,
    objects: int,
    *,
    seed: int = 1,
    clones: bool = False,
    bucket_objects: int = 0,
    **options: Any,
) -> Region:
    """A region with contents and configurations; nothing of it runs.  Blocking."""
    buckets = SHARDS if bucket_objects else ()
    layout = layouts.plan(folder / "region", seed=seed, clones=clones, buckets=buckets)
    layout.save()
    write(layout, objects)
    if bucket_objects:
        write_buckets(layout, bucket_objects)
    return make_region(layout, manager_options=options)


@attrs.frozen
class Api:
    """The manager of a region, as any HTTP client sees it."""

    client: httpx.AsyncClient
    region: Region

    async def create(self, **params: Any) -> str:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor", **params}}
        reply = await self.client.post(f"{self.region.url}/jobs", json=body)
        assert reply.status_code == 200, reply.text
        return reply.text.strip()

    async def get(self, job_id: str) -> dict[str, Any]:
        reply = await self.client.get(f"{self.region.url}/jobs/{job_id}")
        assert reply.status_code == 200, reply.text
        view: dict[str, Any] = reply.json()
        return view

    async def reach(self, job_id: str, complete: int) -> None:
        """Return when so many objects are complete."""
        with trio.fail_after(PATIENCE_S):
            while (await self.get(job_id))["results"]["Complete"] < complete:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def finish(self, job_id: str) -> dict[str, Any]:
        """The job when it has ended."""
        with trio.fail_after(PATIENCE_S):
            while True:
                view = await self.get(job_id)
                if view["state"] not in ("Init", "Setup", "Running"):
                    return view
                await trio.sleep(0.05)


def count_rows(job_file: Path) -> dict[str, int]:
    """SELECT status, count(*), as an operator types it; statuses without rows are 0."""
    with closing(sqlite3.connect(f"{job_file.as_uri()}?mode=ro", uri=True)) as db:
        found = dict(db.execute("SELECT status, count(*) FROM evacuateobjects GROUP BY 1"))
        found["duplicates"] = db.execute("SELECT count(*) FROM duplicates").fetchone()[0]
    return {status: found.get(status, 0) for status in (*STATUSES, "duplicates")}


def shown(view: Mapping[str, Any]) -> dict[str, int]:
    """The same counts out of GET /jobs/{id}."""
    results = view["results"]
    return {s: results[s.replace("_", " ").title()] for s in (*STATUSES, "duplicates")}


def adm(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The operator's command as a process."""
    return run("adm", *args, **options)


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Any of our commands as a process."""
    return subprocess.run(
        [sys.executable, "-m", "rebalancer", *args],
        capture_output=True,
        text=True,
        # What was put off for the sake of an agent that is away waits a minute.
        timeout=180,
        env={**os.environ, **environment},
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, but sqlite's shared memory and logs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def json_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


# --- an agent without a region ---------------------------------------------------------------


@attrs.frozen
class Alone:
    """An agent without a region, and its folders."""

    process: Process
    folder: Path

    @property
    def url(self) -> str:
        (line,) = [line for line in self.process.lines() if line.get("msg") == "listening"]
        return f"http://{line['api']}"


def agent_alone(folder: Path, source: str, /, **tables: Any) -> Alone:
    """An agent that pulls from the address `source`; started by the test."""
    config: dict[str, dict[str, object]] = {
        "server": {"host": "127.0.0.1", "port": 0, "workers_per_assignment": 2},
        "metrics": {"host": "127.0.0.1", "port": 0},
        "storage": {
            "manta_root": str(folder / "manta"),
            "state_dir": str(folder / "state"),
            "reserve_mb": 0,
        },
        "source": {"retries": 0},
        "hosts": {"2.stor.lab": source},
        **tables,
    }
    (folder / "manta").mkdir(exist_ok=True)
    file = folder / "agent.toml"
    file.write_text(to_toml(config))
    return Alone(Process("agent", ("agent", "-c", str(file)), folder / "agent.log"), folder)


async def processed(client: httpx.AsyncClient, alone: Alone, assignment: str) -> dict[str, object]:
    reply = await client.get(f"{alone.url}/assignments/{assignment}")
    stats: dict[str, object] = reply.json()["stats"]
    return stats


async def reach(client: httpx.AsyncClient, alone: Alone, assignment: str, tasks: int) -> None:
    with trio.fail_after(20):
        while (await processed(client, alone, assignment))["complete"] != tasks:  # noqa: ASYNC110
            await trio.sleep(0.02)
