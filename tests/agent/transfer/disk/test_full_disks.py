"""Disks that are full, read-only, refusing or failing: real ones, of a few MiB."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.config import AgentConfig
from rebalancer.metrics import metrics_app
from tests.agent.scripted import Rig, open_rig
from tests.disks import Disk, run
from tests.sources import ASSIGNMENT, OWNER, Answer, ok, task, uuid
from tests.web import Client

SMALL, LARGE = b"a small object", os.urandom(3 << 20)
NO_SPACE = {"Failed": "DestinationInsufficientSpace"}
FS_ERROR = {"Failed": "AgentFSError"}


def whole(content: bytes) -> Callable[[int, str], Answer]:
    return lambda _request, _path: Answer(ok(content))


def chunked(content: bytes) -> Callable[[int, str], Answer]:
    """Without telling its length first."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"%x\r\n" % len(content) + content + b"\r\n0\r\n\r\n"
    return lambda _request, _path: Answer(data)


@pytest.mark.row("A8")
async def test_an_object_that_does_not_fit_is_not_begun(tmp_path: Path, disk: Any) -> None:
    """Its length tells before the first byte; one that fits comes all the same."""
    disk("manta", "size=2m")
    contents = {uuid(1): LARGE, uuid(2): SMALL}
    async with open_rig(tmp_path, lambda _, path: Answer(ok(contents[path[-36:]]))) as rig:
        failed = await rig.outcome(task(1, LARGE), task(2, SMALL))

        assert failed == {uuid(1): NO_SPACE}
        assert rig.path(2).read_bytes() == SMALL
        assert rig.temporary == []


async def test_a_disk_that_fills_within_an_object(tmp_path: Path, disk: Any) -> None:
    """Nothing of it is left, and its space is free again."""
    small = disk("manta", "size=2m")
    async with open_rig(tmp_path, chunked(LARGE)) as rig:
        failed = await rig.outcome(task(1, LARGE))

        assert failed == {uuid(1): NO_SPACE}
        assert rig.temporary == []
        assert not rig.path(1).exists()
        assert shutil.disk_usage(small.path).used < 64 << 10


async def least_free(disk: Disk, least: list[int], stop: trio.Event) -> None:
    """Note the least free space that there was, until told to stop."""
    while not stop.is_set():
        least[0] = min(least[0], shutil.disk_usage(disk.path).free)
        await trio.sleep(0.002)


@pytest.mark.parametrize("has_length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("fetchers", [0, 2])
async def test_the_reserve_is_kept(
    tmp_path: Path, disk: Any, has_length: bool, fetchers: int
) -> None:
    """Four objects at once, each of which would fit: no byte of the reserve is ever used.

    A length is counted before the first byte comes, over all fetchers; without one each block is.
    """
    reserve, content = 10 << 20, os.urandom(6 << 20)
    small = disk("manta", "size=20m")
    begun, all_begun = 0, trio.Event()

    def answer(_request: int, _path: str) -> Answer:
        nonlocal begun
        begun += 1
        if begun == 4:
            all_begun.set()
        data = ok(content) if has_length else chunked(content)(0, "").data
        return Answer(data[:3000], data[3000:], until=all_begun)

    def change(config: AgentConfig) -> AgentConfig:
        server = attrs.evolve(config.server, fetchers=fetchers, workers_per_assignment=4)
        storage = attrs.evolve(config.storage, reserve_mb=10)
        return attrs.evolve(config, server=server, storage=storage)

    least, stop = [1 << 40], trio.Event()
    async with open_rig(tmp_path, answer, change=change) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(least_free, small, least, stop)
        failed = await rig.outcome(*[task(number, content) for number in range(4)])
        stop.set()
        whole = [number for number in range(4) if rig.path(number).exists()]

        assert rig.temporary == []
    assert least[0] >= reserve
    assert set(failed) == {uuid(number) for number in range(4) if number not in whole}
    assert all(status == NO_SPACE for status in failed.values())
    # With lengths one fits beside none, and it is never refused for one that is refused itself.
    assert len(whole) == 1 if has_length else len(whole) <= 1


async def test_space_that_others_take_meanwhile_is_seen(tmp_path: Path, disk: Any) -> None:
    """Uploads go to the same disk: the object that no longer fits ends there."""
    content = os.urandom(8 << 20)
    small = disk("manta", "size=30m")
    filled = trio.Event()
    data = ok(content)

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, storage=attrs.evolve(config.storage, reserve_mb=10))

    def answer(*_: object) -> Answer:
        return Answer(data[: 3 << 20], data[3 << 20 :], until=filled)

    async with open_rig(tmp_path, answer, change=change) as rig:
        await rig.post([task(1, content)])
        with trio.fail_after(20):
            while not rig.temporary:  # noqa: ASYNC110
                await trio.sleep(0.01)
        small.fill(leave=11 << 20)
        filled.set()
        failed = await rig.finish()

        assert [one["status"] for one in failed] == [NO_SPACE]
        assert rig.temporary == []
        assert shutil.disk_usage(small.path).free >= 10 << 20


