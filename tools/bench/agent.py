"""The agent against curl, rclone and aria2c: the same objects from one nginx, in turns.

Every contender pulls a whole set into an empty folder, sixteen objects at a time, and what it
pulled is checked.  The agent is the real process and is given assignments over its API.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from rebalancer.devregion.nginx import serving
from rebalancer.devregion.processes import find_program

TRANSFERS = 16
TASKS = 50  # of an assignment
OWNER = "0a1b2c3d-0000-4000-8000-000000000001"
SETS = {"4k": (10_000, 4 << 10), "256k": (2_000, 256 << 10), "256m": (6, 256 << 20)}


@attrs.frozen
class Object:
    name: str
    size: int
    md5: bytes


@attrs.frozen
class Set:
    """Objects below `root`/OWNER."""

    name: str
    root: Path
    objects: tuple[Object, ...]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.objects)


@attrs.frozen
class Run:
    """One contender, one set, once: seconds of the clock and of the CPUs, peak RSS in bytes."""

    wall_s: float
    cpu_s: float
    rss: int


Contender = Callable[[Set, Path, int, bool], Run]


def make_set(name: str, folder: Path, count: int, size: int) -> Set:
    root = folder / name
    (root / OWNER).mkdir(parents=True)
    block = os.urandom(min(size, 16 << 20))
    objects = []
    for number in range(count):
        made = Object(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {number}")), size, b"")
        digest = hashlib.md5(usedforsecurity=False)
        head = made.name.encode()
        with (root / OWNER / made.name).open("wb") as file:
            left = size
            while left:
                piece = (head + block)[: min(left, len(block))]
                file.write(piece)
                digest.update(piece)
                left -= len(piece)
        objects.append(attrs.evolve(made, md5=digest.digest()))
    return Set(name, root, tuple(objects))


def check(dataset: Set, folder: Path) -> None:
    """Every object is there and whole, by size; the contenders have checked the digests."""
    for one in dataset.objects:
        assert (folder / one.name).stat().st_size == one.size, f"{folder / one.name} is not whole"
    assert len(list(folder.iterdir())) == len(dataset.objects)


# --- the peers -----------------------------------------------------------------------------


def run_programs(*commands: list[str], cwd: Path) -> Run:
    """Programs one after the other, as one run."""
    begun, cpu, rss = time.monotonic(), 0.0, 0
    for command in commands:
        popen = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert popen.stderr is not None
        errors = popen.stderr.read()
        _, status, usage = os.wait4(popen.pid, 0)
        popen.returncode = os.waitstatus_to_exitcode(status)
        assert popen.returncode == 0, f"{command[0]}: {errors.decode()[-500:]}"
        cpu += usage.ru_utime + usage.ru_stime
        rss = max(rss, usage.ru_maxrss << 10)
    return Run(time.monotonic() - begun, cpu, rss)


def curl(dataset: Set, folder: Path, port: int, _durable: bool) -> Run:
    urls, sums = folder.with_name("curl.urls"), folder.with_name("curl.md5")
    url = f"http://127.0.0.1:{port}/{OWNER}"
    urls.write_text(
        "".join(f'url = "{url}/{o.name}"\noutput = "{o.name}"\n' for o in dataset.objects)
    )
    sums.write_text("".join(f"{o.md5.hex()}  {o.name}\n" for o in dataset.objects))
    fetch = ["curl", "--parallel", "--parallel-max", str(TRANSFERS), "--fail", "--silent"]
    verify = ["md5sum", "--check", "--quiet", str(sums)]
    return run_programs([*fetch, "--config", str(urls)], verify, cwd=folder)


def rclone(dataset: Set, folder: Path, port: int, _durable: bool) -> Run:
    names = folder.with_name("rclone.names")
    names.write_text("".join(f"{o.name}\n" for o in dataset.objects))
    command = ["rclone", "copy", ":http:", str(folder), "--config", "/dev/null", "--no-traverse"]
    command += ["--http-url", f"http://127.0.0.1:{port}/{OWNER}", "--files-from-raw", str(names)]
    command += ["--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)]
    return run_programs(command, cwd=folder)


def aria2c(dataset: Set, folder: Path, port: int, _durable: bool) -> Run:
    urls = folder.with_name("aria2c.urls")
    urls.write_text(
        "".join(
            f"http://127.0.0.1:{port}/{OWNER}/{o.name}\n  checksum=md5={o.md5.hex()}\n"
            for o in dataset.objects
        )
    )
    command = ["aria2c", "--no-conf", "--quiet", "--check-integrity=true", "--file-allocation=none"]
    command += [
        "--split=1",
        "--max-connection-per-server=16",
        f"--max-concurrent-downloads={TRANSFERS}",
    ]
    return run_programs([*command, f"--input-file={urls}"], cwd=folder)


# --- the agent -----------------------------------------------------------------------------


@contextmanager
def running_agent(
    place: Path, port: int, *, durable: bool
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """An agent on a new folder, which pulls from `port`: its address and its process."""
    (place / "manta").mkdir(parents=True)
    config = place / "agent.toml"
    config.write_text(
        f"""
        [server]
        host = "127.0.0.1"
        port = 0
        workers = 4
        workers_per_assignment = {TRANSFERS // 4}
        [metrics]
        host = "127.0.0.1"
        port = 0
        [storage]
        manta_root = "{place}/manta"
        state_dir = "{place}/state"
        reserve_mb = 0
        durable = {str(durable).lower()}
        [source]
        port = {port}
        [hosts]
        "1.stor.lab" = "127.0.0.1"
        """
    )
    command = [sys.executable, "-m", "rebalancer", "agent", "-c", str(config)]
    with (place / "log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = listening(place / "log", popen)
        time.sleep(1)  # until its fetchers are up: an agent runs for months
        yield address, popen
    finally:
        popen.send_signal(signal.SIGTERM)
        popen.wait(10)


def agent(dataset: Set, folder: Path, port: int, durable: bool) -> Run:
    """From the first POST until the last assignment is complete."""
    place = folder.parent / "agent"
    with running_agent(place, port, durable=durable) as (address, popen):
        peak = Peak(popen.pid)
        peak.start()
        cpu = cpu_seconds(popen.pid)
        begun = time.monotonic()
        work_off(address, assignments(dataset))
        wall = time.monotonic() - begun
        cpu = cpu_seconds(popen.pid) - cpu
        peak.stop()
    folder.rmdir()
    (place / "manta" / OWNER).rename(folder)
    shutil.rmtree(place)
    return Run(wall, cpu, peak.rss)


def listening(log: Path, popen: "subprocess.Popen[bytes]") -> str:
    while popen.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (told := json.loads(line))["msg"] == "listening":
                return str(told["api"])
        time.sleep(0.02)
    sys.exit(f"the agent did not start: {log.read_text()}")


def assignments(dataset: Set) -> list[tuple[str, bytes]]:
    """Ids and bodies of all assignments."""
    source = {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}
    made = []
    for start in range(0, len(dataset.objects), TASKS):
        name = str(uuid.uuid4())
        tasks = [
            {
                "object_id": one.name,
                "owner": OWNER,
                "md5sum": base64.b64encode(one.md5).decode(),
                "source": source,
                "status": "Pending",
            }
            for one in dataset.objects[start : start + TASKS]
        ]
        made.append((name, json.dumps({"id": name, "tasks": tasks}).encode()))
    return made


def client(address: str) -> Callable[..., bytes]:
    """Calls of an agent's API over one connection."""
    connection = http.client.HTTPConnection(address)

    def ask(method: str, path: str, body: bytes | None = None) -> bytes:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        assert reply.status == 200, content
        return content

    return ask


def work_off(address: str, bodies: list[tuple[str, bytes]]) -> None:
    """Post all, then ask for each in turn until it is complete."""
    ask = client(address)
    for _, body in bodies:
        ask("POST", "/assignments", body)
    for name, _ in bodies:
        while True:
            state = json.loads(ask("GET", f"/assignments/{name}"))["stats"]["state"]
            if isinstance(state, dict):
                assert state == {"Complete": None}, state
                break
            time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    except OSError:
        pass
    return found


def cpu_seconds(pid: int) -> float:
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Peak(threading.Thread):
    """The greatest sum of resident bytes of a process and its children (shared ones once each)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._end, self.rss = pid, threading.Event(), 0

    def run(self) -> None:
        while not self._end.wait(0.1):
            total = 0
            for one in family(self._pid):
                try:
                    pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
                except OSError:
                    continue
                total += pages * os.sysconf("SC_PAGE_SIZE")
            self.rss = max(self.rss, total)

    def stop(self) -> None:
        self._end.set()
        self.join()


# --- rounds and the table ------------------------------------------------------------------

CONTENDERS: dict[str, Contender] = {
    "agent": agent,
    "curl+md5sum": curl,
    "rclone": rclone,
    "aria2c": aria2c,
}
#: rclone has no digest to check over plain HTTP.
UNVERIFIED = {"rclone"}


@attrs.frozen
class Setting:
    """A row of the comparison."""

    dataset: str
    place: str  # tmpfs or disk
    keepalive_s: int = 60

    def __str__(self) -> str:
        return f"{self.dataset} {self.place}{'' if self.keepalive_s else ' close'}"


SETTINGS = [
    Setting("4k", "tmpfs"),
    Setting("4k", "disk"),
    Setting("4k", "tmpfs", 0),
    Setting("256k", "tmpfs"),
    Setting("256k", "disk"),
    Setting("256m", "tmpfs"),
    Setting("256m", "disk"),
]


def measure(
    setting: Setting, dataset: Set, folder: Path, rounds: int, names: list[str]
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in names}
    if (program := find_program("nginx")) is None:
        sys.exit("nginx is not installed: there is nothing to pull from")
    with serving(program, folder, dataset.root, setting.keepalive_s) as port:
        for _ in range(rounds):
            for name in names:
                target = folder / "target"
                target.mkdir()
                os.sync()
                durable = setting.place == "disk"
                runs[name].append(CONTENDERS[name](dataset, target, port, durable))
                check(dataset, target)
                shutil.rmtree(target)
    return runs


def add_rows(table: Table, setting: Setting, dataset: Set, runs: dict[str, list[Run]]) -> None:
    walls = {name: statistics.median(run.wall_s for run in of) for name, of in runs.items()}
    for name, of in runs.items():
        ratio = walls[name] / walls["agent"] if "agent" in walls else 0.0
        table.add_row(
            str(setting),
            name + (" (unverified)" if name in UNVERIFIED else ""),
            f"{len(dataset.objects) / walls[name]:,.0f}",
            f"{dataset.size / walls[name] / 1e6:,.0f}",
            f"{min(r.wall_s for r in of):.2f} {walls[name]:.2f} {max(r.wall_s for r in of):.2f}",
            f"{statistics.median(run.cpu_s for run in of):.2f}",
            f"{max(run.rss for run in of) / (1 << 20):.0f}",
            "" if name == "agent" else f"{ratio:.2f}",
        )
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="settings that contain this text")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of each set's objects")
    options = parser.parse_args()
    names = []
    for name in options.contenders.split(","):
        if name == "agent" or shutil.which(name.partition("+")[0]):
            names.append(name)
        else:
            print(f"left out: {name} is not installed")
    table = Table(
        *("set", "contender", "objects/s", "MB/s", "wall s: min med max", "CPU s", "RSS MiB"),
        "agent / it",
        title=f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {options.rounds} rounds",
    )
    shm = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as memory,
        tempfile.TemporaryDirectory(dir=Path.cwd()) as disk,
    ):
        sets: dict[str, Set] = {}
        for setting in SETTINGS:
            if options.only not in str(setting):
                continue
            if setting.dataset not in sets:
                for old in sets.values():
                    shutil.rmtree(old.root)
                count, size = SETS[setting.dataset]
                count = max(1, int(count * options.scale))
                made = make_set(setting.dataset, Path(memory), count, size)
                sets = {setting.dataset: made}
            dataset = sets[setting.dataset]
            folder = Path(memory if setting.place == "tmpfs" else disk)
            add_rows(
                table, setting, dataset, measure(setting, dataset, folder, options.rounds, names)
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
