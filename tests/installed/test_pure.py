"""`tools/build --pure` makes one file for every Python, which loads nothing that is compiled."""

import os
import re
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from rebalancer.natives import PACKAGES
from tests.installed.conftest import BUILD
from tests.installed.pythons import FOUND

ROOT = Path(__file__).parents[2]


PYTHONS = list(FOUND.values())


@pytest.fixture(params=PYTHONS, ids=list(FOUND))
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make an environment of a version of Python in which nothing is installed."""
    folder = tmp_path / "environment"
    subprocess.run([request.param, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def mapped(archive: Path) -> dict[int, tuple[str, set[str]]]:
    """Look at the processes that run from a file: the command, and the libraries, of each."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(archive) in command:
                libraries = re.findall(r"(/\S*\.so[.\d]*)$", (process / "maps").read_text(), re.M)
                found[int(process.name)] = command, set(libraries)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_the_bytes_do_not_depend_on_who_builds(built_pure: Path, tmp_path: Path) -> None:
    """The Python of another version makes the same file, of what the lock names."""
    another = tmp_path / "another"
    subprocess.run([PYTHONS[-1], *BUILD[1:], "--pure", "--output", another], check=True)

    assert another.read_bytes() == built_pure.read_bytes()
    with zipfile.ZipFile(built_pure) as opened:
        names = opened.namelist()
    assert [name for name in names if re.search(r"\.(so|pyd|pyc|dylib)\b", name)] == []
    locked = re.findall(r"^([\w-]+)==[\w.]+ \\$", (ROOT / "build.lock").read_text(), re.M)
    held = {name.split("-")[0].lower() for name in names if name.endswith(".dist-info/RECORD")}
    assert held == {name.replace("-", "_") for name in locked} - PACKAGES


def test_what_is_needed_is_so_with_every_python() -> None:
    """The lock tells platforms apart and no versions, of which one file has all."""
    assert "python_version" not in (ROOT / "build.lock").read_text()


def test_a_node_is_evacuated_and_nothing_compiled_is_loaded(
    built_pure: Path, python: Path, tmp_path: Path
) -> None:
    """Manager, agents, their fetchers, and the region; beside what Python itself brings."""
    path = f"{python.parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    seen: dict[int, tuple[str, set[str]]] = {}
    with (tmp_path / "output").open("w+") as output:
        demo = subprocess.Popen(
            [python, built_pure, "demo", "--objects", "40"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        while demo.poll() is None:
            for pid, (command, libraries) in mapped(built_pure).items():
                seen[pid] = command, libraries | seen.get(pid, ("", set()))[1]
            time.sleep(0.05)
        output.seek(0)
        told = output.read()
    assert demo.returncode == 0, told
    assert "every check holds" in told

    commands = [command for command, _ in seen.values()]
    for part in (" manager ", " agent ", "rebalancer.agent.transfer.process"):
        assert [command for command in commands if part in command], (part, commands)
    system = ("/lib", "/usr/lib", os.path.realpath(python).partition("/bin/")[0])
    strange = {
        library
        for _, libraries in seen.values()
        for library in libraries
        if "site-packages" in library or not library.startswith(system)
    }
    assert strange == set()
    version = subprocess.check_output([python, built_pure, "--version"], env=environment, text=True)
    assert version.endswith(", pure)\n")