async def test_what_a_killed_fetcher_was_promised_is_free_again(tmp_path: Path, disk: Any) -> None:
    """Its transfers need nothing any more: the same object fits again."""
    content = os.urandom(6 << 20)
    disk("manta", "size=20m")
    hangs = Answer(ok(content)[: 2 << 20], hang=True)

    def change(config: AgentConfig) -> AgentConfig:
        server = attrs.evolve(config.server, fetchers=2)
        storage = attrs.evolve(config.storage, reserve_mb=10)
        return attrs.evolve(config, server=server, storage=storage)

    answers = iter([hangs])
    async with open_rig(
        tmp_path, lambda *_: next(answers, Answer(ok(content))), change=change
    ) as rig:
        await rig.post([task(1, content)])
        with trio.fail_after(20):
            while not rig.temporary:  # noqa: ASYNC110
                await trio.sleep(0.01)
        for child in children(os.getpid()):
            os.kill(child, signal.SIGKILL)
        assert await rig.finish() == []


def children(pid: int) -> list[int]:
    """The fetchers of the agent in this process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(child) for one in tasks for child in (one / "children").read_text().split()]
    return [
        one for one in found if b"transfer.process" in Path(f"/proc/{one}/cmdline").read_bytes()
    ]


async def test_a_disk_without_a_free_byte(tmp_path: Path, disk: Any) -> None:
    """A small object fails for want of space; once there is some, the next comes."""
    small = disk("manta", "size=1m")
    async with open_rig(tmp_path, whole(SMALL)) as rig:
        small.fill(leave=0)
        assert await rig.outcome(task(1, SMALL)) == {uuid(1): NO_SPACE}
        small.empty()
        await rig.post([task(1, SMALL)], uuid(70))
        assert await rig.finish(uuid(70)) == []
        assert rig.path(1).read_bytes() == SMALL


async def test_a_disk_without_a_free_inode(tmp_path: Path, disk: Any) -> None:
    """The same, though there are bytes."""
    disk("manta", "size=1m,nr_inodes=6")
    async with open_rig(tmp_path, whole(SMALL)) as rig:
        rig.path(1).parent.mkdir()
        failed = await rig.outcome(*[task(number, SMALL) for number in range(6)])

        assert 0 < len(failed) < 6
        assert all(status == NO_SPACE for status in failed.values())
        assert rig.temporary == []
        for number in range(6):
            assert rig.path(number).exists() != (uuid(number) in failed)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_disk_that_is_read_only(tmp_path: Path, disk: Any, content: bytes) -> None:
    """The node's fault; what is there already still counts."""
    small = disk("manta", "size=8m")
    async with open_rig(tmp_path, whole(content)) as rig:
        assert await rig.outcome(task(1, content)) == {}
        small.remount("ro")
        await rig.post([task(1, content), task(2, content)], uuid(70))
        failed = await rig.finish(uuid(70))
        small.remount("rw")

        assert [(one["object_id"], one["status"]) for one in failed] == [(uuid(2), FS_ERROR)]
        assert rig.temporary == []


async def metric(rig: Rig, name: str) -> float:
    text = await (await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")).get_data(
        as_text=True
    )
    samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return next(sample.value for sample in samples if sample.name == name)


