"""What Python, libraries, limits and clocks are here."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge import system as judge
from rebalancer.doctor.look import system
from tests.doctor.subjects import BUCKETS, a_manager, an_agent


def test_this_environment_runs_the_programs(tmp_path: Path) -> None:
    """Every check of it, with the real versions; packages are found by what setup.cfg requires."""
    subject = a_manager(tmp_path)
    found = [
        judge.event_loop(system.event_loop(subject)),
        judge.python(system.python(subject)),
        judge.sqlite(system.sqlite(subject)),
        *judge.libraries(system.libraries(subject)),
        *judge.natives(system.natives(subject)),
    ]
    assert {one.level for one in found} <= {Level.OK, Level.WARNING}
    names = {one.name for one in system.libraries(subject)}
    assert {"trio", "psycopg", "quart-trio"} <= names
    assert "pytest" not in names


@pytest.mark.parametrize(
    ("line", "name", "least"),
    [
        ("trio>=0.27", "trio", (0, 27)),
        ('psycopg[binary]>=3.2; sys_platform == "linux"', "psycopg", (3, 2)),
        ('psycopg[binary]>=3.2; sys_platform == "sunos5"', None, ()),
        ('attrs>=24; sys_platform == "linux" or sys_platform == "darwin"', "attrs", (24,)),
        ('pycurl-of-no-index>=1; sys_platform == "darwin"', None, ()),
        ('psycopg>=3.2; sys_platform != "linux"', None, ()),
        ('pytest>=8.3; extra == "dev"', None, ()),
    ],
)
def test_a_requirement_is_of_a_platform(
    line: str, name: str | None, least: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of an extra."""
    monkeypatch.setattr("sys.platform", "linux")
    found = system._library(line)

    assert (found and found.name) == name
    assert found is None or found.least == least


@pytest.fixture
def few_files() -> Iterator[None]:
    """A soft limit of open files that is low, for a hard one cannot be raised again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_files_is_this_process_s(few_files: None, tmp_path: Path) -> None:
    """A manager raises it, an agent does not."""
    assert judge.files(system.files(a_manager(tmp_path))).level is Level.OK
    assert judge.files(system.files(an_agent(tmp_path))).level is Level.WARNING


def test_many_connections_want_many_files(tmp_path: Path) -> None:
    """By what the configuration allows."""
    few = system.files(a_manager(tmp_path)).needed
    many = system.files(a_manager(tmp_path, ', "max_concurrent_jobs": 100')).needed

    assert few < 1000 < many


def test_a_clock_of_the_past_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system goes by another, which is right."""
    subject = an_agent(tmp_path)
    assert [one.level for one in judge.clock(system.clock(subject))] == [Level.OK]

    monkeypatch.setattr("time.time", lambda: 1000.0)
    first, second = judge.clock(system.clock(subject))
    assert "never set" in first.found
    assert "the file system's clock is" in second.found
    subject.scratch.close()


def test_users_have_names(tmp_path: Path) -> None:
    """Or numbers; what is not there is nobody's."""
    assert system.name_of(4_000_000_000) == "4000000000"
    assert system.owner(tmp_path) == system.name_of(os.geteuid())
    assert system.owner(tmp_path / "missing") is None


def test_bucket_objects_need_libpq_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a manager does not start without libpq, whatever its discovery is."""
    keys = ', "discovery": "moray"'
    without = a_manager(tmp_path, keys)
    with_buckets = a_manager(tmp_path, keys + BUCKETS % "sql")
    monkeypatch.setitem(sys.modules, "psycopg.pq", None)

    needed = [system.natives(subject)[1].is_needed for subject in (without, with_buckets)]
    assert needed == [False, True]
    assert system.files(without).needed < system.files(with_buckets).needed
