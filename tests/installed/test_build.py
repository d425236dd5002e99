"""`tools/build` makes one file that runs with nothing but Python."""

import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "build"
#: Where the Python of this environment comes from: the archive finds it by its name there.
PYTHON = Path(os.path.realpath(sys.executable)).parent


@pytest.fixture
def archive(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a built archive; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return built


def run(*command: str | Path, code: int = 0) -> str:
    """Run a command of an archive as a user has it who has no home and no environment."""
    path = f"PATH={PYTHON}:/usr/bin:/bin"
    home, temporary = "HOME=/nonexistent", f"TMPDIR={Path.cwd()}"
    done = subprocess.run(
        ["/usr/bin/env", "-i", path, home, temporary, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_the_same_commit_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Neither the folder nor the time of a build is in what it makes."""
    another = tmp_path / "another"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, TOOL, "--output", another], env=environment, check=True)
    one = built.read_bytes()

    assert one == another.read_bytes()
    assert str(ROOT).encode() not in one


def test_an_archive_has_what_the_lock_names_and_no_more(archive: Path) -> None:
    """Each file is ours, or is listed by a distribution of the lock, in the locked version."""
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        records = {name for name in names if name.endswith(".dist-info/RECORD")}
        listed = {
            line.rsplit(",", 2)[0].strip('"')
            for name in records
            for line in opened.read(name).decode().splitlines()
        }
    locked = set(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "build.lock").read_text(), re.M))
    built = {tuple(name.split(".dist-info")[0].split("-")) for name in records}
    assert {(name.replace("_", "-").lower(), version) for name, version in built} <= locked
    assert not {"pytest", "mypy", "hypothesis"} & {name for name, _ in built}

    ours = re.compile(r"(rebalancer|rebalancer_devregion|etc)/|LICENSE$|__main__\.pyc?$")
    others = {name for name in names if not ours.match(name) and not name.endswith("/")}
    assert {name for name in others if re.sub(r"pyc$", "py", name) not in listed} == set()
    assert {"etc/agent.toml", "rebalancer/manager/page/templates/job.html", "LICENSE"} <= names


def test_compiled_code_is_never_made_anew_for_its_time(archive: Path) -> None:
    """Python takes it without a look at a source, whose time an archive does not keep."""
    with zipfile.ZipFile(archive) as opened:
        heads = {opened.read(name)[:8] for name in opened.namelist() if name.endswith(".pyc")}

    assert heads == {MAGIC_NUMBER + (1).to_bytes(4, "little")}


def test_commands_run_without_a_home_and_without_the_checkout(archive: Path) -> None:
    """The operator's command, the check of a file, and the predecessor's names."""
    with zipfile.ZipFile(archive) as opened:
        opened.extract("etc/agent.toml")
    Path("rebalancer-adm").symlink_to(archive)

    assert run(archive, "--version").startswith("rebalancer 1.")
    assert run("./rebalancer-adm", "--version").startswith("rebalancer-adm 1.")
    assert "evacuate" in run(archive, "adm", "job", "create", "--help")
    assert "ok, and with it" in run(archive, "check-config", "agent", "etc/agent.toml")
    # No /manta is here, which is all that would stop it.
    examined = run(archive, "doctor", "agent", "--json", code=1)
    stopping = [one for one in json.loads(examined)["findings"] if one["level"] == "stops"]
    assert [one["check"] for one in stopping] == ["folders"]


def test_an_archive_evacuates_a_node(archive: Path) -> None:
    """Manager, agents with their fetchers, region and operator's command all run from it."""
    assert "every check holds" in run(archive, "demo", "--objects", "40")


def test_a_file_for_storage_nodes_has_no_region_and_says_so(archive: Path, tmp_path: Path) -> None:
    """All else is there.  The file is made of a whole one, for a build takes long."""
    site, small = tmp_path / "site", tmp_path / "small"
    runpy.run_path(str(TOOL))["add_program"](site, region=False)
    assert {path.name for path in site.iterdir()} == {"rebalancer", "etc", "LICENSE"}

    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(small, "w") as part:
        for name in whole.namelist():
            if not name.startswith("rebalancer_devregion/"):
                part.writestr(name, whole.read(name))
    python = os.path.realpath(sys.executable)
    assert "--config" in run(python, small, "agent", "--help")
    assert "which this file was built without" in run(python, small, "region", "--help", code=1)


def test_another_python_is_refused_in_words(archive: Path) -> None:
    """Compiled modules are of one minor version: the message names it."""
    program = (
        "import importlib.machinery, runpy, sys; importlib.machinery.EXTENSION_SUFFIXES.clear();"
        f"sys.path.insert(0, {str(archive)!r}); runpy.run_path({str(archive)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 1
    version = ".".join(map(str, sys.version_info[:2]))
    assert done.stderr.startswith(f"rebalancer: this file is for Python {version}, by its ")
