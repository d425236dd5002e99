"""What the tests of built and installed forms share: one file of the programs, built once."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = [sys.executable, str(Path(__file__).parents[2] / "tools" / "build")]


def build(tmp_path_factory: pytest.TempPathFactory, worker_id: str, *options: str) -> Path:
    """Build once for all workers, which share the file and do not change it."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    name = "".join(["rebalancer", *options])
    file = folder / "built" / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            subprocess.run([*BUILD, *options, "--output", file], check=True)
    return file


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file that tools/build makes."""
    return build(tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def built_pure(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file that tools/build makes with nothing compiled."""
    return build(tmp_path_factory, worker_id, "--pure")
