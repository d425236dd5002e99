"""Real processes and real signals: ends in the middle of work, kills, reloads."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.processes import Process
from rebalancer_devregion.region import running
from rebalancer_devregion.transfers import recorded_tasks
from tests.process.regions import (
    Api,
    agent_alone,
    json_lines,
    new_region,
    processed,
    reach,
    run,
)
from tests.sources import ASSIGNMENT, OWNER, Answer, ok, open_source, task, uuid

pytestmark = pytest.mark.process

#: What the specification allows a SIGTERM to take, in seconds.
END_S = 5.0


@pytest.mark.row("MIN-3", "DEF-2")
async def test_sigterm_in_the_middle_of_work_loses_nothing(tmp_path: Path) -> None:
    """Manager and an agent end with 0 within 5 s; started again, the job is finished."""
    region = await trio.to_thread.run_sync(new_region, tmp_path, 800)
    agent = region.agents[region.layout.nodes[3].manta_storage_id]
    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        job_id = await api.create()
        await api.reach(job_id, 150)
        ends = [await region.manager.stop(), await agent.stop()]
        await region.manager.start()
        half = await api.get(job_id)
        await agent.start()
        view = await api.finish(job_id)
        report = await trio.to_thread.run_sync(audit, region.layout, region.job_file(job_id))
        await region.stop()

    assert [status for status, _ in ends] == [0, 0]
    assert max(seconds for _, seconds in ends) < END_S
    assert half["state"] == "Running"
    assert half["results"]["Complete"] < view["results"]["Complete"]
    assert view["state"] == "Complete"
    assert [check.offenders for check in report.checks if check.offenders] == []
    assert report.ok


async def files_appear(folder: Path, count: int) -> None:
    with trio.fail_after(20):
        while sum(name[0] != "." for name in os.listdir(folder)) != count:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.row("IMP-4", "A10")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_agent_that_ends_within_a_transfer_goes_on_with_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    """What is recorded is not fetched again, what was under way leaves nothing and is."""
    # Half of each is more than the agent takes in before it makes a file.
    contents = [f"object {index} ".encode() * 300_000 for index in range(6)]
    tasks = [task(number, content) for number, content in enumerate(contents)]
    temporary = tmp_path / "manta" / "rebalancer"
    whole = 3  # answers, before the source falls silent in the middle of each

    def answer(request: int, path: str) -> Answer:
        data = ok(contents[int(path[-6:])])
        return Answer(data) if request < whole else Answer(data[: len(data) // 2], hang=True)

    async with open_source(answer) as source, httpx.AsyncClient() as client:
        # One fetcher, so that two of the others hang whichever came first.
        server = {"host": "127.0.0.1", "port": 0, "workers_per_assignment": 2, "fetchers": 1}
        alone = agent_alone(tmp_path, f"127.0.0.1:{source.port}", server=server)
        await alone.process.start()
        try:
            body = {"id": ASSIGNMENT, "tasks": tasks}
            reply = await client.post(f"{alone.url}/assignments", json=body)
            assert (reply.status_code, reply.json()) == (200, ASSIGNMENT)
            await reach(client, alone, ASSIGNMENT, 3)
            await files_appear(temporary, 2)
            if number is signal.SIGTERM:
                status, seconds = await alone.process.stop()
                assert (status, seconds < END_S) == (0, True)
                assert list(temporary.glob("[!.]*")) == []
            else:
                alone.process.kill()  # its fetchers notice, and tidy up
                await files_appear(temporary, 0)
            recorded = recorded_tasks(tmp_path / "state")
            whole, asked_before = 1000, len(source.paths)
            await alone.process.start()
            await reach(client, alone, ASSIGNMENT, 6)
            done = await processed(client, alone, ASSIGNMENT)
        finally:
            alone.process.kill()

    assert len(recorded) == 3
    assert recorded & {path.rpartition("/")[2] for path in source.paths[asked_before:]} == set()
    assert done["state"] == {"Complete": None}
    assert list(temporary.glob("[!.]*")) == []
    for index, content in enumerate(contents):
        assert (tmp_path / "manta" / OWNER / uuid(index)).read_bytes() == content


def children(pid: int) -> list[int]:
    """The kernel keeps them by the thread that started them."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


