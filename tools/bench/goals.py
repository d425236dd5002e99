"""This module has the goals of performance, and finds in results how far each is met."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import attrs
from results import Results, Row, ratios

#: Results by the name of their benchmark.
Runs = Mapping[str, Results]
#: Finds the values of a goal, one for each round, or none where they were not measured.
Find = Callable[[Runs], Sequence[float]]

RUST = "Rust agent"
#: What checks each object that it pulls.
VERIFYING = ("curl+md5sum", "aria2c", RUST)


@attrs.frozen
class Recorded:
    """This figure of the deployed agent was measured once, elsewhere, for want of one here."""

    setting: str
    figure: str
    value: float


RECORDED = (
    Recorded("4k tmpfs", "objects", 10_425),
    Recorded("4k tmpfs", "CPU", 147),
    Recorded("256k tmpfs", "throughput", 503),
    Recorded("256m tmpfs", "throughput", 565),
)
ORIGIN = (
    "The deployed Rust agent was measured once on a machine of the same kind, when that was quiet:"
    " the same sets on tmpfs, 16 objects at a time, 50 tasks an assignment, the median of three"
    " interleaved rounds.  It used 15 to 27 MiB."
)


@attrs.frozen
class Goal:
    """A goal is a bound, and where to find what it bounds."""

    what: str
    bound: float
    at_least: bool
    find: Find
    command: str

    def is_met_by(self, value: float) -> bool:
        """Return whether a value is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@attrs.frozen
class Outcome:
    """An outcome tells how a goal stands: the values of its rounds, of which there may be none."""

    goal: Goal
    values: Sequence[float]

    @property
    def verdict(self) -> str:
        """Return in words whether the median meets the goal, and whether all rounds agree."""
        if not self.values:
            return "not measured"
        is_met = self.goal.is_met_by(median(self.values))
        agreeing = sum(self.goal.is_met_by(value) is is_met for value in self.values)
        verdict = "met" if is_met else "missed"
        if agreeing == len(self.values):
            return verdict
        return f"{verdict}, in {agreeing} of {len(self.values)} rounds"


def outcomes(runs: Runs, goals: Sequence[Goal] | None = None) -> list[Outcome]:
    """Return how all goals stand."""
    return [Outcome(goal, goal.find(runs)) for goal in (GOALS if goals is None else goals)]


# --- where values are found ----------------------------------------------------------------


def figure(bench: str, setting: str, contender: str, name: str) -> Find:
    """Find a figure as it is."""

    def find(runs: Runs) -> Sequence[float]:
        row = _row(runs, bench, setting, contender)
        return [] if row is None else row.values(name)

    return find


def ratio(bench: str, setting: str, name: str, of: str, to: str) -> Find:
    """Find how many times the figure of contender `to` that of contender `of` is."""

    def find(runs: Runs) -> Sequence[float]:
        return _ratio(_row(runs, bench, setting, of), _row(runs, bench, setting, to), name)

    return find


def against_the_best(setting: str) -> Find:
    """Find the throughput of the agent against that of the best peer that verifies."""

    def find(runs: Runs) -> Sequence[float]:
        rows = [_row(runs, "agent", setting, name) for name in VERIFYING]
        peers = [row for row in rows if row is not None and row.values("throughput")]
        if not peers:
            return []
        best = max(peers, key=lambda row: median(row.values("throughput")))
        return _ratio(_row(runs, "agent", setting, "agent"), best, "throughput")

    return find


def against_rust(name: str, *, invert: bool) -> Find:
    """Find a figure at 4 KiB against the deployed agent's, of the same run if it took part."""

    def find(runs: Runs) -> Sequence[float]:
        ours = _row(runs, "agent", "4k tmpfs", "agent")
        theirs = _row(runs, "agent", "4k tmpfs", RUST)
        if theirs is not None:
            found = _ratio(ours, theirs, name)
        else:
            (value,) = [r.value for r in RECORDED if (r.setting, r.figure) == ("4k tmpfs", name)]
            found = [] if ours is None else [one / value for one in ours.values(name)]
        return [1 / one for one in found] if invert else found

    return find


