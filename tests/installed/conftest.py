"""What the tests of built and installed forms share: one file of the programs, built once."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = [sys.executable, str(Path(__file__).parents[2] / "tools" / "build")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The file that tools/build makes, which all workers share and none changes."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    file = folder / "built" / "rebalancer"
    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            subprocess.run([*BUILD, "--output", file], check=True)
    return file
