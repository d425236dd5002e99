"""Scripts of the shell are without what shellcheck finds."""

import subprocess
from pathlib import Path

from tests.conftest import require

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "bin", "boot", "tools", "tests/installed")


def scripts() -> list[Path]:
    """Those that say that they are of a shell, in their first line."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                first = path.read_bytes().partition(b"\n")[0]
                if first.endswith((b"sh", b"shell=bash")) and first.startswith(b"#"):
                    found.append(path)
    return found


def test_shellcheck_finds_nothing() -> None:
    """What scripts source is looked at with them."""
    known = scripts()
    assert {"rebalancer", "setup.sh", "configure.sh", "run", "test"} <= {one.name for one in known}

    done = subprocess.run(
        [require("shellcheck"), "--external-sources", *known],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
