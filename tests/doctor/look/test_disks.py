"""Folders are tried as they are: read-only, full, on two file systems, of another user."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge import disks as judge
from rebalancer.doctor.look import disks, setup
from tests.disks import Disk
from tests.doctor.subjects import a_manager, an_agent, files_below


@contextmanager
def as_nobody() -> Iterator[None]:
    """Have the permissions of a user who may do little."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user can enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def test_a_good_disk_is_left_as_it_was(tmp_path: Path) -> None:
    """Both programs' folders, whether they are there or not yet; nothing stays."""
    (tmp_path / "manta").mkdir()
    before = files_below(tmp_path)
    manager, agent = a_manager(tmp_path), an_agent(tmp_path)

    found = [*disks.folders(manager), *disks.folders(agent)]
    assert [one.step for one in found] == ["", "", ""]
    assert disks.wal(manager) == judge.Wal(str(tmp_path / "db"))
    assert len(disks.writes(agent).took_s) == disks.WRITES
    assert [one.purpose for one in disks.mounts(agent)] == ["state_dir", "manta_root", "temp_dir"]
    assert all(one.free_bytes > 0 for one in [*disks.room(manager), *disks.room(agent)])

    manager.scratch.close()
    agent.scratch.close()
    assert files_below(tmp_path) == before


def test_the_root_of_objects_is_never_made(tmp_path: Path) -> None:
    """Its file system may not be mounted."""
    *_, found = disks.folders(an_agent(tmp_path))

    assert (found.purpose, found.step) == ("manta_root", "be used")


def test_a_link_below_the_root_is_refused_as_the_agent_does(tmp_path: Path) -> None:
    """One that leads to the root itself is followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "manta").symlink_to(tmp_path / "real")
    *_, found = disks.folders(an_agent(tmp_path))
    assert found.step == ""

    (tmp_path / "real" / "rebalancer").symlink_to(tmp_path)
    *_, found = disks.folders(an_agent(tmp_path))
    assert "without a link" in found.step


def test_where_a_link_leads_is_said(tmp_path: Path) -> None:
    """Of a data_dir that an operator has moved."""
    (tmp_path / "zones").mkdir()
    (tmp_path / "db").symlink_to(tmp_path / "zones")
    (found,) = disks.folders(a_manager(tmp_path))

    assert (found.step, found.leads_to) == ("", str(tmp_path / "zones"))


def test_two_file_systems_of_an_agent_stop_it(
    disk: Callable[[str, str], Disk], tmp_path: Path
) -> None:
    """A rename would be a copy, so the agent does not start; within its state neither."""
    (tmp_path / "manta").mkdir()
    other = disk("other", "size=1m").path
    *_, found = disks.folders(an_agent(tmp_path, temp_dir=str(other)))
    assert found.step == "rename a file from temp_dir into a folder of manta_root"
    assert next(iter(judge.folders([found]))).do.startswith("put temp_dir and manta_root onto one")

    disk("state", "size=1m")
    (tmp_path / "state" / "scheduled").symlink_to(tmp_path)
    first, *_ = disks.folders(an_agent(tmp_path))
    assert first.step == "rename files into its folder scheduled"


def test_a_full_disk_stops_a_manager(disk: Callable[[str, str], Disk], tmp_path: Path) -> None:
    """As it ends when it cannot change its list of jobs."""
    small = disk("db", "size=256k")
    small.fill(0)
    subject = a_manager(tmp_path)
    (found,) = judge.folders(disks.folders(subject))
    assert (found.level, "No space" in found.found) == (Level.STOPS, True)
    assert judge.wal(disks.wal(subject)).level is Level.STOPS
    assert judge.writes(disks.writes(subject)).level is Level.WARNING
    (room,) = judge.room(disks.room(subject))
    assert (room.level, "0 bytes free" in room.found) == (Level.WARNING, True)
    (mount,) = judge.mounts(disks.mounts(subject))
    assert "lies in memory (tmpfs)" in mount.found


def test_a_full_disk_stops_only_an_agent_that_is_new_there(
    disk: Callable[[str, str], Disk], tmp_path: Path
) -> None:
    """One that has its folders starts, and says what it waits for."""
    (tmp_path / "manta").mkdir()
    small = disk("state", "size=256k")
    for is_new in (True, False):
        if not is_new:
            (small.path / ".lock").touch()
        small.fill(0)
        found, _ = judge.folders(disks.folders(an_agent(tmp_path)))
        assert (found.level is Level.STOPS) is is_new
        small.empty()


def test_a_read_only_disk_stops(disk: Callable[[str, str], Disk], tmp_path: Path) -> None:
    """As what root cannot write to either."""
    disk("db", "size=256k").remount("ro")
    (found,) = disks.folders(a_manager(tmp_path))

    assert (found.step, found.error) == ("make a folder", "Read-only file system")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_another_user_has_made_is_named(open_to_all: Path) -> None:
    """A start as root, long ago, leaves files that the service cannot use."""
    subject = a_manager(open_to_all)
    with as_nobody():
        (found,) = disks.folders(subject)
        assert (found.step, found.error) == ("make a folder", "Permission denied")

    folder = open_to_all / "db"
    folder.mkdir()
    os.chown(folder, 65534, -1)
    (folder / "rebalancer.sqlite").touch(0o600)
    (folder / ".lock").touch(0o644)
    with as_nobody():
        (claim,) = setup.running(subject)
        assert claim.trouble == f"{folder}/.lock belongs to root"
        (found,) = disks.folders(subject)
    assert found.step in ("use rebalancer.sqlite", "use .lock")
    assert "chown" in found.do
    assert next(iter(judge.folders([found]))).level is Level.STOPS


def test_mounts_are_read_with_their_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is nearest above a folder counts."""
    table = {"/": ("zfs", ()), str(tmp_path): ("nfs4", ("rw",)), f"{tmp_path}/d": ("ufs", ())}
    monkeypatch.setattr(disks, "_listed", lambda: table)
    (found,) = disks.mounts(a_manager(tmp_path))

    assert (found.kind, found.options) == ("nfs4", ("rw",))
    assert disks._unescaped("/a\\040b") == "/a b"
