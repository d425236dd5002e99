"""`tools/dist` makes what a package index takes; whoever unpacks the sdist has all that git has."""

import hashlib
import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.installed.conftest import distribute

ROOT = Path(__file__).parents[2]
PROJECTS = {"manta_rebalancer": ROOT, "manta_rebalancer_devregion": ROOT / "devregion"}
#: What setuptools adds to an sdist.
MADE = re.compile(r"(.*\.egg-info/.*|PKG-INFO|setup\.cfg)$")
#: Paths that README names outside links.
NAMED = re.compile(r"\b((?:devregion|docs|etc|smf|tests|tools)/[\w./-]*\w|tools/\w+)")


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a folder by its name."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()}


@pytest.fixture(scope="module")
def unpacked(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the sdist of the programs."""
    folder = tmp_path_factory.mktemp("unpacked")
    (path,) = distributions.glob("manta_rebalancer-*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


def tracked(project: Path) -> set[str]:
    """List what git has of a project; where there is no git, what an sdist says that it has."""
    if (ROOT / ".git").exists():
        # With what is not added yet, so that a test can be run before a commit.
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=project, capture_output=True, check=True)
        return {name for name in done.stdout.decode().splitlines() if (project / name).exists()}
    return set((project / "manta_rebalancer.egg-info" / "SOURCES.txt").read_text().splitlines())


def held(sdist: Path) -> set[str]:
    """List the files of an sdist, without the name of its folder."""
    with tarfile.open(sdist) as archive:
        return {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}


@pytest.mark.parametrize("name", PROJECTS)
def test_an_sdist_has_what_git_has(distributions: Path, name: str) -> None:
    """Pages, tools, tests, configuration and manifests, and the region as what it is."""
    (sdist,) = distributions.glob(f"{name}-*.tar.gz")

    expected = {one for one in tracked(PROJECTS[name]) if not MADE.match(one)}
    assert {one for one in held(sdist) if not MADE.match(one)} == expected


def test_what_the_readme_names_is_in_the_sdist(unpacked: Path) -> None:
    """Each link within the checkout, and each path."""
    readme = (unpacked / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme)
    paths = NAMED.findall(readme)

    assert len(links) > 20
    assert {"tools/demo", "tools/test", "tools/build"} <= set(paths)
    assert [one for one in (*links, *paths) if not (unpacked / one).exists()] == []


def test_the_sdist_makes_the_same_distributions(
    distributions: Path, unpacked: Path, tmp_path: Path
) -> None:
    """Neither the folder, the user's mask, the time of a build nor git is in what it makes."""
    before = os.umask(0o077)
    try:
        distribute(unpacked, tmp_path / "of-the-sdist")
    finally:
        os.umask(before)
    assert hashes(tmp_path / "of-the-sdist") == hashes(distributions)


def test_the_one_file_can_be_made_of_the_sdist(unpacked: Path, tmp_path: Path) -> None:
    """It gets the same files as from git, with the time of the commit."""
    places = {ROOT: tmp_path / "of-the-checkout", unpacked: tmp_path / "of-the-sdist"}
    for checkout, site in places.items():
        tool = runpy.run_path(str(checkout / "tools" / "build"))
        tool["add_program"](site, region=True)

    one, another = ({p.relative_to(s): p.is_file() for p in s.rglob("*")} for s in places.values())
    assert one == another
    assert tool["time_of_sources"]() == 1700000000


def test_sources_without_git_and_without_a_time_are_refused_in_a_line(
    unpacked: Path, tmp_path: Path
) -> None:
    """As a page of a forge gives them, packed without either."""
    for name in ("build", "dist"):
        tool = tmp_path / "tools" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_bytes((unpacked / "tools" / name).read_bytes())
        environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
        done = subprocess.run(
            [sys.executable, tool], capture_output=True, text=True, env=environment
        )

        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "set SOURCE_DATE_EPOCH" in done.stderr


def metadata(made: Path, name: str) -> Message:
    """Return what a wheel says about itself."""
    (path,) = made.glob(f"{name}-*.whl")
    with zipfile.ZipFile(path) as wheel:
        (member,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(member).decode())


@pytest.mark.parametrize("name", PROJECTS)
def test_a_package_index_can_show_all_about_it(distributions: Path, name: str) -> None:
    """And no link of the description leads nowhere there."""
    found = metadata(distributions, name)
    description = found.get_payload()

    for field in ("Summary", "Maintainer", "Keywords", "Project-URL", "License-File"):
        assert found[field], field
    assert found["License-Expression"].startswith("MPL-2.0")
    assert found["Description-Content-Type"] == "text/markdown"
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(
        found.get_all("Classifier", [])
    )
    assert isinstance(description, str)
    assert len(description) > 300
    assert re.findall(r"\]\((?!https?://)[^)]*\)", description) == []


def test_the_region_has_the_licence_of_the_programs() -> None:
    """A distribution can take no file from beside its folder."""
    assert (ROOT / "devregion" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
