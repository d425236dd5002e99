"""What all tests share."""

import os

import pytest
from hypothesis import settings

from rebalancer_devregion.processes import find_program

settings.register_profile("suite", max_examples=60, deadline=None)
settings.load_profile("suite")


def require(program: str) -> str:
    """The path of `program`; without it the test is skipped, and fails where none may skip."""
    path = find_program(program)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return path