def beyond_storing(setting: str) -> Find:
    """Find what discovery takes beyond what storing takes, against the floor."""

    def find(runs: Runs) -> Sequence[float]:
        rows = [_row(runs, "discovery", setting, name) for name in ("ours", "storing", "floor")]
        if any(row is None for row in rows):
            return []
        ours, storing, floor = (row.values("wall") for row in rows if row is not None)
        return ratios([a - b for a, b in zip(ours, storing, strict=True)], floor)

    return find


def _row(runs: Runs, bench: str, setting: str, contender: str) -> Row | None:
    return runs[bench].row(setting, contender) if bench in runs else None


def _ratio(of: Row | None, to: Row | None, name: str) -> list[float]:
    if of is None or to is None:
        return []
    return ratios(of.values(name), to.values(name))


# --- the goals -----------------------------------------------------------------------------


def _agent(only: str, peers: str) -> str:
    return f"tools/bench/agent --only '{only}' --peers '{peers}'"


def _manager(tasks: int) -> Goal:
    return Goal(
        f"manager: CPU against its floor, {tasks} tasks an assignment",
        2.5 if tasks == 200 else 3.5,
        False,
        figure("manager", f"20,000 objects, {tasks} tasks an assignment", "manager", "x floor"),
        f"tools/bench/manager --tasks {tasks}",
    )


CURL, DURABLE = "curl+md5sum", "curl+md5sum durable"
GOALS = (
    Goal(
        "agent, 4 KiB: objects a second against curl+md5sum",
        1.0,
        True,
        ratio("agent", "4k tmpfs", "objects", "agent", CURL),
        _agent("4k tmpfs", CURL),
    ),
    Goal(
        "agent, 4 KiB: us of CPU an object, all processes",
        100,
        False,
        figure("agent", "4k tmpfs", "agent", "CPU"),
        _agent("4k tmpfs", ""),
    ),
    Goal(
        "agent, 4 KiB: MiB of RSS, the sum of its processes' peaks",
        70,
        False,
        figure("agent", "4k tmpfs", "agent", "RSS"),
        _agent("4k tmpfs", ""),
    ),
    Goal(
        "agent, 4 KiB: objects a second against the deployed Rust agent",
        1.8,
        True,
        against_rust("objects", invert=False),
        _agent("4k tmpfs", ""),
    ),
    Goal(
        "agent, 4 KiB: CPU of the deployed Rust agent against ours",
        1.4,
        True,
        against_rust("CPU", invert=True),
        _agent("4k tmpfs", ""),
    ),
    Goal(
        "agent, 4 KiB, the source closes: objects a second against curl+md5sum",
        1.5,
        True,
        ratio("agent", "4k tmpfs close", "objects", "agent", CURL),
        _agent("4k tmpfs close", CURL),
    ),
    Goal(
        "agent, 4 KiB, durable on disk: objects a second against curl+md5sum and `sync -f`",
        1.0,
        True,
        ratio("agent", "4k disk", "objects", "agent", DURABLE),
        _agent("4k disk", DURABLE),
    ),
    Goal(
        "agent, 256 KiB: bytes a second against the best peer that verifies",
        1.2,
        True,
        against_the_best("256k tmpfs"),
        _agent("256k tmpfs", f"{CURL},aria2c"),
    ),
    Goal(
        "agent, 256 MiB: bytes a second against the best peer that verifies",
        1.5,
        True,
        against_the_best("256m tmpfs"),
        _agent("256m tmpfs", f"{CURL},aria2c"),
    ),
    Goal(
        "agent: s of CPU from its start until it listens",
        0.5,
        False,
        figure("agent", "4k tmpfs", "agent", "start"),
        _agent("4k tmpfs", ""),
    ),
    _manager(200),
    _manager(50),
    Goal(
        "manager: RSS with 5,000,000 objects against that with 100,000",
        1.1,
        False,
        ratio(
            "scale",
            "1,000 nodes, 100 shards, 1 job",
            "RSS",
            "5,000,000 objects",
            "100,000 objects",
        ),
        "tools/bench/scale --objects 5000000 --against 100000",
    ),
    Goal(
        "discovery: wall time beyond storing against a filtered COPY",
        1.1,
        False,
        beyond_storing("300,000 rows"),
        "tools/bench/discovery",
    ),
    Goal(
        "metadata: updates a second in batches against a get and a put each",
        5,
        True,
        ratio("metadata", "QUICKACK, 10 updaters", "updates", "batches of 50", "get and put"),
        "tools/bench/metadata --updaters 10 --only ', QUICKACK'",
    ),
)
