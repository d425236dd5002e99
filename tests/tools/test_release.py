"""The tools that make what is installed refuse in a line what would come out useless."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
SCRIPTS = Path(__file__).parents[1] / "installed" / "manta_scripts"

arguments: Callable[[list[str]], Any] = runpy.run_path(str(TOOLS / "release"))["arguments"]


def test_a_release_takes_a_checkout_of_manta_scripts() -> None:
    """It has what the boot scripts source."""
    given = arguments(["--manta-scripts", str(SCRIPTS), "--branch", "release-20261126"])

    assert (given.manta_scripts, given.branch) == (SCRIPTS, "release-20261126")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--manta-scripts", "/nowhere"], "/nowhere has no util.sh and no services.sh: expected"),
        (["--branch", "a/b"], "'a/b': expected letters, digits and . _ - only"),
        (["--branch", ""], "'': expected letters"),
    ],
)
def test_a_release_that_no_image_could_be_made_of_is_refused(
    given: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that is misspelt left the boot scripts out without a word."""
    with pytest.raises(SystemExit):
        arguments(given)

    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("build", "tools/build needs Python 3.11 or newer, not 3.10.1: python3.11 tools/build\n"),
        ("package", "tools/package: /usr/bin/python3.10 does not exist, and the package would "),
    ],
)
def test_another_python_is_refused_before_anything_is_made(tool: str, reason: str) -> None:
    """A package of it could not be installed; pip would refuse the dependencies at length."""
    program = (
        "import runpy, sys; sys.version_info, sys.version = (3, 10, 1), '3.10.1 (main)';"
        f"sys.argv = ['{tool}']; runpy.run_path({str(TOOLS / tool)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(reason)