async def test_a_write_that_fails(tmp_path: Path) -> None:
    """By a limit of the process on the size of a file: an error that is not want of space."""
    with file_limit(1 << 20):
        async with open_rig(tmp_path, whole(LARGE)) as rig:
            failed = await rig.outcome(task(1, LARGE))

            assert failed == {uuid(1): FS_ERROR}
            assert rig.temporary == []


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_folder_that_is_mounted_read_only(tmp_path: Path, disk: Any) -> None:
    """The rename is refused, after the object was written: it is removed, others come."""
    other = "0a1b2c3d-0000-1000-8000-0000000000aa"
    disk("manta", "size=8m")
    folder = tmp_path / "manta" / OWNER
    async with open_rig(tmp_path, whole(SMALL)) as rig:
        folder.mkdir()
        run("mount", "--bind", str(folder), str(folder))
        run("mount", "-o", "remount,ro,bind", str(folder), str(folder))
        try:
            failed = await rig.outcome(task(1, SMALL), task(2, SMALL, owner=other))
        finally:
            run("umount", str(folder))

        assert failed == {uuid(1): FS_ERROR}
        assert (tmp_path / "manta" / other / uuid(2)).read_bytes() == SMALL
        assert rig.temporary == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_disk_that_is_gone(tmp_path: Path, disk: Any, content: bytes) -> None:
    """Unmounted while the agent runs: nothing is written to the disk below instead."""
    small = disk("manta", "size=8m")
    async with open_rig(tmp_path, whole(content)) as rig:
        run("umount", str(small.path))
        failed = await rig.outcome(*[task(number, content) for number in range(9)])
        told = await get_status(rig)
        below = list(small.path.iterdir())
        run("mount", "-t", "tmpfs", "none", str(small.path))  # for the fixture to take away

    assert all(status == FS_ERROR for status in failed.values())
    assert (len(failed), below, told["disk_free_bytes"]) == (9, [], None)


# --- the state folder ----------------------------------------------------------------------


@pytest.mark.row("A8")
async def test_a_full_state_disk_takes_no_assignment(tmp_path: Path, disk: Any) -> None:
    """503 with Retry-After and nothing kept; the same id is welcome once there is space."""
    small = disk("state", "size=1m")
    async with open_rig(tmp_path, whole(SMALL)) as rig:
        small.fill(leave=4096)
        reply = await rig.post([task(1, SMALL)])
        known = await rig.client.get(f"/assignments/{ASSIGNMENT}")
        left = [path for path in small.path.rglob("*") if path.is_file()]
        small.empty()

        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "10")
        assert "No space left" in (await reply.get_json())["message"]
        assert known.status_code == 404
        assert left == [small.path / "filler"]
        assert await rig.outcome(task(1, SMALL)) == {}


async def test_a_read_only_state_disk_takes_no_assignment(tmp_path: Path, disk: Any) -> None:
    """The same."""
    small = disk("state", "size=1m")
    async with open_rig(tmp_path, whole(SMALL)) as rig:
        small.remount("ro")
        reply = await rig.post([task(1, SMALL)])
        small.remount("rw")

        assert reply.status_code == 503
        assert await rig.outcome(task(1, SMALL)) == {}


@pytest.mark.row("IMP-5", "IMP-6", "N9")
async def test_what_cannot_be_saved_is_not_reported(tmp_path: Path, disk: Any) -> None:
    """The object is there, the row is not: still running, tried again, and counted."""
    small = disk("state", "size=1m")
    async with open_rig(tmp_path, lambda *_: Answer(b"", hang=True), idle_timeout=0.5) as rig:
        await rig.post([task(1, SMALL)])
        small.fill(leave=0)
        with trio.fail_after(20):
            while not (status := await get_status(rig))["state_write_retries"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        stats = await rig.stats()
        small.empty()
        failed = await rig.finish()

        assert stats == {"state": "Running", "failed": 0, "complete": 0, "total": 1}
        assert "No space left" in status["last_errors"][-1]
        assert [one["status"] for one in failed] == [{"Failed": "NetworkError"}]
        assert await metric(rig, "rebalancer_agent_state_write_retries_total") >= 1


async def get_status(rig: Rig) -> dict[str, Any]:
    status: dict[str, Any] = await (await rig.client.get("/status")).get_json()
    return status


async def test_a_state_file_removed_by_hand_is_written_again(tmp_path: Path) -> None:
    """Its assignment runs on and ends as if nothing had happened."""
    async with open_rig(tmp_path, lambda *_: Answer(b"", hang=True), idle_timeout=0.5) as rig:
        await rig.post([task(1, SMALL)])
        (tmp_path / "state" / "scheduled" / ASSIGNMENT).unlink()

        assert [one["status"] for one in await rig.finish()] == [{"Failed": "NetworkError"}]
        assert (tmp_path / "state" / "completed" / ASSIGNMENT).exists()
