"""Lists of jobs as managers of any version, and accidents, leave them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge.setup import list_of_jobs
from rebalancer.doctor.look.jobs import listed
from rebalancer.manager.store.schema import INDEX
from tests.doctor.subjects import a_manager, files_below


@pytest.mark.parametrize(
    ("version", "level"), [(INDEX.newest, Level.OK), (1, Level.OK), (INDEX.newest + 1, Level.STOPS)]
)
def test_a_list_of_a_newer_version_stops(tmp_path: Path, version: int, level: Level) -> None:
    """The manager refuses it at its start; looking makes no file beside it."""
    (tmp_path / "db").mkdir()
    with closing(sqlite3.connect(tmp_path / "db" / "rebalancer.sqlite")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA user_version={version}")
        db.commit()
    before = files_below(tmp_path)
    found = list_of_jobs(listed(a_manager(tmp_path)))

    assert found.level is level
    assert files_below(tmp_path) == before


def test_what_is_no_list_stops_only_what_cannot_be_moved_aside(tmp_path: Path) -> None:
    """No file, a broken one, a folder."""
    manager, place = a_manager(tmp_path), tmp_path / "db" / "rebalancer.sqlite"
    found = [list_of_jobs(listed(manager)).level]
    place.parent.mkdir()
    place.write_bytes(bytes(100))
    found.append(list_of_jobs(listed(manager)).level)
    place.unlink()
    place.mkdir()
    found.append(list_of_jobs(listed(manager)).level)

    assert found == [Level.OK, Level.OK, Level.STOPS]
