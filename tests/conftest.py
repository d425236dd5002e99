"""What all tests share."""

import os
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from rebalancer_devregion.processes import find_program
from tests.disks import Disk, run

settings.register_profile("suite", max_examples=60, deadline=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are about a compiled package where that is not installed.

    Where it is demanded, by `tools/test` in CI, `tests/test_natives.py` fails without it.
    """
    absent = [
        item
        for item in items
        if not all(find_spec(mark.args[0]) for mark in item.iter_markers("native"))
    ]
    config.hook.pytest_deselected(items=absent)
    items[:] = [item for item in items if item not in set(absent)]


def require(program: str) -> str:
    """The path of `program`; without it the test is skipped, and fails where none may skip."""
    path = find_program(program)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str, str], Disk]]:
    """Mounts a file system at a folder of the test, with options of mount(8)."""
    mounted = []

    def mount(name: str, options: str) -> Disk:
        path = tmp_path / name
        path.mkdir()
        try:
            run("mount", "-t", "tmpfs", "-o", options, "none", str(path))
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no file system can be mounted here: {exc}")
        mounted.append(path)
        return Disk(path)

    yield mount
    for path in mounted:
        run("umount", "--lazy", str(path))