async def test_fetchers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    """The assignment is finished by their successors; none outlives its agent."""
    contents = [f"object {index} ".encode() * 300_000 for index in range(6)]
    tasks = [task(number, content) for number, content in enumerate(contents)]
    killed = False

    def answer(_request: int, path: str) -> Answer:
        data = ok(contents[int(path[-6:])])
        return Answer(data) if killed else Answer(data[: len(data) // 2], hang=True)

    async with open_source(answer) as source, httpx.AsyncClient() as client:
        server = {"host": "127.0.0.1", "port": 0, "workers_per_assignment": 2, "fetchers": 2}
        alone = agent_alone(tmp_path, f"127.0.0.1:{source.port}", server=server)
        await alone.process.start()
        try:
            body = {"id": ASSIGNMENT, "tasks": tasks}
            await client.post(f"{alone.url}/assignments", json=body)
            await files_appear(tmp_path / "manta" / "rebalancer", 2)
            first = children(alone.process.pid)
            killed = True
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            await reach(client, alone, ASSIGNMENT, 6)
            done = await processed(client, alone, ASSIGNMENT)
            second = children(alone.process.pid)
            status, _ = await alone.process.stop()
        finally:
            if alone.process.is_running:
                alone.process.kill()

    assert (len(first), len(second), set(first) & set(second)) == (2, 2, set())
    assert (status, done["state"]) == (0, {"Complete": None})
    assert [pid for pid in second if os.path.exists(f"/proc/{pid}")] == []  # noqa: ASYNC240


@pytest.mark.row("CRIT-11", "L2", "N26", "N33")
def test_kill_of_manager_and_agent_fetches_nothing_again(tmp_path: Path) -> None:
    """The demonstration with its kills, as the operator runs it, in both dialects."""
    options = ("--kill", "--mixed", "--objects", "1200", "--folder", str(tmp_path / "demo"))
    done = run("demo", *options)
    told = " ".join(done.stdout.split())  # lines are broken at the terminal's width

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL to the manager" in told
    assert "SIGKILL to the agent" in told
    assert "; 0 of them were fetched again" in told
    assert "assignments by dialect" in told
    assert "every check holds" in told


@contextmanager
def changed(file: Path, text: str) -> Iterator[None]:
    old = file.read_text()
    file.write_text(text)
    yield
    file.write_text(old)


async def logged(process: Process, message: str, count: int) -> list[dict[str, object]]:
    """The lines with `message`, once there are `count` of them."""
    with trio.fail_after(20):
        while True:
            found = [line for line in json_lines(process.log) if line["msg"] == message]
            if len(found) >= count:
                return found
            await trio.sleep(0.05)


@pytest.mark.row("IMP-10", "IMP-15", "N19")
async def test_sigusr1_reads_the_file_again(tmp_path: Path) -> None:
    """New values for the next job; a bad file leaves the old ones; nobody dies of the signal."""
    region = await trio.to_thread.run_sync(new_region, tmp_path, 5)
    file = region.layout.folder / "etc" / "manager.json"
    agent = next(iter(region.agents.values()))
    good = json.loads(file.read_text())
    async with running(region), httpx.AsyncClient() as client:
        agent.signal(signal.SIGUSR1)
        with changed(file, file.read_text()[:-30]):
            region.manager.signal(signal.SIGUSR1)
            (refused,) = await logged(region.manager, "configuration not reloaded", 1)
        with changed(file, json.dumps({**good, "max_fill_percentge": 80})):
            region.manager.signal(signal.SIGUSR1)
            *_, unknown = await logged(region.manager, "configuration not reloaded", 2)
        with changed(file, json.dumps({**good, "snaplink_cleanup_required": True})):
            region.manager.signal(signal.SIGUSR1)
            (reloaded,) = await logged(region.manager, "configuration reloaded", 1)
            body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
            reply = await client.post(f"{region.url}/jobs", json=body)
        assert agent.is_running
        await region.stop()

    assert str(file) in str(refused["error"])
    assert "did you mean max_fill_percentage?" in str(unknown["error"])
    assert reloaded["need_a_restart"] == []
    assert (reply.status_code, reply.text) == (500, "Snaplink Cleanup Required")


def is_ignored(pid: int, number: signal.Signals) -> bool:
    """By the kernel's record; a process that has ended ignores everything."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "State" and value.strip().startswith("Z"):
            return True
        if name == "SigIgn":
            return bool(int(value, 16) >> (number - 1) & 1)
    return False


@pytest.mark.row("IMP-15", "N19")
@pytest.mark.parametrize("program", ["manager", "agent"])
def test_sigusr1_right_after_the_start_is_survived(tmp_path: Path, program: str) -> None:
    """svcadm refresh may come before the program has even been imported."""
    with (tmp_path / "log").open("wb") as log:
        begun = time.monotonic()
        popen = subprocess.Popen(
            [sys.executable, "-m", "rebalancer", program, "-c", str(tmp_path / "missing")],
            stderr=log,
        )
        while not is_ignored(popen.pid, signal.SIGUSR1):
            assert time.monotonic() - begun < 20
            time.sleep(0.001)
        popen.send_signal(signal.SIGUSR1)
        status = popen.wait(20)

    assert status == 1
    assert b"missing" in (tmp_path / "log").read_bytes()
