"""This benchmark has the agent, curl, libcurl, rclone and aria2c pull the same objects in turns.

Every contender pulls a whole set into an empty folder, sixteen objects at a time, and what it
pulled is checked.  An agent is a real process and is given assignments over its API; its time is
from the first POST until the last assignment is known to be complete.  What it costs to delete the
assignments afterwards is a figure of its own.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import attrs
from agentclient import TASKS, Client, assignments, delete_all, work_off
from agentprocess import RunningAgent, running_agent, running_rust_agent
from harness import Contender, Session, in_memory, on_disk, parser, session
from instructions import Counter, Uncountable, find_counter
from objects import OWNER, Set, check, make_set
from peers import PEERS, Peer, is_installed
from processes import Cost, Cpu, watched
from products import add_option, products
from results import Figure, Round

from rebalancer_devregion.nginx import serving
from rebalancer_devregion.processes import find_program

SETS = {"4k": (10_000, 4 << 10), "256k": (2_000, 256 << 10), "256m": (6, 256 << 20)}
#: Objects of a set whose instructions are counted, in whole assignments.
COUNTED = 20 * TASKS
#: Who takes minutes on disk for sets that take the others seconds.
SLOW_ON_DISK = {"aria2c"}
FIGURES = {
    "objects": Figure("/s", "more"),
    "throughput": Figure("MB/s", "more"),
    "wall": Figure("s", "less"),
    "CPU": Figure("us/object", "less"),
    "main": Figure("CPU us/object", "less"),
    "fetchers": Figure("CPU us/object", "less"),
    "DELETE": Figure("CPU us/object", "less"),
    "start": Figure("CPU s", "less"),
    "RSS": Figure("MiB", "less"),
    "PSS": Figure("MiB", "less"),
    "instructions": Figure("1000/object", "less"),
    "start instructions": Figure("million", "less"),
}


@attrs.frozen
class Setting:
    """A setting is a table of the comparison."""

    dataset: str
    place: str  # tmpfs or disk
    keepalive_s: int = 60

    def __str__(self) -> str:
        return f"{self.dataset} {self.place}{'' if self.keepalive_s else ' close'}"

    @property
    def durable(self) -> bool:
        """Tell whether what is pulled has to be on a disk at the end."""
        return self.place == "disk"


SETTINGS = [
    Setting("4k", "tmpfs"),
    Setting("4k", "disk"),
    Setting("4k", "tmpfs", 0),
    Setting("256k", "tmpfs"),
    Setting("256k", "disk"),
    Setting("256m", "tmpfs"),
    Setting("256m", "disk"),
]


@attrs.frozen
class Bench:
    """A bench is a setting that is ready: its objects, the port of their source, a folder."""

    setting: Setting
    dataset: Set
    folder: Path
    port: int

    def contender(self, name: str, programs: dict[str, str], rust: str | None) -> Contender:
        """Return what runs a contender by its name."""
        if name in programs:
            return partial(self.agent, programs[name])
        if name == "Rust agent":
            assert rust is not None
            return partial(self.rust_agent, rust)
        return partial(self.peer, PEERS[name])

    def peer(self, run: Peer) -> Round:
        """Let a peer pull the set."""
        target = self.folder / "target"
        target.mkdir()
        cost = run(self.dataset, target, self.port)
        check(self.dataset, target)
        shutil.rmtree(target)
        return figures(self.dataset, cost)

    def agent(self, program: str) -> Round:
        """Let an agent of this project pull the set."""
        place = self.folder / "agent"
        durable = self.setting.durable
        return self._pull(place, running_agent(place, self.port, durable=durable, program=program))

    def rust_agent(self, program: str) -> Round:
        """Let the deployed agent pull the set."""
        place = self.folder / "agent"
        return self._pull(place, running_rust_agent(place, self.port, program=program))

    def _pull(self, place: Path, running: AbstractContextManager[RunningAgent]) -> Round:
        with running as agent:
            client = Client(agent.address)
            wanted = assignments(self.dataset.objects, agent.address, agent.source)
            with watched(agent.pid) as memory:
                before, begun = Cpu.of(agent.pid), time.monotonic()
                work_off(client, wanted)
                wall, pulled = time.monotonic() - begun, Cpu.of(agent.pid)
            delete_all(client, wanted)
            deleted = Cpu.of(agent.pid) - pulled
            client.close()
        check(self.dataset, agent.root / OWNER)
        shutil.rmtree(place)
        cpu, each = pulled - before, 1e6 / len(self.dataset.objects)
        return figures(self.dataset, Cost(wall, cpu.total, memory.rss, memory.pss)) | {
            "main": cpu.main * each,
            "fetchers": cpu.children * each,
            "DELETE": deleted.total * each,
            "start": agent.start.total,
        }

    def instructions(self, program: str, counter: Counter) -> Round:
        """Count what an object costs, as the difference between many and one assignment."""
        few, many = (self._counted(program, counter, count) for count in (TASKS, COUNTED))
        return {
            "instructions": (many - few) / (COUNTED - TASKS) / 1e3,
            "start instructions": few / 1e6,
        }

    def _counted(self, program: str, counter: Counter, count: int) -> int:
        """Return the instructions of an agent from its start to its end."""
        place = self.folder / "agent"
        out = place / "instructions"

        def wrap(command: Sequence[str]) -> list[str]:
            return counter.wrap(command, out)

        with running_agent(place, self.port, durable=False, program=program, wrap=wrap) as agent:
            client = Client(agent.address)
            wanted = assignments(self.dataset.objects[:count], agent.address, agent.source)
            work_off(client, wanted)
            delete_all(client, wanted)
            client.close()
        total = counter.total(out)
        shutil.rmtree(place)
        return total


def figures(dataset: Set, cost: Cost) -> Round:
    """Return the figures that every contender has."""
    count = len(dataset.objects)
    return {
        "objects": count / cost.wall_s,
        "throughput": dataset.size / cost.wall_s / 1e6,
        "wall": cost.wall_s,
        "CPU": cost.cpu_s / count * 1e6,
        "RSS": cost.rss / (1 << 20),
        "PSS": cost.pss / (1 << 20),
    }


# --- what is run ---------------------------------------------------------------------------


def names_of(options: argparse.Namespace, programs: dict[str, str]) -> Iterator[str]:
    """Yield the contenders that were asked for and are there."""
    yield from programs
    if options.rust_agent:
        yield "Rust agent"
    for name in options.peers.split(","):
        if name and is_installed(name):
            yield name
        elif name:
            print(f"left out: {name} is not installed")


def contenders(
    bench: Bench, options: argparse.Namespace, counter: Counter | None
) -> dict[str, Contender]:
    """Return what takes part in a setting."""
    programs = {n: p.rebalancer for n, p in products(options.product, "agent").items()}
    if counter is not None:
        return {n: partial(bench.instructions, p, counter) for n, p in programs.items()}
    found = {}
    for name in names_of(options, programs):
        if name in SLOW_ON_DISK if bench.setting.durable else "durable" in name:
            continue
        found[name] = bench.contender(name, programs, options.rust_agent)
    return found


def run(made: Session, options: argparse.Namespace, memory: Path, disk: Path) -> None:
    """Measure all settings that were asked for."""
    if (nginx := find_program("nginx")) is None:
        sys.exit("nginx is not installed: there is nothing to pull from")
    counter = None
    if options.instructions:
        try:
            counter = find_counter(memory)
        except Uncountable as exc:
            sys.exit(str(exc))
        made.tell(f"instructions are counted by {counter.name}")
    sets: dict[str, Set] = {}
    for setting in SETTINGS:
        wanted = any(text in str(setting) for text in options.only)
        if not wanted or (counter and str(setting) != "4k tmpfs"):
            continue
        if setting.dataset not in sets:
            for old in sets.values():
                shutil.rmtree(old.root)
            count, size = SETS[setting.dataset]
            count = COUNTED if counter else max(1, int(count * options.scale))
            sets = {setting.dataset: make_set(setting.dataset, memory, count, size)}
        dataset = sets[setting.dataset]
        folder = disk if setting.durable else memory
        with serving(nginx, folder, dataset.root, setting.keepalive_s) as port:
            bench = Bench(setting, dataset, folder, port)
            made.measure(str(setting), contenders(bench, options, counter))


def main() -> None:
    options_of = parser(__doc__, rounds=5)
    options_of.add_argument(
        "--only", nargs="+", default=[""], help="settings that contain one of these texts"
    )
    options_of.add_argument("--peers", default=",".join(PEERS), help="'' for none")
    options_of.add_argument("--scale", type=float, default=1.0, help="share of each set's objects")
    add_option(options_of)
    options_of.add_argument("--rust-agent", metavar="PROGRAM", help="the deployed agent")
    options_of.add_argument(
        "--instructions", action="store_true", help="count them instead, of agents at 4k tmpfs"
    )
    options = options_of.parse_args()
    if not any(text in str(setting) for setting in SETTINGS for text in options.only):
        options_of.error(f"--only: expected a part of one of {', '.join(map(str, SETTINGS))}")
    if unknown := set(filter(None, options.peers.split(","))) - set(PEERS):
        told = ", ".join(sorted(unknown))
        options_of.error(f"--peers: expected some of {', '.join(PEERS)}; got {told}")
    with (
        tempfile.TemporaryDirectory(dir=in_memory()) as memory,
        tempfile.TemporaryDirectory(dir=on_disk()) as disk,
        session("agent", FIGURES, options, {"memory": Path(memory), "disk": Path(disk)}) as made,
    ):
        run(made, options, Path(memory), Path(disk))


if __name__ == "__main__":
    main()
