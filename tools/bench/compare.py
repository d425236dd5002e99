"""This program tells what changed between two runs of a benchmark, or two contenders of one.

Every figure of every row that both have is compared by an exact rank test of its rounds.  It is
better or worse if noise alone would set the rounds as far apart in at most 1 % of cases (--level),
which takes five rounds of each, and if the medians differ by more than 1 % (--least).  Runs at
different times differ by what the machine did meanwhile; rounds of `versus` are neighbours in time.

Exit status: 0, whatever was found; with --fail-on-worse 1 if anything is worse; 2 for wrong usage
and for results that have no figure in common.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
from ranks import LEAST, LEVEL, Change, Verdict, decide
from results import Figure, Results, Row, shown
from rich import box
from rich.console import Console
from rich.table import Table

STYLES = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.SAME: "", Verdict.FEW: "yellow"}


@attrs.frozen
class Line:
    """A line tells of a figure of a row, and how it changed."""

    setting: str
    contender: str
    figure: str
    unit: str
    change: Change


def compare(
    pairs: Iterable[tuple[Row, Row]],
    figures: dict[str, Figure],
    *,
    level: float = LEVEL,
    least: float = LEAST,
) -> Iterator[Line]:
    """Yield a line for each figure that both rows of a pair have."""
    for before, after in pairs:
        for name, figure in figures.items():
            if (old := before.values(name)) and (new := after.values(name)):
                change = decide(old, new, figure.better, level=level, least=least)
                yield Line(after.setting, after.contender, name, figure.unit, change)


def pairs_of_runs(before: Results, after: Results) -> Iterator[tuple[Row, Row]]:
    """Yield the rows that two runs have in common."""
    for row in after.rows:
        if (old := before.row(row.setting, row.contender)) is not None:
            yield old, row


def pairs_of_contenders(results: Results, before: str, after: str) -> Iterator[tuple[Row, Row]]:
    """Yield the rows of two contenders of one run."""
    for row in results.rows:
        if row.contender == after and (old := results.row(row.setting, before)) is not None:
            yield old, row


def table_of(lines: list[Line]) -> Table:
    """Return the table that is printed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("row", "contender", "figure"):
        table.add_column(name)
    for name in ("before", "after", "change", "by noise"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    last = None
    for line in lines:
        row, change = (line.setting, line.contender), line.change
        table.add_row(
            *(row if row != last else ("", "")),
            f"{line.figure}, {line.unit}",
            shown(change.before),
            shown(change.after),
            "" if change.share is None else f"{change.share:+.1%}",
            f"{change.chance:.3f}",
            str(change.verdict),
            style=STYLES[change.verdict],
        )
        last = row
    return table


def as_json(lines: list[Line]) -> str:
    """Return the lines as JSON, for programs."""
    return json.dumps([attrs.asdict(line) for line in lines], indent=2)


def main() -> None:
    options_of = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options_of.add_argument("before", type=Path, metavar="A.json")
    options_of.add_argument("after", type=Path, metavar="B.json", nargs="?")
    options_of.add_argument(
        "--contenders", nargs=2, metavar=("A", "B"), help="of one file, instead of two files"
    )
    options_of.add_argument("--only", default="", help="figures whose names contain this text")
    options_of.add_argument("--level", type=float, default=LEVEL)
    options_of.add_argument("--least", type=float, default=LEAST, metavar="SHARE")
    options_of.add_argument("--json", action="store_true", help="print JSON, not a table")
    options_of.add_argument("--fail-on-worse", action="store_true")
    options = options_of.parse_args()
    if (options.after is None) == (options.contenders is None):
        options_of.error("two files, or one file and --contenders")
    results = Results.load(options.before)
    if options.after is None:
        pairs = pairs_of_contenders(results, *options.contenders)
    else:
        pairs = pairs_of_runs(results, Results.load(options.after))
    figures = {name: one for name, one in results.figures.items() if options.only in name}
    lines = list(compare(pairs, figures, level=options.level, least=options.least))
    if not lines:
        options_of.error("there is no figure that both have")
    if options.json:
        print(as_json(lines))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(table_of(lines))
    if options.fail_on_worse and any(one.change.verdict is Verdict.WORSE for one in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
