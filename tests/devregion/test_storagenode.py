"""The embedded region's storage node: it serves objects of both tiers, and nothing else."""

from functools import partial
from pathlib import Path

import httpx
import trio

from rebalancer_devregion.storagenode import serve_node
from tests.sources import OWNER, bucket_path, uuid


async def test_objects_of_both_tiers_are_served(tmp_path: Path) -> None:
    """By their paths; no other file, whatever the path."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    root = tmp_path / "manta"
    contents = {f"{OWNER}/{uuid(1)}": b"one", bucket_path(1): b"two"}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(content)
    odd = ["secret", "../secret", "v2/../../secret", f"{bucket_path(1)}0", "v2", bucket_path(2)]

    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(partial(serve_node, root, "127.0.0.1", 0))
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            for path, content in contents.items():
                assert (await client.get(f"/{path}")).content == content
            for path in odd:
                assert (await client.get(f"/{path}")).status_code == 404
        nursery.cancel_scope.cancel()
