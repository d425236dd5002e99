"""A verify job by the real daemon and the operator's command, over what an evacuation has moved."""

import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from rebalancer_devregion.region import Region, running
from tests.process.regions import Api, adm, new_region

pytestmark = pytest.mark.process

OBJECTS = 300
#: Kinds of objects that the region has with bad copies, and what is found of them.
SEEDED = {
    "missing_on_source": "copy_missing",
    "corrupt_on_source": "wrong_md5",
    "short_on_source": "wrong_size",
    "gone_shark": "node_unreachable",
}


@attrs.frozen
class Done:
    """What a command has printed, and how it ended."""

    status: int
    text: str


async def command(region: Region, *args: str) -> Done:
    done = await trio.to_thread.run_sync(partial(adm, "--url", region.url, "job", *args))
    return Done(done.returncode, done.stdout + done.stderr)


async def new_verification(region: Region, *args: str) -> str:
    made = await command(region, "create", "verify", "--patience-s", "5", *args, "--json")
    assert made.status == 0, made.text
    return str(json.loads(made.text)["id"])


async def report(region: Region, job_id: str) -> dict[str, dict[str, str]]:
    """The objects that a job's report lists as errors, by id."""
    done = await command(region, "report", job_id)
    assert done.status == 0, done.text
    lines = [json.loads(line) for line in done.text.splitlines() if line.startswith("{")]
    return {line["id"]: line for line in lines if line.get("status") == "error"}


def new_copies(region: Region, job_id: str) -> dict[str, Path]:
    """The copies with some content that an evacuation has made, by object id.  Blocking."""
    with closing(sqlite3.connect(region.job_file(job_id))) as db:
        rows = db.execute(
            "SELECT id, dest_shark, object FROM evacuateobjects WHERE status = 'complete'"
        ).fetchall()
    found = {}
    for object_id, node, text in rows:
        record = json.loads(text)
        account = record.get("creator") or record["owner"]
        path = region.layout.manta_root(node) / account / object_id
        if record["contentLength"] > 1:
            found[object_id] = path
    return found


def spoil(copies: dict[str, Path]) -> dict[str, str]:
    """Remove a copy, cut one, and change the bytes of one; the reasons by id.  Blocking."""
    (gone, cut, changed), expected = sorted(copies)[:3], {}
    copies[gone].unlink()
    expected[gone] = "copy_missing"
    content = copies[cut].read_bytes()
    copies[cut].write_bytes(content[:-1])
    expected[cut] = "wrong_size"
    content = copies[changed].read_bytes()
    copies[changed].write_bytes(bytes([content[0] ^ 1]) + content[1:])
    expected[changed] = "wrong_md5"
    return expected


async def kill_in_the_middle(api: Api, job_id: str) -> None:
    """SIGKILL the manager when the job has looked at some objects, and start it again."""
    await api.reach(job_id, 20)
    (manager,) = [one for one in api.region.processes if one.name == "manager"]
    manager.kill()
    await manager.start()
    view = await api.get(job_id)
    assert view["state"] == "Running"


def seeded(lines: dict[str, dict[str, str]]) -> dict[str, str]:
    """What is expected of the copies that the region has spoilt from the beginning, by id."""
    return {name: SEEDED[line["key"].rpartition(".")[2]] for name, line in lines.items()}


async def test_copies_are_verified_by_the_real_daemon(tmp_path: Path) -> None:
    """The region's own bad copies are found, and three more, by a job that is killed meanwhile."""
    region = await trio.to_thread.run_sync(new_region, tmp_path, OBJECTS)
    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        evacuation = await api.create()
        assert (await api.finish(evacuation))["state"] == "Complete"

        first = await new_verification(region, "--job", evacuation[:8], "--sample", "1")
        watched = await command(region, "watch", first)
        known = await report(region, first)
        assert {name: line["reason"] for name, line in known.items()} == seeded(known)
        assert len(set(seeded(known).values())) == len(SEEDED)
        assert watched.status == 1

        copies = await trio.to_thread.run_sync(new_copies, region, evacuation)
        sound = {name: path for name, path in copies.items() if name not in known}
        expected = await trio.to_thread.run_sync(spoil, sound)
        slow = ("--sample", "1", "--requests", "1")
        second = await new_verification(region, "--job", evacuation, *slow)
        await kill_in_the_middle(api, second)
        refused = await client.delete(f"{region.url}/jobs/{evacuation}")
        watched = await command(region, "watch", second)
        got = await command(region, "get", second)
        found = await report(region, second)

    assert (refused.status_code, refused.text.count("verifies it")) == (409, 1)
    assert watched.status == 1
    told = f"{len(known) + 3} objects are not as their records say"
    assert told in watched.text
    assert told in got.text
    reasons = {name: line["reason"] for name, line in found.items()}
    assert reasons == {**seeded(known), **expected}
    for object_id in expected:
        assert copies[object_id].name in found[object_id]["detail"]
