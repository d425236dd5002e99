"""An upgrade, and the way back: a job goes on under an earlier version, this one, and the earlier.

The programs of the earlier version are its own sources, which the history of this repository has.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.region import Region
from tests.process.regions import Api, new_region

ROOT = Path(__file__).parents[2]
#: The last release: the commit, because a release has a tag only where tags were fetched.
RELEASE = "7f36901b5ca1c901bcced6afcecdf1365d046397"
#: Keys that the region's configuration has and the release does not know, which end its start.
LATER_KEYS = ("storage_port",)
OBJECTS = 400


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the release; its dependencies are among those of this version."""
    if not (ROOT / ".git").exists():
        pytest.skip("there is no history here: these are no sources of git")
    folder = tmp_path_factory.mktemp("release")
    command = ["git", "-C", str(ROOT), "archive", RELEASE, "rebalancer"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextmanager
def of_version(folder: Path | None) -> Iterator[None]:
    """Let the programs that are started be those below `folder`; None: those of this version."""
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            patch.setenv("PYTHONPATH", str(folder))
            patch.chdir(folder)  # `python -m` looks into the current folder before
            where = [sys.executable, "-c", "import rebalancer; print(rebalancer.__file__)"]
            assert subprocess.check_output(where, text=True).startswith(str(folder))
        yield


async def start(region: Region, folder: Path | None) -> None:
    """Start manager and agents of a version."""
    with of_version(folder):
        async with trio.open_nursery() as nursery:
            for process in (*region.agents.values(), region.manager):
                nursery.start_soon(process.start)


async def stop(region: Region, *, by_force: bool) -> None:
    """End manager and agents, with all that is under way."""
    async with trio.open_nursery() as nursery:
        for process in (region.manager, *region.agents.values()):
            if by_force:
                process.kill()
            else:
                nursery.start_soon(process.stop)


def without_later_keys(region: Region) -> None:
    """Leave out of the manager's file what only later versions know."""
    path = region.layout.folder / "etc" / "manager.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({key: kept[key] for key in kept if key not in LATER_KEYS}))


def under_way(job_file: Path) -> int:
    """Objects that agents had, or whose records were about to be updated."""
    with closing(sqlite3.connect(job_file)) as db:
        query = "SELECT count(*) FROM progress WHERE status IN ('assigned', 'post_processing')"
        (count,) = db.execute(query).fetchone()
    return int(count)


@pytest.mark.parametrize("is_release_first", [True, False], ids=["upgrade", "back"])
async def test_a_job_goes_on_under_another_version_and_again_under_the_first(
    release: Path, tmp_path: Path, is_release_first: bool
) -> None:
    """Killed with objects under way, then stopped: each object ends as it must, as in one run.

    Once this version has another layout of job files than the release, there is no way back: then
    the release refuses, as the test below shows.
    """
    options = {"max_tasks_per_assignment": 10, "max_metadata_update_threads": 2}
    make = partial(new_region, tmp_path, OBJECTS, options=options)
    region = await trio.to_thread.run_sync(make)
    without_later_keys(region)
    first, second = (release, None) if is_release_first else (None, release)
    await region.servers.start()
    try:
        async with httpx.AsyncClient() as client:
            api, done, open_objects = Api(client, region), list[int](), list[int]()
            await start(region, first)
            job_id = await api.create()
            for number, version in enumerate((second, first), 1):
                await api.reach(job_id, number * OBJECTS // 8)
                done.append((await api.get(job_id))["results"]["Complete"])
                await stop(region, by_force=version is second)
                open_objects.append(under_way(region.job_file(job_id)))
                await start(region, version)
            view = await api.finish(job_id)
        report = await trio.to_thread.run_sync(audit, region.layout, region.job_file(job_id))
    finally:
        for process in reversed(region.processes[1:]):
            if process.is_running:
                process.kill()
        with trio.CancelScope(shield=True):
            await region.servers.stop()

    assert view["state"] == "Complete"
    assert done[0] < done[1] < view["results"]["Complete"]
    assert all(open_objects)
    assert [check for check in report.checks if not check.ok] == []


def test_the_release_refuses_what_a_later_version_has_laid_out_otherwise(
    release: Path, tmp_path: Path
) -> None:
    """A list or a job of a later layout: named, with what to do, and left as it is."""
    code = (
        "import sys, pathlib; from rebalancer.manager.store.schema import INDEX, JOB_FILE;"
        "from rebalancer.sqlite import connect, prepare; path = pathlib.Path(sys.argv[1]);"
        "layout = {'list': INDEX, 'job': JOB_FILE}[path.stem]; prepare(connect(path), path, layout)"
    )
    for name in ("list", "job"):
        path = tmp_path / f"{name}.sqlite"
        with closing(sqlite3.connect(path)) as db:
            db.executescript("CREATE TABLE later (a); PRAGMA user_version = 99;")
        before = path.read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(release)},
            cwd=release,
        )
        assert done.returncode == 1
        assert "version 99" in done.stderr
        assert "install that version again" in done.stderr
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert len(before) == path.stat().st_size
