"""`tools/build --adm` makes the operator's command alone, as one file for a laptop."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer import __version__
from tests.installed.conftest import build
from tests.installed.pythons import FOUND
from tests.test_layering import LIGHT


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file, built once."""
    return build(tmp_path_factory, worker_id, "--adm")


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a small region, and return the address of its manager."""
    folder = tmp_path_factory.mktemp("lab")
    region = [sys.executable, "-m", "rebalancer", "region"]
    subprocess.run([*region, "create", "lab", "--objects", "40"], cwd=folder, check=True)
    command = [*region, "serve", "lab"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("running: "), line
            yield line.split()[-1]
        finally:
            server.terminate()


def run(python: Path, light: Path, *arguments: str, code: int = 0, url: str = "") -> str:
    """Run the file with nothing but Python, as on a machine where nothing is installed."""
    done = subprocess.run(
        [python, "-S", "-E", "-W", "error", light, *arguments],
        env={"PATH": os.environ["PATH"], "REBALANCER_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_it_holds_what_the_command_imports_and_nothing_compiled(light: Path) -> None:
    """No daemon, no region, no web framework; so it is a tenth of an installation by pip."""
    with zipfile.ZipFile(light) as opened:
        names = opened.namelist()
    tops = {
        name.partition("/")[0].partition(".py")[0] for name in names if ".dist-info" not in name
    }

    assert tops == {*LIGHT, "rebalancer", "etc", "LICENSE", "__main__"}
    rooms = {name.split("/")[1] for name in names if name.startswith("rebalancer/")}
    assert rooms & {"adm", "manager", "agent", "serving"} == {"adm"}
    assert [name for name in names if name.endswith((".so", ".pyd"))] == []
    assert light.stat().st_size < 8_000_000


@pytest.mark.parametrize("version", FOUND)
def test_it_asks_a_manager_with_every_python(light: Path, manager: str, version: str) -> None:
    """A command that shows, and one that fails."""
    python = FOUND[version]

    assert f"rebalancer {__version__} (python-{version}." in run(python, light, "--version")
    assert "2.stor.demo.lab.test" in run(python, light, "adm", "status", url=manager)
    printed = run(python, light, "adm", "job", "get", "ffffffff", url=manager, code=1)
    assert printed.count("\n") == 1
    assert "ffffffff" in printed


def test_it_creates_a_job_and_watches_it_to_its_end(light: Path, manager: str) -> None:
    """All that an operator does is in it."""
    python = FOUND["3.11"]
    job, create = ("adm", "job"), ("create", "evacuate", "--shark", "1.stor", "--watch")
    printed = run(python, light, *job, *create, url=manager, code=3)  # the region has odd objects

    assert "not empty" in printed
    assert "1.stor.demo.lab.test" in run(python, light, *job, "list", url=manager)


@pytest.mark.parametrize("command", ["manager", "agent", "doctor agent", "region serve lab"])
def test_it_says_in_a_line_what_it_has_not(light: Path, command: str) -> None:
    name, *rest = command.split()
    printed = run(FOUND["3.11"], light, name, *rest, code=1)
    assert printed.startswith(f"rebalancer: {name} needs the ")
    assert ", which this file was built without: take one that tools/build made" in printed
    assert "Not installed in this file" in run(FOUND["3.11"], light, "--help")
