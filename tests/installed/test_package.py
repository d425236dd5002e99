"""`tools/package` makes a Debian package, which lives its whole life in a booted system here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from tests.process.regions import new_region

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "package"
UNITS = ["rebalancer-manager", "rebalancer-agent"]
#: The Python that the package is for, and the release that has it.
SYSTEM = "/usr/bin/python3"
#: Seconds that anything here takes at most, on a busy machine.
PATIENCE_S = 120.0
#: How a Debian system is made in memory and booted, of the arguments release and folder.  It has no
#: name server, and shall not go looking for one.
BOOT = """
mount -t tmpfs -o mode=755 none "$1"
mmdebstrap --variant=minbase --include=python3,systemd-sysv --dpkgopt=force-unsafe-io "$0" "$1"
rm -f "$1/etc/resolv.conf"
exec systemd-nspawn --directory "$1" --boot --register=no --keep-unit --private-network \\
    --console=pipe
"""
#: Its control groups are left, empty, where no systemd is to remove them.
REMOVE_GROUPS = """
cd /sys/fs/cgroup
find payload supervisor */payload */supervisor -depth -type d -exec rmdir {} +
"""

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI")
    and not (
        os.geteuid() == 0 and all(map(shutil.which, ["mmdebstrap", "systemd-nspawn", "lintian"]))
    ),
    reason="needs root, mmdebstrap, systemd-nspawn, debhelper and lintian",
)


def output(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def archive(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file for the system's Python, which may be another than the tests'."""
    version = output(SYSTEM, "-c", "import sys; print(*sys.version_info[:2])").split()
    if version == [str(part) for part in sys.version_info[:2]]:
        return built
    file = tmp_path_factory.mktemp("archive") / "rebalancer"
    output(SYSTEM, ROOT / "tools" / "build", "--output", file)
    return file


@pytest.fixture(scope="module")
def packages(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The package, made twice at a time."""
    folders = [tmp_path_factory.mktemp("package") for _ in range(2)]
    command = [SYSTEM, str(TOOL), "--archive", str(archive), "--version", "1.0~one", "--output"]
    makers = [subprocess.Popen([*command, str(folder)]) for folder in folders]
    assert [maker.wait() for maker in makers] == [0, 0]
    return [made for folder in folders for made in folder.glob("*.deb")]


@pytest.fixture(scope="module")
def package(packages: list[Path]) -> Path:
    return packages[0]


def test_the_same_commit_gives_the_same_package(packages: list[Path]) -> None:
    """Neither folder nor time is in it."""
    one, another = (made.read_bytes() for made in packages)

    assert one == another


def test_lintian_finds_no_error(package: Path) -> None:
    """Warnings are two: an agent is nobody, and the file is for one Python."""
    found = output("lintian", "--allow-root", "--fail-on", "error", package)

    tags = set(re.findall(r"^[EW]: rebalancer: (\S+)", found, re.M))
    assert tags <= {"systemd-service-file-uses-nobody-or-nogroup", "unusual-interpreter"}, found


@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened(name: str) -> None:
    """Systemd rates them by what they could do to the machine, from 0 to 10."""
    unit = ROOT / "etc" / "systemd" / f"{name}.service"
    verdict = output("systemd-analyze", "security", "--offline=true", "--threshold=30", unit)

    assert "Overall exposure level" in verdict


@attrs.frozen
class Host:
    """A Debian system that has booted, with a network of its own."""

    root: Path
    leader: int

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command there, and return what it prints."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", "--root", "--wdns=/", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8",
                "REBALANCER_URL": "http://127.0.0.1",
            },
        )
        assert done.returncode == code, f"{command}: {done.stdout}"
        return done.stdout

    def show(self, unit: str, *names: str) -> list[str]:
        """Return properties of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return [values[name] for name in names]

    def log(self, unit: str) -> str:
        """Return what a unit logged."""
        return self.run("journalctl", "--unit", unit, "--output=cat")

    def await_log(self, unit: str, text: str) -> None:
        """Return when a unit has logged a text."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.log(unit):
            assert time.monotonic() < end, self.log(unit)
            time.sleep(0.2)

    def await_(self, unit: str, name: str, pattern: str) -> None:
        """Return when a property of a unit is as the pattern says."""
        end = time.monotonic() + PATIENCE_S
        while not re.fullmatch(pattern, self.show(unit, name)[0]):
            assert time.monotonic() < end, self.run("systemctl", "status", "--full", unit, code=3)
            time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """Make the system with Debian's tools, and boot it, while the package is made.

    It lies in memory, mounted for its own processes only: nothing is left of it when they end,
    and no tool that makes it waits for a disk.  It is shut down when this process dies, however.
    """
    root = tmp_path_factory.mktemp("host")
    until_we_die = ["setpriv", "--pdeathsig=TERM", "unshare", "--mount"]
    with (root.parent / "console").open("wb") as console:
        machine = subprocess.Popen(
            [*until_we_die, "sh", "-exc", BOOT, release(), root],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        yield machine
    finally:
        # The first process takes all there with it, and nspawn cleans up.
        for pid in children(machine):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        machine.terminate()
        machine.wait(PATIENCE_S)
    subprocess.run(["sh", "-c", REMOVE_GROUPS], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def host(machine: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Wait until the system has booted."""
    leader = leader_of(machine, tmp_path_factory.getbasetemp() / "console")
    return Host(Path(f"/proc/{leader}/root"), leader)


def release() -> str:
    """Return the name of this Debian release."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    assert found
    return found[1]


def children(machine: subprocess.Popen[bytes]) -> list[str]:
    """Return the processes that the machine's own one has started; none if that is over."""
    if machine.poll() is not None:
        return []
    return Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()


def leader_of(machine: subprocess.Popen[bytes], console: Path) -> int:
    """Return the process that is the first one in the system, once it has booted."""
    end = time.monotonic() + 2 * PATIENCE_S
    ours = os.readlink("/proc/self/ns/pid")
    while time.monotonic() < end and machine.poll() is None:
        for child in children(machine):
            with suppress(OSError):
                if os.readlink(f"/proc/{child}/ns/pid") != ours and has_booted(child):
                    return int(child)
        time.sleep(0.2)
    raise AssertionError(console.read_text(errors="replace"))


def has_booted(leader: str) -> bool:
    inside = ["nsenter", f"--target={leader}", "--all", "--root", "systemctl"]
    state = subprocess.run([*inside, "is-system-running"], capture_output=True).stdout
    return state.strip() in (b"running", b"degraded")


def another_version(package: Path, folder: Path) -> Path:
    """Return the same package with a later version, made in a second."""
    output("dpkg-deb", "--raw-extract", package, folder / "two")
    control = folder / "two" / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("1.0~one", "1.0~two"))
    output(
        "dpkg-deb", "-Znone", "--root-owner-group", "--build", folder / "two", folder / "two.deb"
    )
    return folder / "two.deb"


