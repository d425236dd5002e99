"""Tokens and TLS between real processes: renewed while they run, refused when they are wrong."""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme

from rebalancer_devregion.processes import Process
from rebalancer_devregion.region import Region, running
from tests.process.regions import Api, agent_alone, new_region

pytestmark = pytest.mark.process

REFUSED = "Hostname mismatch, certificate is not valid for"


def secure(region: Region, folder: Path, wrong: str) -> None:
    """Have agents serve TLS and want a token; the certificate of `wrong` is for another name."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in region.agents:
        made = authority.issue_cert("other.stor.lab" if name == wrong else name)
        made.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        with (region.layout.folder / "etc" / f"agent-{name}.toml").open("a") as file:
            pem, token = folder / f"{name}.pem", folder / "token"
            file.write(f'\n[api]\ntls_cert = "{pem}"\ntls_key = "{pem}"\ntoken_file = "{token}"\n')


async def says(process: Process, message: str) -> dict[str, Any]:
    """The line with this message, once it is logged."""
    with trio.fail_after(30):
        while True:
            for line in process.lines():
                if line.get("msg") == message:
                    return line
            await trio.sleep(0.05)


async def test_agents_are_spoken_to_by_tls_and_with_the_token_of_the_day(tmp_path: Path) -> None:
    """A job begins after all tokens were changed; an agent with another's certificate gets none."""
    (tmp_path / "token").write_text("yesterdays")
    region = await trio.to_thread.run_sync(
        lambda: new_region(
            tmp_path,
            60,
            agent_tls=True,
            agent_tls_ca=str(tmp_path / "ca.pem"),
            agent_token_file=str(tmp_path / "token"),
        )
    )
    wrong = region.layout.nodes[-1].manta_storage_id
    secure(region, tmp_path, wrong)
    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        (tmp_path / "token").write_text("todays")
        for agent in region.agents.values():
            agent.signal(signal.SIGUSR1)
        region.manager.signal(signal.SIGUSR1)
        for agent in region.agents.values():
            await says(agent, "token read again")
        await says(region.manager, "configuration reloaded")
        job_id = await api.create()
        await api.reach(job_id, 10)
        with trio.fail_after(30):
            while not any(REFUSED in str(line) for line in region.manager.lines()):  # noqa: ASYNC110
                await trio.sleep(0.05)
        await region.stop()

    told = [str(line) for line in region.manager.lines() if REFUSED in str(line)]
    assert all(wrong in line for line in told)
    assert not list((region.layout.folder / "nodes" / wrong / "state" / "completed").glob("*"))


async def test_metrics_can_want_the_token_too(tmp_path: Path) -> None:
    """As they are configured; a token that cannot be read again leaves the old one in force."""
    (tmp_path / "token").write_text("first")
    alone = agent_alone(
        tmp_path,
        "127.0.0.1:1",
        api={"token_file": str(tmp_path / "token")},
        metrics={"host": "127.0.0.1", "port": 0, "behind_token": True},
    )
    await alone.process.start()
    (line,) = [line for line in alone.process.lines() if line.get("msg") == "listening"]
    async with httpx.AsyncClient(base_url=f"http://{line['metrics']}") as client:

        async def status(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            return (await client.get("/metrics", headers=headers)).status_code

        found = [(await client.get("/metrics")).status_code, await status("first")]
        (tmp_path / "token").write_text("two words")
        alone.process.signal(signal.SIGUSR1)
        await says(alone.process, "token not read again")
        found.append(await status("first"))
        (tmp_path / "token").write_text("second")
        alone.process.signal(signal.SIGUSR1)
        await says(alone.process, "token read again")
        found += [await status("first"), await status("second")]
    await alone.process.stop()

    assert found == [401, 200, 200, 401, 200]
