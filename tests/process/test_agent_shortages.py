"""The agent as a process that lacks files, is stopped for a while, or has no file of its own."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from tests.process.regions import Alone, agent_alone, processed
from tests.process.test_agent import children, running
from tests.sources import ASSIGNMENT, Answer, ok, open_source, task, uuid

pytestmark = pytest.mark.process

SOURCES, FILES = 300, 256


async def finish(client: httpx.AsyncClient, alone: Alone, name: str = ASSIGNMENT) -> object:
    """The failed tasks of an assignment, once it has ended; None if there are none."""
    with trio.fail_after(60):
        while True:
            state = (await processed(client, alone, name))["state"]
            if isinstance(state, dict):
                return state["Complete"]
            await trio.sleep(0.05)


def limit_files(pids: list[int], most: int) -> None:
    for pid in pids:
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))


def sockets(pid: int) -> int:
    found = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


async def test_more_sources_than_files(tmp_path: Path) -> None:
    """Three rounds from three hundred sources that keep their connections: no object fails."""
    content = b"an object"
    names = [f"{number}.stor.lab" for number in range(SOURCES)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_source(lambda *_: Answer(ok(content))) as source:
        hosts = dict.fromkeys(names, f"127.0.0.1:{source.port}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))
        try:
            server = {"host": "127.0.0.1", "port": 0, "workers_per_assignment": 16}
            alone = agent_alone(tmp_path, "", server=server, hosts=hosts)
            await alone.process.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        async with httpx.AsyncClient(timeout=30) as client:
            failed = []
            for turn in range(3):
                tasks = [
                    task(
                        turn * SOURCES + number,
                        content,
                        source={"datacenter": "dc1", "manta_storage_id": name},
                    )
                    for number, name in enumerate(names)
                ]
                body = {"id": uuid(turn), "tasks": tasks}
                await client.post(f"{alone.url}/assignments", json=body)
                failed.append(await finish(client, alone, uuid(turn)))
            most = max(sockets(pid) for pid in children(alone.process.pid))
        await alone.process.stop()

    assert failed == [None] * 3
    assert most < FILES / 2


@pytest.mark.parametrize("size", [100, 1 << 20], ids=["small", "large"])
async def test_a_lack_of_files_is_waited_for(tmp_path: Path, size: int) -> None:
    """Fetchers that can open nothing fail nothing; it is told, and the work goes on after."""
    content = os.urandom(size)
    async with (
        open_source(lambda *_: Answer(ok(content))) as source,
        running(tmp_path, f"127.0.0.1:{source.port}") as alone,
        httpx.AsyncClient() as client,
    ):
        first = [task(number, content) for number in range(10, 14)]
        await client.post(f"{alone.url}/assignments", json={"id": uuid(1), "tasks": first})
        assert await finish(client, alone, uuid(1)) is None  # so both of them are up
        fetchers = children(alone.process.pid)
        limit_files(fetchers, 4)
        tasks = [task(number, content) for number in range(8)]
        await client.post(f"{alone.url}/assignments", json={"id": ASSIGNMENT, "tasks": tasks})
        with trio.fail_after(30):
            while not any(  # noqa: ASYNC110
                "files" in str(line.get("waits_for")) for line in alone.process.lines()
            ):
                await trio.sleep(0.05)
        await trio.sleep(1)
        meanwhile = await processed(client, alone, ASSIGNMENT)
        status = (await client.get(f"{alone.url}/status")).json()
        limit_files(fetchers, 1000)
        failed = await finish(client, alone)

    assert (meanwhile["failed"], meanwhile["complete"]) == (0, 0)
    assert failed is None
    assert "files that fetcher process" in json.dumps(status["waiting_for"])
    warnings = [line for line in alone.process.lines() if line["msg"] == "waiting"]
    assert len(warnings) <= 4


@pytest.mark.parametrize("when", ["sent while it is stopped", "sent after"])
async def test_a_suspension_fails_nothing(tmp_path: Path, when: str) -> None:
    """All of the agent is stopped for longer than silence may last, in the middle of transfers."""
    content = os.urandom(2 << 20)
    rest = trio.Event()
    half = len(content) // 2
    data = ok(content)
    source_table = {"retries": 0, "idle_timeout": 2}
    async with (
        open_source(lambda *_: Answer(data[:half], data[half:], until=rest)) as source,
        running(tmp_path, f"127.0.0.1:{source.port}", source=source_table) as alone,
        httpx.AsyncClient() as client,
    ):
        tasks = [task(number, content) for number in range(2)]
        await client.post(f"{alone.url}/assignments", json={"id": ASSIGNMENT, "tasks": tasks})
        with trio.fail_after(20):
            while len(source.paths) < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        family = [alone.process.pid, *children(alone.process.pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        if when == "sent while it is stopped":
            rest.set()
        await trio.sleep(5)
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        await trio.sleep(0.5)
        rest.set()
        failed = await finish(client, alone)

    assert failed is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "manta").rmdir(), "storage.manta_root"),
        (lambda folder: (folder / "manta" / "rebalancer").write_text(""), "storage.temp_dir"),
    ],
    ids=["no root", "no folder"],
)
def test_a_root_that_cannot_be_used_is_one_line(
    tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    """The agent does not begin to listen, makes no root, and names the key."""
    alone = agent_alone(tmp_path, "127.0.0.1:1")
    change(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "rebalancer", *alone.process.args],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "manta" / "rebalancer").is_dir()


async def test_two_agents_on_one_temporary_folder(tmp_path: Path) -> None:
    """The second, with a state folder of its own, is refused by one line and removes nothing."""
    temporary = tmp_path / "manta" / "rebalancer"
    async with running(tmp_path, "127.0.0.1:1"):
        ours = temporary / f"{uuid(1)}.{uuid(2)}.{'0' * 32}"
        ours.write_text("half an object")
        storage = {"manta_root": str(tmp_path / "manta"), "state_dir": str(tmp_path / "other")}
        second = agent_alone(tmp_path, "127.0.0.1:1", storage=storage)
        command = [sys.executable, "-m", "rebalancer", *second.process.args]
        done = await trio.run_process(command, capture_stderr=True, check=False)
        assert ours.exists()

    told = done.stderr.decode()
    assert (done.returncode, told.count("\n")) == (1, 1)
    assert f"{temporary} is in use by rebalancer-agent" in told
