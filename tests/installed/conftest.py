"""What the tests of built and installed forms share: what is built, once for all of them."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
BUILD = [sys.executable, str(TOOLS / "build")]


def once(
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    name: str,
    make: Callable[[Path], None],
) -> Path:
    """Make a file or folder once for all workers, which share it and do not change it."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    path = folder / "built" / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(f"{name}.part")
            make(part)
            part.rename(path)
    return path


def build(tmp_path_factory: pytest.TempPathFactory, worker_id: str, *options: str) -> Path:
    """Build one file."""

    def make(path: Path) -> None:
        subprocess.run([*BUILD, *options, "--output", path], check=True)

    return once(tmp_path_factory, worker_id, "".join(["rebalancer", *options]), make)


def distribute(checkout: Path, output: Path) -> None:
    """Make the sdists and wheels of a checkout."""
    environment = {**os.environ, "TMPDIR": str(output.parent), "SOURCE_DATE_EPOCH": "1700000000"}
    command: list[str | Path] = [sys.executable, checkout / "tools" / "dist", "--output", output]
    subprocess.run(command, check=True, env=environment)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file that tools/build makes."""
    return build(tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def built_pure(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file that tools/build makes with nothing compiled."""
    return build(tmp_path_factory, worker_id, "--pure")


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the sdist and the wheel of both distributions."""
    make = partial(distribute, TOOLS.parent)
    return once(tmp_path_factory, worker_id, "distributions", make)
