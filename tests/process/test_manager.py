"""The manager's process by itself: who may ask it, and what stops its start."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme

from rebalancer_devregion.processes import Process
from tests.process.regions import run

pytestmark = pytest.mark.process

TOKEN = "s3cret"


def configured(folder: Path, **keys: Any) -> Path:
    """A manager's file; its shard and its storinfo do not answer, which it can live with."""
    path = folder / "manager.json"
    document = {
        "domain_name": "lab",
        "shards": [{"host": "1.moray.lab"}],
        "listen_host": "127.0.0.1",
        "listen_port": 0,
        "metrics_host": "127.0.0.1",
        "metrics_port": 0,
        "data_dir": str(folder / "db"),
        "hosts": {"1.moray.lab": "127.0.0.1:1", "storinfo.lab": "127.0.0.1:1"},
        **keys,
    }
    path.write_text(json.dumps(document))
    return path


@asynccontextmanager
async def running(folder: Path, **keys: Any) -> AsyncIterator[str]:
    """A manager's process; the address of its API."""
    path = configured(folder, **keys)
    process = Process("manager", ("manager", "-c", str(path)), folder / "manager.log")
    await process.start()
    try:
        (line,) = [line for line in process.lines() if line.get("msg") == "listening"]
        yield str(line["api"])
    except BaseException:
        process.kill()
        raise
    status, _ = await process.stop()
    assert status == 0


async def test_only_a_token_opens_the_api(tmp_path: Path) -> None:
    """But for /ping; the token is in no log."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    api = {"token_file": str(tmp_path / "token")}
    async with (
        running(tmp_path, api=api) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
        refused = [
            await client.get("/jobs"),
            await client.post("/jobs", json=body, headers={"authorization": "Bearer x"}),
        ]
        ping = await client.get("/ping")
        client.headers["authorization"] = f"Bearer {TOKEN}"
        listed = await client.get("/jobs")

    assert [reply.status_code for reply in refused] == [401, 401]
    assert (ping.status_code, listed.status_code, listed.json()) == (200, 200, [])
    assert TOKEN not in (tmp_path / "manager.log").read_text()


async def test_a_second_manager_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    """It names the first, which goes on; not even the file of a dry run is cleaned away."""
    async with (
        running(tmp_path) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        dry_run = tmp_path / "db" / "plan-x"
        dry_run.mkdir()
        done = await trio.to_thread.run_sync(run, "manager", "-c", str(tmp_path / "manager.json"))
        assert done.returncode == 1
        assert f"{tmp_path}/db is in use by rebalancer-manager, process " in done.stderr
        assert done.stderr.count("\n") == 1
        assert dry_run.is_dir()
        assert (await client.get("/jobs")).json() == []


async def test_the_api_speaks_tls(tmp_path: Path) -> None:
    """With the operator's certificate."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    api = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        running(tmp_path, api=api) as address,
        httpx.AsyncClient(verify=trusting) as client,
    ):
        reply = await client.get(f"https://{address}/ping")
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://{address}/ping")

    assert reply.json()["ping"] == "pong"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"api": {"token_file": "/nowhere/token"}}, "/nowhere/token: No such file"),
        ({"api": {"tls_cert": "x"}}, "api: tls_cert, tls_key: expected both or none"),
        ({"max_concurrent_jobs": 0}, "max_concurrent_jobs: expected at least 1"),
        ({"data_dir": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    """On stderr, without a traceback, and the exit status tells."""
    ended = run("manager", "-c", str(configured(tmp_path, **keys)))

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert message in line
