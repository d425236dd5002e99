"""This module runs the rounds of a benchmark and tells of them: what all benchmarks share.

A benchmark makes a `parser()`, opens a `session()` and calls its `measure()` for each setting, with
a function for each contender that runs it once and returns its figures.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
from heading import ROOT, make_heading, noise_at_end, warning
from results import Figure, Heading, Results, Round, Row, Summary, shown
from rich import box
from rich.console import Console
from rich.table import Table

#: What git ignores here: results, and folders to work in.
KEPT = ROOT / "bench-results"
#: Runs a contender once.
Contender = Callable[[], Round]


def _at_least_one(text: str) -> int:
    """Return the whole number of 1 or more that `text` is; for argparse, which names the option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text}")
    return number


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--rounds", type=_at_least_one, default=rounds, help="of each contender, in turns"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="where all rounds are kept")
    return made


def on_disk() -> Path:
    """Return the folder below which a benchmark may make folders that are to be on a disk."""
    KEPT.mkdir(exist_ok=True)
    return KEPT


def in_memory() -> Path | None:
    """Return the folder below which a benchmark may make folders in memory, if there is one."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else None


@attrs.define
class Session:
    """A session is a run of a benchmark that is under way."""

    results: Results
    path: Path
    rounds: int
    console: Console

    def measure(
        self, setting: str, contenders: Mapping[str, Contender], *, warm_up: int = 0
    ) -> list[Row]:
        """Run all contenders in turns; print, keep and return their rows.

        The first `warm_up` rounds are not counted.
        """
        rows = {name: Row(setting, name, []) for name in contenders}
        for number in range(-warm_up, self.rounds):
            for name in turn(list(contenders), number):
                figures = contenders[name]()
                if number >= 0:
                    rows[name].rounds.append(figures)
        return self.add(list(rows.values()))

    def add(self, rows: list[Row]) -> list[Row]:
        """Print and keep the rows of one setting."""
        self.results.rows += rows
        self.results.save(self.path)
        self.console.print(table_of(rows, self.results.figures))
        return rows

    def record(self, setting: str, contender: str, figures: Round) -> None:
        """Keep one more round of a row, for benchmarks that print what they find themselves."""
        if (row := self.results.row(setting, contender)) is None:
            self.results.rows.append(row := Row(setting, contender, []))
        row.rounds.append(figures)
        self.results.save(self.path)

    def tell(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def turn(names: list[str], number: int) -> list[str]:
    """Return the order of a round: each time another one begins, as the first has colder caches."""
    first = number % len(names) if names else 0
    return names[first:] + names[:first]


@contextmanager
def session(
    bench: str,
    figures: Mapping[str, Figure],
    options: argparse.Namespace,
    folders: Mapping[str, Path],
) -> Iterator[Session]:
    """Print the heading, run the benchmark, and keep its results also if it is cut short.

    `folders` are those that it works in, by what they are called.
    """
    console = Console(width=None if sys.stdout.isatty() else 180)
    heading = make_heading(folders)
    name = f"{bench}-{heading.measured.replace(':', '')[:17]}.json"
    path = options.json or KEPT / name
    made = Session(Results(bench, heading, dict(figures)), path, options.rounds, console)
    for line in describe(bench, heading):
        made.tell(line)
    if (loud := warning(heading.noise)) is not None:
        console.print(loud, style="bold red", highlight=False, soft_wrap=True)
    try:
        yield made
    finally:
        noise = noise_at_end(heading.noise)
        made.results.heading = attrs.evolve(heading, noise=noise)
        made.results.save(path)
        made.tell(
            f"load at the end {noise.load_at_end[0]:.2f}; of the CPUs' time others used"
            f" {noise.others:.0%}, and {noise.stolen:.0%} was stolen"
        )
        made.tell(f"all rounds: {path}")


def describe(bench: str, heading: Heading) -> list[str]:
    """Return the lines of a heading."""
    dirty = " with changes" if heading.is_dirty else ""
    programs = ", ".join(f"{name} {version}" for name, version in heading.programs.items())
    folders = ", ".join(f"{name}: {kind}" for name, kind in heading.file_systems.items())
    loads = " ".join(f"{load:.2f}" for load in heading.noise.load_at_start)
    version = f"{heading.version}, commit {heading.commit}{dirty}"
    return [
        f"{bench}: rebalancer {version}, {heading.measured}",
        f"{heading.cpus} CPUs, {heading.cpu}; load average {loads}; {folders}",
        programs,
        "each figure: the median ± the median of the deviations from it, and below least-most",
    ]


def table_of(rows: list[Row], figures: Mapping[str, Figure]) -> Table:
    """Return a table of contenders: of each figure the median and its deviation, least and most."""
    measured = [name for name in figures if any(row.values(name) for row in rows)]
    rounds = max(len(row.rounds) for row in rows)
    table = Table(
        "",
        title=f"{rows[0].setting}: {rounds} rounds",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in measured:
        table.add_column(f"{name}\n{figures[name].unit}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.contender, *(_cell(row.values(name)) for name in measured))
    return table


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return shown(values[0])
    of = Summary.of(values)
    return f"{shown(of.median)} ±{shown(of.mad)}\n{shown(of.least)}-{shown(of.most)}"
