"""What runs that came to a sudden end, or disks that refuse, leave behind: what becomes of it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from rebalancer.agent.transfer.disk import sync
from tests.agent.scripted import open_rig
from tests.agent.state.test_store import legacy_file
from tests.logs import capture_logs
from tests.sources import ASSIGNMENT, OWNER, Answer, bucket_path, bucket_task, ok, task, uuid

SMALL = b"an object"
LARGE = b"x" * (3 << 20)


@contextmanager
def append_only(folder: Path) -> Iterator[None]:
    """Files can be made in `folder`, and written, but not removed: the kernel refuses."""
    if subprocess.run(["chattr", "+a", folder], capture_output=True).returncode:
        pytest.skip("no folder can be made append-only here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-a", folder], check=True)


@pytest.mark.row("CRIT-5")
async def test_a_corrupt_download_that_cannot_be_removed(
    tmp_path: Path,
) -> None:
    """Logged with object, path and error, counted, never shown, and gone with the next start."""
    corrupt = Answer(ok(LARGE[:-1] + b"y"))
    async with open_rig(tmp_path, lambda *_: corrupt) as rig:
        with append_only(tmp_path / "manta" / "rebalancer"), capture_logs() as lines:
            failed = await rig.outcome(task(1, LARGE))
        (left,) = rig.temporary
        counted = rig.agent.metrics.registry.get_sample_value(
            "rebalancer_agent_cleanup_failures_total"
        )
        shown = rig.path(1).exists()
    async with open_rig(tmp_path, lambda *_: Answer(ok(LARGE))) as rig:
        assert rig.temporary == []
        await rig.post([task(1, LARGE)], uuid(70))
        assert await rig.finish(uuid(70)) == []

    assert failed == {uuid(1): {"Failed": "MD5Mismatch"}}
    assert (counted, shown) == (1, False)
    (told,) = [line for line in lines if line["event"] == "temporary file not removed"]
    assert (told["object"], told["path"]) == (uuid(1), str(left))
    assert "Operation not permitted" in told["error"]


@pytest.mark.row("CRIT-5", "TEST-AGENT-4", "A7")
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_corrupt_download_is_removed(tmp_path: Path, content: bytes) -> None:
    """Of the right length, with one byte wrong: no file of any name."""
    corrupt = Answer(ok(content[:-1] + b"\x00"))
    async with open_rig(tmp_path, lambda *_: corrupt) as rig:
        assert await rig.outcome(task(1, content)) == {uuid(1): {"Failed": "MD5Mismatch"}}
        assert rig.temporary == []
        assert not rig.path(1).exists()


@pytest.mark.row("MIN-5", "TEST-AGENT-11", "N22", "A6", "DEF-15")
async def test_only_what_is_ours_goes_at_the_start(tmp_path: Path) -> None:
    """By our names in our own folder; whatever users call theirs, in any folder, stays."""
    manta, temporary = tmp_path / "manta", tmp_path / "manta" / "rebalancer"
    ours = [
        temporary / f"{OWNER}.{uuid(1)}.{'0' * 32}",
        temporary / f"{OWNER.lower()}.{uuid(2).upper()}.{'0123456789abcdef' * 2}",
        # Those of the deployed agent, which it would have removed at its own next start.
        temporary / f"{OWNER}.{uuid(4)}.ThreadId(12)",
        temporary / f"{OWNER}.{uuid(5)}.140312345678592",
    ]
    others = [
        temporary / "notes.tmp",
        temporary / f"{OWNER}.{uuid(1)}.tmp",
        temporary / f"{OWNER}.{uuid(1)}.{'0' * 31}",
        temporary / f"{OWNER}.{uuid(1)}.ThreadId()",
        temporary / f"{OWNER}.{uuid(1)}.ThreadId(1).bak",
        temporary / f"{OWNER}.ThreadId(1)",
        temporary / "deep" / "er" / ours[0].name,
        manta / OWNER / f"{uuid(3)}.tmp",
        manta / OWNER / "deep" / "er" / "b.tmp",
        manta / ours[0].name,
    ]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half an object")
    folder = temporary / f"{OWNER}.{uuid(4)}.{'0' * 32}"
    folder.mkdir()

    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))):
        assert [path for path in ours if path.exists()] == []
        assert [path for path in [*others, folder] if not path.exists()] == []


@pytest.mark.row("TEST-AGENT-7")
async def test_a_clean_start(tmp_path: Path) -> None:
    """On folders that are not there yet: nothing to go on with, and nothing in the way."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        status = await (await rig.client.get("/status")).get_json()
        assert (status["waiting"], status["running"]) == (0, [])
        assert (status["resume_failures"], status["last_errors"]) == (0, [])
        assert await rig.outcome(task(1, SMALL)) == {}


