"""A campaign is many runs, a few at a time, and a table of what they came to."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import attrs
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rebalancer_devregion.chaos.run import Result, remove, run
from rebalancer_devregion.chaos.schedule import Schedule, make_schedule


@attrs.frozen
class Wishes:
    """Wishes say how much a campaign runs: from which seed on, how long, how many at a time."""

    seed: int
    minutes: float
    runs: int | None = None
    at_a_time: int = 1
    #: Whether disks can be made that can be filled.
    mounts: bool = False


@attrs.define
class Campaign:
    """A campaign has the results of all runs so far.  Mutable state: these results."""

    results: list[Result] = attrs.field(factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether there was a run, and nothing was wrong in any."""
        return bool(self.results) and all(result.ok for result in self.results)

    def table(self) -> Table:
        """Show what the runs came to."""
        results = self.results
        faults = sum((result.faults for result in results), Counter[str]())
        table = Table("", "", title="chaos", show_header=False)
        rows: list[tuple[str, int | str]] = [
            ("runs", len(results)),
            ("seconds of runs", round(sum(result.seconds for result in results))),
            ("faults", sum(faults.values())),
            *((f"  {kind}", faults[kind]) for kind in sorted(faults)),
            ("records audited", sum(result.records for result in results)),
            ("looks of the monitor", sum(result.looks for result in results)),
            ("violations", sum(len(result.violations) for result in results)),
            ("jobs failed", sum(result.end.startswith("Failed") for result in results)),
            ("jobs hung", sum(result.end == "hung" for result in results)),
            ("jobs lost", sum(result.end == "lost" for result in results)),
            ("seeds to look at", " ".join(str(r.seed) for r in results if not r.ok) or "none"),
        ]
        for name, value in rows:
            table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
        return table


async def campaign(console: Console, wishes: Wishes) -> bool:
    """Run until the time is over; return whether nothing was wrong."""
    done = Campaign()
    until = time.monotonic() + wishes.minutes * 60
    seeds = count(wishes.seed) if wishes.runs is None else _range(wishes.seed, wishes.runs)
    if not wishes.mounts:
        console.out("no disk can be mounted here: full disks are left out")
    async with trio.open_nursery() as nursery:
        for _ in range(wishes.at_a_time):
            nursery.start_soon(_work, console, wishes, seeds, until, done)
    console.print(done.table())
    return done.ok


def _range(seed: int, runs: int) -> Iterator[int]:
    return iter(range(seed, seed + runs))


async def _work(
    console: Console, wishes: Wishes, seeds: Iterator[int], until: float, done: Campaign
) -> None:
    for seed in seeds:
        if wishes.runs is None and time.monotonic() >= until:
            return
        schedule = make_schedule(seed, disks=wishes.mounts)
        _show(console, schedule)
        parent = Path(tempfile.mkdtemp(prefix=f"manta-chaos-{seed}-"))
        result = await run(schedule, parent / "region", mounts=wishes.mounts)
        done.results.append(result)
        verdict = "ok" if result.ok else "FAILED"
        console.out(
            f"seed {seed}: {verdict}, {result.end} after {result.job_s:.1f} s,"
            f" {sum(result.faults.values())} faults, {result.records:,} records audited,"
            f" {result.looks} looks   ({result.seconds:.1f} s)"
        )
        for text in result.violations:
            console.print(f"[bold red]seed {seed}[/] {escape(text)}")
        if result.ok:
            await trio.to_thread.run_sync(remove, parent)
        else:
            console.out(f"seed {seed}: its region is left in {parent}")


def _show(console: Console, schedule: Schedule) -> None:
    users = ", with users" if schedule.users else ""
    console.out(f"seed {schedule.seed}: {schedule.objects} objects{users}")
    for fault in schedule.faults:
        console.out(f"seed {schedule.seed}: {fault}")
