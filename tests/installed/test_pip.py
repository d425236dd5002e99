"""What pip installs of both distributions runs with each Python that is supported and here."""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import attrs
import pytest

from rebalancer import __version__
from tests.installed.pythons import FOUND

ROOT = Path(__file__).parents[2]
SCRIPTS = ("rebalancer", "rebalancer-adm", "rebalancer-agent", "rebalancer-manager")
REGION = f"pip install manta-rebalancer-devregion=={__version__}, or in a checkout: pip install"


@attrs.frozen
class Installation:
    """The programs, installed by pip for one version of Python, in an environment of their own."""

    folder: Path

    def execute(
        self,
        *command: str | Path,
        code: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Run a command, and return all that it prints."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def install(self, *what: str | Path) -> None:
        """Install distributions with the locked versions of what they need."""
        # The pip of this environment installs for others, which saves each its own.
        python, lock = str(self.folder / "environment/bin/python"), str(ROOT / "requirements.lock")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        # For what builds need, older versions of pip take the first of these, newer ones the other.
        self.execute(*pip, *what, variables={"PIP_CONSTRAINT": lock, "PIP_BUILD_CONSTRAINT": lock})

    def run(self, name: str, *arguments: str, code: int = 0) -> str:
        """Run an installed program, with Python's warnings as errors, and return what it prints."""
        program = self.folder / "environment" / "bin" / name
        return self.execute(program, *arguments, code=code, variables={"PYTHONWARNINGS": "error"})


@pytest.fixture(scope="module")
def installations(
    distributions: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Installation]:
    """Install the sdist of the programs, without the region, for each Python."""
    (sdist,) = distributions.glob("manta_rebalancer-*.tar.gz")

    def install(version: str) -> Installation:
        made = Installation(tmp_path_factory.mktemp(f"python{version}-"))
        made.execute(FOUND[version], "-m", "venv", "--without-pip", "environment")
        made.install(sdist)
        return made

    with ThreadPoolExecutor() as pool:
        return dict(zip(FOUND, pool.map(install, FOUND), strict=True))


@pytest.fixture(params=FOUND)
def installed(
    request: pytest.FixtureRequest, installations: dict[str, Installation]
) -> Installation:
    """The programs, installed for one Python."""
    return installations[request.param]


def test_each_program_tells_its_use(installed: Installation) -> None:
    """Under each of its names; and those of the region say in a line what they lack."""
    for script in SCRIPTS:
        assert f"Usage: {script} " in installed.run(script, "--help")
    assert installed.run("rebalancer", "--version").startswith(f"rebalancer {__version__} (python-")
    for command in ("region", "demo"):
        need = f"rebalancer: {command} needs the embedded region: {REGION} ./devregion\n"
        assert installed.run("rebalancer", command, code=1) == need


def test_a_node_is_evacuated(installed: Installation, distributions: Path) -> None:
    """Manager, agents and fetchers start and do their work, and Python warns of nothing in it."""
    (wheel,) = distributions.glob("manta_rebalancer_devregion-*.whl")
    installed.install("--no-deps", wheel)

    printed = installed.run("rebalancer", "demo", "--objects", "40", "--folder", "lab")
    logs = {log.name: log.read_text() for log in (installed.folder / "lab" / "log").iterdir()}
    assert "every check holds" in printed
    assert logs.keys() >= {"manager.log", "servers.log"}
    assert [name for name, text in logs.items() if "Warning" in text] == []