def record_syncs(monkeypatch: pytest.MonkeyPatch, failure: OSError | None = None) -> list[str]:
    """The paths of what is synced from now on; of objects, what fails to be."""
    synced: list[str] = []

    def record(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        if failure is not None and "/manta" in synced[-1]:
            raise failure

    monkeypatch.setattr(os, "fsync", record)
    return synced


@pytest.mark.row("CRIT-9", "A11", "A5")
async def test_what_is_there_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed may have given it its name, and no more."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        rig.path(1).parent.mkdir()
        rig.path(1).write_bytes(SMALL)
        synced = record_syncs(monkeypatch)
        assert await rig.outcome(task(1, SMALL)) == {}
        assert rig.source.paths == []
        places = [rig.path(1), rig.path(1).parent, rig.path(1).parent.parent]
        assert [path for path in synced if "/manta" in path] == [str(path) for path in places]


@pytest.mark.row("CRIT-9", "A11")
async def test_what_is_there_and_cannot_be_synced_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pulled again; a disk that fails to sync that too is the reason told."""
    refused = OSError(5, "Input/output error")
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        rig.path(1).parent.mkdir()
        rig.path(1).write_bytes(SMALL)
        record_syncs(monkeypatch, refused)
        assert await rig.outcome(task(1, SMALL)) == {uuid(1): {"Failed": "AgentFSError"}}
        assert len(rig.source.paths) == 1


@pytest.mark.row("CRIT-11", "A5")
async def test_a_folder_made_by_a_run_that_was_killed_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the root, before anything in it is told of: the next run does not make it again."""
    synced = record_syncs(monkeypatch)
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))):
        assert str(tmp_path / "manta") in synced


@pytest.mark.row("CRIT-11", "A5")
async def test_a_folder_made_by_a_fetcher_that_was_killed_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while the agent runs on, with the first object of an account."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        rig.path(1).parent.mkdir()
        synced = record_syncs(monkeypatch)
        assert await rig.outcome(task(1, SMALL)) == {}
        assert str(tmp_path / "manta") in synced


@pytest.mark.row("CRIT-11", "A5")
async def test_each_folder_on_the_way_to_a_bucket_object_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it; once is enough, but for the folder that the object itself is in."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        inner = rig.bucket_path(1).parent
        outer = {str(path) for path in inner.parents if path.is_relative_to(tmp_path / "manta")}
        synced = record_syncs(monkeypatch)
        assert await rig.outcome(bucket_task(1, SMALL)) == {}
        assert {*outer, str(inner)} <= set(synced)

        rig.bucket_path(1).write_bytes(b"another")
        synced.clear()
        second = uuid(2)
        assert (await rig.post([bucket_task(1, SMALL)], second)).status_code == 200
        assert await rig.finish(second) == []
        assert str(inner) in synced
        assert not outer & set(synced)


@pytest.mark.row("CRIT-11", "A5")
async def test_many_folders_are_synced_one_by_one_where_a_file_system_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, in both tiers, while it is open."""
    owners = [f"0a1b2c3d-0000-1000-8000-0000000000a{number}" for number in range(5)]
    tasks = [task(n, SMALL, owner=owner) for n, owner in enumerate(owners)]
    tasks += [bucket_task(n, SMALL, owner=owner) for n, owner in enumerate(owners)]
    monkeypatch.setattr(sync, "_syncfs", None)
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        synced = record_syncs(monkeypatch)
        assert await rig.outcome(*tasks) == {}
    paths = [f"{owner}/{uuid(n)}" for n, owner in enumerate(owners)]
    paths += [bucket_path(n, owner) for n, owner in enumerate(owners)]
    assert {str((tmp_path / "manta" / path).parent) for path in paths} <= set(synced)


@pytest.mark.row("A4")
async def test_a_death_of_the_deployed_agent_between_its_folders(tmp_path: Path) -> None:
    """The assignment is in both: it goes on, ends once, and the agent with it."""
    for folder, state in (("scheduled", "Scheduled"), ("completed", {"Complete": None})):
        (tmp_path / "state" / folder).mkdir(parents=True)
        legacy_file(tmp_path / "state" / folder / ASSIGNMENT, ["Complete", "Complete"], state)

    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        with trio.fail_after(10):
            while os.listdir(tmp_path / "state" / "scheduled"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert await rig.finish() == []
        assert (await rig.client.delete(f"/assignments/{ASSIGNMENT}")).status_code == 200
        assert (await rig.client.get(f"/assignments/{ASSIGNMENT}")).status_code == 404
    assert os.listdir(tmp_path / "state" / "completed") == []
