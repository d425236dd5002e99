"""An agent that pulls from a real nginx, as storage nodes run it."""

import os
from pathlib import Path

import httpx
import pytest

from rebalancer_devregion.nginx import serving
from tests.conftest import require
from tests.process.regions import agent_alone, reach
from tests.sources import ASSIGNMENT, OWNER, bucket_path, bucket_task, task, uuid

pytestmark = pytest.mark.process

CONTENTS = [os.urandom(size) for size in (0, 1, 4096, 70_000, 3_000_000)] + [
    bytes([number]) * 5000 for number in range(40)
]


@pytest.fixture
def program() -> str:
    return require("nginx")


def fill(source: Path) -> None:
    """Lay out the objects of a storage node."""
    root = source / OWNER
    root.mkdir(parents=True)
    for path in (source.parent, source, root):
        path.chmod(0o755)
    for number, content in enumerate(CONTENTS):
        (root / uuid(number)).write_bytes(content)
        of_bucket = source / bucket_path(number)
        of_bucket.parent.mkdir(parents=True, exist_ok=True)
        of_bucket.write_bytes(content[::-1])


@pytest.mark.parametrize(
    ("keepalive_s", "engine"),
    [
        pytest.param(60, "libcurl", id="keep-alive", marks=pytest.mark.native("pycurl")),
        pytest.param(0, "plain", id="close"),
    ],
)
async def test_objects_of_all_sizes_come_from_nginx(
    program: str, tmp_path: Path, keepalive_s: int, engine: str
) -> None:
    """Of both tiers, under the same ids; one that is missing is told.

    With connections kept, and with every one closed; by each of the two engines.
    """
    source = tmp_path / "source"
    fill(source)
    with serving(program, tmp_path, source, keepalive_s) as port:
        alone = agent_alone(tmp_path, f"127.0.0.1:{port}", source={"engine": engine})
        tasks = [task(number, content) for number, content in enumerate([*CONTENTS, b"missing"])]
        tasks += [bucket_task(number, content[::-1]) for number, content in enumerate(CONTENTS)]
        await alone.process.start()
        try:
            async with httpx.AsyncClient() as client:
                body = {"id": ASSIGNMENT, "tasks": tasks}
                reply = await client.post(f"{alone.url}/assignments", json=body)
                assert reply.status_code == 200
                await reach(client, alone, ASSIGNMENT, len(tasks))
                reply = await client.get(f"{alone.url}/assignments/{ASSIGNMENT}")
            status, _ = await alone.process.stop()
        finally:
            if alone.process.is_running:
                alone.process.kill()

    (failed,) = reply.json()["stats"]["state"]["Complete"]
    assert (status, failed["object_id"]) == (0, uuid(len(CONTENTS)))
    assert failed["status"] == {"Failed": {"HTTPStatusCode": 404}}
    root = tmp_path / "manta" / OWNER
    assert [(root / uuid(n)).read_bytes() for n in range(len(CONTENTS))] == CONTENTS
    for number, content in enumerate(CONTENTS):
        assert (tmp_path / "manta" / bucket_path(number)).read_bytes() == content[::-1]