def add_region(host: Host, archive: Path, made_in: Path) -> None:
    """Give the host a region, of which its own services are the manager and the agent of 2.stor.

    Its agents are slow, until a job has another bandwidth.
    """
    region = new_region(
        made_in,
        300,
        data_dir="/var/lib/rebalancer/manager",
        listen_host="127.0.0.1",
        listen_port=80,
    )
    folder, own = region.layout.folder, region.layout.nodes[1].manta_storage_id
    slow = "[source]\nbandwidth_bytes_per_s = 2000"
    for file in (folder / "etc").iterdir():
        text = file.read_text().replace(str(made_in), "/srv")
        file.write_text(text.replace("[source]", slow))
    # It has a program of its own, so that the package may change.
    shutil.copy(archive, folder / "rebalancer")
    shutil.copytree(folder, host.root / "srv/region")
    shutil.copy(folder / "etc/manager.json", host.root / "etc/rebalancer")
    text = (folder / f"etc/agent-{own}.toml").read_text()
    text = text.replace(f"/srv/region/nodes/{own}/state", "/var/lib/rebalancer/agent")
    (host.root / "etc/rebalancer/agent.toml").write_text(text)
    for process in [
        region.servers,
        *(region.agents[name] for name in region.agents if name != own),
    ]:
        arguments = [argument.replace(str(made_in), "/srv") for argument in process.args]
        unit = [f"--unit={process.name}", "--setenv=XDG_CACHE_HOME=/srv/region/cache"]
        host.run("systemd-run", *unit, "/srv/region/rebalancer", *arguments)
    # Objects of this node are nobody's, as in Manta.
    host.run("chown", "-R", "nobody:nogroup", f"/srv/region/nodes/{own}")


