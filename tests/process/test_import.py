"""Jobs of a Rust manager are imported by the operator's command, and their leftovers evacuated."""

import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from rebalancer_devregion import postgres
from rebalancer_devregion.expectations import Kind
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.postgres import Cluster
from rebalancer_devregion.region import running
from tests.conftest import require
from tests.process.regions import Api, adm, new_region
from tests.rust import dsn, make_job, make_manager

pytestmark = pytest.mark.process

JOB = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
#: What a Rust manager may leave of an object.
LEFT: list[dict[str, Any]] = [
    {"status": "assigned"},
    {"status": "post_processing"},
    {"status": "unprocessed"},
    {"status": "skipped", "skipped_reason": "destination_unreachable"},
    {"status": "skipped", "skipped_reason": "{http_status_code:503}"},
    {"status": "error", "error": "internal_error"},
]


def plain_objects(layout: Layout) -> list[tuple[int, str, str]]:
    """Shard, key and id of objects that can be moved."""
    with closing(sqlite3.connect(layout.before_file)) as db:
        query = "SELECT shard, key, object_id FROM records WHERE kind = ? ORDER BY shard, key"
        return db.execute(query, (Kind.ORDINARY,)).fetchall()


def names(layout: Layout, shard: int, key: str) -> set[str]:
    """The nodes that a record names now."""
    with closing(sqlite3.connect(layout.shard_file(shard))) as db:
        (text,) = db.execute("SELECT _value FROM manta WHERE _key = ?", (key,)).fetchone()
    return {entry["manta_storage_id"] for entry in json.loads(text)["sharks"]}


def leave(cluster: Cluster, layout: Layout) -> None:
    """The job of a Rust manager that was killed with all plain objects in its hands."""
    rows = []
    for number, (shard, key, object_id) in enumerate(plain_objects(layout)):
        with closing(sqlite3.connect(layout.shard_file(shard))) as db:
            query = "SELECT _value, _etag FROM manta WHERE _key = ?"
            text, etag = db.execute(query, (key,)).fetchone()
        left = LEFT[number % len(LEFT)]
        at = {"assignment_id": JOB, "dest_shark": next(
            node.manta_storage_id for node in layout.nodes
            if node.manta_storage_id != layout.evacuated
        )}  # fmt: skip
        row = {"id": object_id, "object": text, "shard": shard, "etag": etag, **left}
        rows.append({**row, **at} if left["status"] in ("assigned", "post_processing") else row)
    make_manager(cluster)
    node = {"datacenter": "dc1", "manta_storage_id": layout.evacuated}
    make_job(cluster, JOB, "running", rows, node=node)


async def test_what_a_rust_manager_left_is_evacuated(tmp_path: Path) -> None:
    """Every object in each state it may be in; those that have moved since are left alone."""
    require("initdb")
    region = await trio.to_thread.run_sync(new_region, tmp_path, 150)
    layout = region.layout
    plain = plain_objects(layout)
    with postgres.running() as cluster:
        await trio.to_thread.run_sync(leave, cluster, layout)
        async with running(region), httpx.AsyncClient() as client:
            api = Api(client, region)
            listing = tmp_path / "moved.ndjson"
            moved = plain[: len(LEFT)]
            lines = [json.dumps({"shard": shard, "key": key}) for shard, key, _ in moved]
            listing.write_text("\n".join(lines))
            await api.finish(await api.create(objects_file=str(listing)))
            before = {key: names(layout, shard, key) for shard, key, _ in moved}

            def job(*words: str, **environment: str) -> str:
                done = adm("--url", region.url, "job", *words, **environment)
                assert done.returncode == 0, done.stderr
                return done.stdout

            listed = await trio.to_thread.run_sync(
                partial(job, "import", REBALANCER_LEGACY_DSN=dsn(cluster))
            )
            made = await trio.to_thread.run_sync(
                partial(job, "import", "--legacy-dsn", dsn(cluster), "--all")
            )
            got = await trio.to_thread.run_sync(partial(job, "get", JOB[:8]))
            retry = (await client.post(f"{region.url}/jobs/{JOB}/retry")).text.strip()
            ended = await api.finish(retry)
        await region.stop()

    assert JOB in listed
    assert f"{len(plain):,}" in listed
    assert made == f"{JOB}\n"
    assert "a Rust manager did this job, and recorded it as running" in got
    assert ended["state"] == "Complete", ended
    assert ended["results"]["Complete"] == len(plain) - len(moved)
    for shard, key, _ in plain:
        found = names(layout, shard, key)
        assert layout.evacuated not in found
        assert len(found) == 2
        assert found == before.get(key, found)
