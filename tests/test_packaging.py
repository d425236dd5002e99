"""What each of the two distributions holds."""

import configparser
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rebalancer
import rebalancer_devregion

ROOT = Path(__file__).parent.parent
SIBLING = ROOT / "devregion"


def settings(project: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(project / "setup.cfg")
    return parser


def packages(project: Path) -> set[str]:
    """The packages that a wheel of `project` holds: those its patterns match."""
    patterns = settings(project)["options.packages.find"]["include"].split()
    found = {
        ".".join(path.parent.relative_to(project).parts) for path in project.rglob("__init__.py")
    }
    return {name for name in found if any(fnmatch(name, pattern) for pattern in patterns)}


def expected(folder: Path) -> set[str]:
    """Every folder with modules is a package: one without `__init__.py` would be left out."""
    return {".".join(path.parent.relative_to(folder.parent).parts) for path in folder.rglob("*.py")}


def test_a_storage_node_gets_no_embedded_region() -> None:
    """The main distribution holds the package `rebalancer`, whole, and nothing else."""
    assert packages(ROOT) == expected(ROOT / "rebalancer")


def test_everything_that_is_no_module_is_installed_too() -> None:
    """Templates, scripts and schemas are of no use in the checkout alone."""
    patterns = settings(ROOT)["options.package_data"]["rebalancer"].split()
    package = ROOT / "rebalancer"
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }

    # As setuptools matches: a star ends at a slash.
    matched = {
        path.relative_to(package).as_posix() for one in patterns for path in package.glob(one)
    }
    assert files <= matched
    assert {"manager/page/templates/job.html", "manager/page/static/page.css"} <= files


def test_the_embedded_region_is_a_distribution_of_its_own() -> None:
    """It holds the package `rebalancer_devregion`, whole, and nothing else."""
    assert packages(SIBLING) == expected(SIBLING / "rebalancer_devregion")


def test_the_region_asks_for_its_own_version_of_the_programs() -> None:
    """It starts them and uses their modules, so both are released together."""
    requires = settings(SIBLING)["options"]["install_requires"].split()

    assert rebalancer_devregion.__version__ == rebalancer.__version__
    assert requires == [f"manta-rebalancer=={rebalancer.__version__}"]


def test_the_source_distribution_has_each_folder() -> None:
    """Each top folder that git has; `tests/installed/test_dist.py` compares the files."""
    if not (ROOT / ".git").exists():
        pytest.skip("these are no sources of git")
    listed = subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True).splitlines()
    folders = {name.partition("/")[0] for name in listed if "/" in name}
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()

    assert {line.removeprefix("graft ") for line in lines if line.startswith("graft ")} == folders
