"""A schedule is what happens to a region in one run, decided by the run's seed alone.

Pure: the same seed gives the same region, the same settings and the same faults at the same
seconds.  What the faults meet depends on the machine's timing as well, so a seed that fails once
fails again often, not always.
"""

import enum
import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

#: Nodes of a region, the first of them evacuated; the fewest on which every kind has a way out.
NODES = 5
SHARDS = (1, 2)
#: Faults begin within so many seconds of the job's creation.
HORIZON_S = 7.0
#: Faults of a run.
FEWEST, MOST = 3, 9
#: One run in so many has users and a front end who change objects meanwhile.
USERS_IN = 3


class FaultKind(enum.StrEnum):
    """A kind of fault is what is done to parts of a region, or to links between them."""

    KILL = "kill"  # SIGKILL, and a new start after a while
    STOP = "stop"  # SIGSTOP, and SIGCONT after a while
    RESTART = "restart"  # SIGTERM, and a new start after a while
    CUT = "cut"  # all connections of a link end now
    REFUSE = "refuse"  # they end, and new ones are refused for a while
    SILENCE = "silence"  # nothing comes through for a while
    DELAY = "delay"  # everything comes late for a while
    FILES = "files"  # a process can open no more files for a while
    DISK = "disk"  # a disk is full for a while
    PAUSE = "pause"  # the operator pauses the job, and resumes it after a while
    SECOND = "second"  # another process is started on the same folder of state


@attrs.frozen
class Fault:
    """A fault begins `at` seconds after the job's creation, hits its targets, and lasts a while."""

    at: float
    kind: FaultKind
    targets: tuple[str, ...]
    lasts: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.lasts:.1f} s" if self.lasts else ""
        whom = f" {' '.join(self.targets)}" if self.targets else ""
        return f"{self.at:4.1f} s: {self.kind}{whom}{lasting}"


@attrs.frozen
class Schedule:
    """A schedule is one run: its region, the settings of its programs, its faults in order."""

    seed: int
    objects: int
    users: bool
    #: Seconds by which everything between the manager and the others is late, always.
    late_s: float
    #: Keys of the manager's configuration.
    manager_options: Mapping[str, Any]
    #: Keys of the agents' `[server]`.
    agent_server: Mapping[str, int]
    faults: tuple[Fault, ...]


AGENTS = tuple(f"agent-{number}" for number in range(2, NODES + 1))
FETCHERS = tuple(f"fetchers-{number}" for number in range(2, NODES + 1))
SOURCES = tuple(f"source-{number}" for number in range(1, NODES + 1))
MORAYS = tuple(f"moray-{number}" for number in SHARDS)
SERVERS = (*MORAYS, "storinfo", "nodes")
#: Every process, by the names that faults use.
PARTS = ("manager", *AGENTS, *SERVERS)
#: Every connection that a fault can hit, by the name of its server's end.
LINKS = (*MORAYS, "storinfo", *AGENTS, *SOURCES)

#: How often each kind is drawn.
_WEIGHTS = {
    FaultKind.KILL: 8,
    FaultKind.STOP: 4,
    FaultKind.RESTART: 3,
    FaultKind.CUT: 4,
    FaultKind.REFUSE: 3,
    FaultKind.SILENCE: 2,
    FaultKind.DELAY: 2,
    FaultKind.FILES: 1,
    FaultKind.DISK: 2,
    FaultKind.PAUSE: 1,
    FaultKind.SECOND: 1,
}
_ON_LINKS = (FaultKind.CUT, FaultKind.REFUSE, FaultKind.SILENCE, FaultKind.DELAY)


def make_schedule(seed: int, *, disks: bool = True) -> Schedule:
    """Make the schedule of `seed`; without `disks`, faults that need a small one are left out."""
    rng = random.Random(seed)
    users = rng.randrange(USERS_IN) == 0
    objects = rng.randrange(60, 200)
    late_s = rng.choice((0.0, 0.005, 0.02))
    options = {
        "agent_timeout": 120,
        "delete_assignments": rng.random() < 0.7,
        "options": {
            "max_tasks_per_assignment": rng.choice((1, 2, 4, 10)),
            "max_assignments_per_shark": rng.randrange(1, 4),
            "max_metadata_update_threads": rng.randrange(1, 9),
            "md_read_chunk_size": rng.choice((10, 100, 10_000)),
            "use_batched_updates": rng.random() < 0.8,
        },
    }
    server = {"workers_per_assignment": rng.randrange(1, 5), "fetchers": rng.randrange(1, 3)}
    times = sorted(round(rng.uniform(0, HORIZON_S), 1) for _ in range(rng.randrange(FEWEST, MOST)))
    faults = tuple(_fault(rng, at, users=users) for at in times)
    chosen = tuple(fault for fault in faults if disks or fault.kind is not FaultKind.DISK)
    return Schedule(seed, objects, users, late_s, options, server, chosen)


def _fault(rng: random.Random, at: float, *, users: bool) -> Fault:
    (kind,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    lasts = round(rng.choice((rng.uniform(0.1, 1.0), rng.uniform(0.5, 5.0))), 1)
    if kind in _ON_LINKS:
        return Fault(at, kind, _links(rng), 0.0 if kind is FaultKind.CUT else lasts)
    if kind is FaultKind.PAUSE:
        return Fault(at, kind, (), lasts)
    if kind in (FaultKind.FILES, FaultKind.DISK, FaultKind.SECOND):
        target = rng.choice(("manager", rng.choice(AGENTS)))
        if users and kind is FaultKind.DISK:
            target = "manager"  # users' own files need room on the nodes
        return Fault(at, kind, (target,), 0.0 if kind is FaultKind.SECOND else lasts)
    if rng.randrange(5) == 0 and kind is not FaultKind.RESTART:
        return Fault(at, kind, (rng.choice(FETCHERS),), lasts)
    return Fault(at, kind, _parts(rng, users=users), lasts)


def _parts(rng: random.Random, *, users: bool) -> tuple[str, ...]:
    """Draw one part, several, all agents, all shards, or everything."""
    # Users keep a journal of what they did, so their own requests must not be lost.
    parts = [part for part in PARTS if not (users and part in MORAYS)]
    groups: Sequence[Sequence[str]] = (AGENTS, SERVERS, MORAYS, PARTS)
    draw = rng.randrange(10)
    if draw < 6:
        return (rng.choice(("manager", rng.choice(parts))),)
    if draw < 8:
        return tuple(sorted(rng.sample(parts, rng.randrange(2, 4))))
    group = [part for part in rng.choice(groups) if part in parts]
    return tuple(group or AGENTS)


def _links(rng: random.Random) -> tuple[str, ...]:
    groups: Sequence[Sequence[str]] = (AGENTS, MORAYS, SOURCES, LINKS)
    if rng.randrange(4):
        return tuple(sorted(rng.sample(LINKS, rng.randrange(1, 3))))
    return tuple(rng.choice(groups))
