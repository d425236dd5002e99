"""What all tests share."""

import os
from importlib.util import find_spec

import pytest
from hypothesis import settings

from rebalancer_devregion.processes import find_program

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
