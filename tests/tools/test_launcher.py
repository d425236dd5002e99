"""The programs of a zone are started by `bin/rebalancer`, which finds a Python for them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Lay out a program's folder, where the program prints its arguments; a link leads to it."""
    folder = tmp_path / "rebalancer.hotpatch-1"
    for name in ("bin", "lib"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "rebalancer", folder / "bin")
    (folder / "bin" / "rebalancer-adm").symlink_to("rebalancer")
    (folder / "lib" / "rebalancer-adm").symlink_to("rebalancer")
    (tmp_path / "rebalancer").symlink_to(folder.name)
    return tmp_path / "rebalancer"


def run(home: Path, program: str, first: str) -> subprocess.CompletedProcess[str]:
    (home / "lib" / "rebalancer").write_text(f"{first}\nimport sys\nprint(sys.argv)\n")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [home / "bin" / program, "a b", ""], capture_output=True, text=True, env={"PATH": path}
    )


@pytest.mark.parametrize("python", ["python3", "python{}.{}".format(*sys.version_info)])
def test_a_program_runs_under_the_name_it_is_called_by(home: Path, python: str) -> None:
    """With the Python that its first line names, from a symbolic link too, its arguments whole."""
    done = run(home, "rebalancer-adm", f"#!/usr/bin/env {python}")

    assert done.stderr == ""
    assert done.stdout == f"{[str(home.resolve() / 'lib' / 'rebalancer-adm'), 'a b', '']}\n"


def test_a_python_that_is_missing_is_named(home: Path) -> None:
    """And the folder that it is looked for in."""
    done = run(home, "rebalancer-adm", "#!/usr/bin/env python3.99")

    assert done.returncode == 1
    assert "needs one of python3.99, in /opt/local/bin or another folder of PATH" in done.stderr