def test_a_container_is_made_of_what_there_is(host: Host, archive: Path) -> None:
    """No container can be built here: its steps are run in the system, but for apt's."""
    text = (ROOT / "etc" / "Containerfile").read_text().replace("\\\n", "")
    steps = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    of = {name: value for name, value in steps}
    assert of["COPY"] == "dist/rebalancer /usr/bin/rebalancer"  # where tools/build makes it
    assert of["FROM"].endswith(":12-slim")  # whose Python is 3.11
    shutil.copy(archive, host.root / "srv/rebalancer")
    for command in of["RUN"].split("&&"):
        if "apt" not in command:
            host.run("sh", "-ec", command)
    user, group = of["USER"].split(":")
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    run = [*become, "env", *of["ENV"].split(), "/srv/rebalancer"]
    assert json.loads(of["ENTRYPOINT"]) == ["/usr/bin/rebalancer"]

    refused = host.run(*run, *json.loads(of["CMD"]), code=1)
    assert "/etc/rebalancer/manager.json" in refused
    assert (host.root / "var/cache/rebalancer/rebalancer").is_dir()  # modules were unpacked
    host.run("rm", "-r", "/var/lib/rebalancer", "/var/cache/rebalancer")


def drop_in(host: Host, unit: str, text: str) -> None:
    file = host.root / "etc/systemd/system" / f"{unit}.service.d" / "local.conf"
    file.parent.mkdir()
    file.write_text(text)
    host.run("systemctl", "daemon-reload")


def test_a_package_lives_on_a_host(
    host: Host, package: Path, archive: Path, tmp_path: Path
) -> None:
    """Installed, started, reloaded, hung, upgraded with a job under way, removed and purged."""
    for made in (package, another_version(package, tmp_path)):
        shutil.copy(made, host.root / "srv")
    host.run("dpkg", "--install", f"/srv/{package.name}")
    assert [host.show(unit, "ActiveState", "UnitFileState") for unit in UNITS] == [
        ["inactive", "disabled"],
        ["inactive", "disabled"],
    ]
    assert host.run("rebalancer-adm", "--version").startswith("rebalancer-adm 1.")

    # Started: systemctl returns when the API listens, and no sooner.
    add_region(host, archive, tmp_path)
    drop_in(host, UNITS[0], "[Service]\nWatchdogSec=10\n")
    quick = "WatchdogSec=10\nTimeoutAbortSec=1\nRestartSec=0\n"
    drop_in(host, UNITS[1], f"[Service]\nReadWritePaths=/srv/region\n{quick}")
    host.run("systemctl", "enable", "--now", *UNITS)
    assert host.show(UNITS[0], "User", "StatusText") == ["rebalancer", "no job at work"]

    # A job, so slow that all of what follows finds it under way.
    adm = ["rebalancer", "adm", "job"]
    job = host.run(*adm, "create", "evacuate", "--shark", "1.stor").split()[-1]
    host.await_(UNITS[0], "StatusText", "1 job at work: .* evacuate 1.stor.*")

    # Reloaded.
    file = host.root / "etc/rebalancer/manager.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"log_level": "debug"}))
    host.run("systemctl", "reload", *UNITS)
    host.await_(UNITS[0], "ActiveState", "active")
    host.await_log(UNITS[0], "configuration reloaded")

    # Hung: the agent is started again.
    host.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", UNITS[1])
    host.await_(UNITS[1], "NRestarts", "1")
    host.await_(UNITS[1], "ActiveState", "active")

    # Upgraded: both stop, start, and go on with the job.
    host.run("dpkg", "--install", "/srv/two.deb")
    assert "1.0~two" in host.run("dpkg-query", "--show", "rebalancer")
    for unit in UNITS:
        assert host.show(unit, "ActiveState") == ["active"]
    assert host.log(UNITS[0]).count('"msg": "stopped"') == 1
    host.await_log(UNITS[0], '"resumed": true')
    assert json.loads(file.read_text())["log_level"] == "debug"
    host.run(*adm, "set-bandwidth", job, "1G")
    host.run(*adm, "watch", job, code=3)
    state = f"/var/lib/rebalancer/manager/{job}.sqlite"
    audit = ["/srv/region/rebalancer", "region", "audit", "/srv/region", state]
    host.run(*audit)  # exits 0 if every check holds
    shutil.copy(host.root / state[1:], host.root / "srv/job.sqlite")

    # Removed: what an operator wrote and what the programs know stays.  Purged: objects stay.
    host.run("dpkg", "--remove", "rebalancer")
    assert host.show(UNITS[0], "LoadState") == ["not-found"]
    assert (host.root / state[1:]).exists()
    assert file.exists()
    host.run("dpkg", "--purge", "rebalancer")
    left = ["etc/rebalancer", "var/lib/rebalancer", "var/cache/rebalancer", "usr/bin/rebalancer"]
    assert [path for path in left if (host.root / path).exists()] == []
    host.run(*audit[:-1], "/srv/job.sqlite")  # exits 0 if every check holds
