"""Findings about folders and file systems, by tables."""

import pytest

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge import disks
from rebalancer.doctor.judge.disks import Folder, Mount, Room, Wal, Writes

OK, WARNING, STOPS = Level.OK, Level.WARNING, Level.STOPS


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (Folder("data_dir", "/db"), OK, "renamed and synced"),
        (Folder("data_dir", "/db", leads_to="/zones/db"), OK, "a link to /zones/db"),
        (Folder("state_dir", "/", "s", "No", is_full=True, is_waited_for=True), WARNING, "No"),
        (Folder("data_dir", "/db", "sync a file", "No", is_full=True), STOPS, "sync"),
        (Folder("temp_dir", "/t", "rename a file", "cross-device"), STOPS, "rename"),
        (Folder("data_dir", "/db", "make a folder", "Permission denied"), STOPS, "denied"),
    ],
)
def test_a_folder_takes_files(seen: Folder, level: Level, has: str) -> None:
    """A full disk passes, for an agent that has begun there before."""
    (found,) = disks.folders([seen])

    assert found.level is level
    assert has in found.found


def test_wal_needs_a_local_file_system() -> None:
    """On a full disk a manager does not start either."""
    seen = [Wal("/db"), Wal("/db", "no mmap"), Wal("/db", "full", is_full=True)]

    assert [disks.wal(one).level for one in seen] == [OK, STOPS, STOPS]


def test_a_folder_that_nobody_may_make_is_no_fault_of_its_file_system() -> None:
    """The disk is left alone: permissions are to be mended."""
    found = disks.wal(Wal("/db", "Permission denied", is_untried=True))

    assert (found.level, found.do) == (STOPS, "see the finding of folders")


@pytest.mark.parametrize(
    ("kind", "options", "level"),
    [
        ("zfs", ("rw",), OK),
        ("", (), OK),
        ("nfs4", ("rw",), WARNING),
        ("tmpfs", ("rw",), WARNING),
        ("ext4", ("rw", "nobarrier"), WARNING),
    ],
)
def test_a_file_system_keeps_what_is_synced(
    kind: str, options: tuple[str, ...], level: Level
) -> None:
    """By what the system says of it, for no try shows a loss of power."""
    (found,) = disks.mounts([Mount("data_dir", "/db", kind, options)])

    assert found.level is level


@pytest.mark.parametrize(
    ("free", "inodes", "level", "has"),
    [
        (10**10, 10**6, OK, "10.0 GB free"),
        (10**10, None, OK, "10.0 GB free"),
        (10, 10**6, WARNING, "10 bytes free"),
        (10**10, 5, WARNING, "5 inodes free"),
    ],
)
def test_room_is_bytes_and_inodes(free: int, inodes: int | None, level: Level, has: str) -> None:
    """Some file systems do not count inodes."""
    (found,) = disks.room([Room("data_dir", "/db", free, 10**9, inodes)])

    assert found.level is level
    assert has in found.found


def test_a_durable_write_is_a_figure() -> None:
    """The median decides: one slow write among many is nothing."""
    fine = disks.writes(Writes("/db", (0.001, 0.002, 0.5)))
    slow = disks.writes(Writes("/db", (0.1, 0.2, 0.001)))
    none = disks.writes(Writes("/db", (), "No space left"))

    assert (fine.level, fine.found) == (
        OK,
        "/db: 4 KiB are durable after 2.0 ms, 500.0 ms at worst",
    )
    assert (slow.level, none.level) == (WARNING, WARNING)
    assert "No space left" in none.found
