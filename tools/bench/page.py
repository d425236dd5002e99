"""This program makes docs/performance.md of the results and the text in docs/performance.

The text, docs/performance/text.md, has a line for each table that belongs into it:

    <!-- goals -->                      each goal, its figure, and whether it is met
    <!-- recorded -->                   the figures of the deployed agent
    <!-- heading BENCH -->              what a benchmark was measured on
    <!-- tables BENCH [SETTING] -->     contenders by figures, of each setting that begins so
    <!-- changes BENCH BEFORE AFTER --> what changed between two contenders beyond noise

With --check nothing is written; the exit status is 1 if the page is not what this program makes.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from compare import compare, pairs_of_contenders
from goals import ORIGIN, RECORDED, Runs, outcomes
from harness import describe
from heading import ROOT
from ranks import Verdict
from results import Figure, Results, Row, Summary, shown, spread

FOLDER, PAGE = ROOT / "docs" / "performance", ROOT / "docs" / "performance.md"
#: More than this share of the CPUs' time used by others spoils times.
LOUD = 0.15
NOTE = "<!-- made by tools/bench/page; the text is in performance/text.md -->\n\n"
_DIRECTIVE = re.compile(r"^<!-- (\w+) ?(.*?) -->$", re.MULTILINE)


def load(folder: Path) -> Runs:
    """Return all results in a folder by their benchmarks."""
    return {one.bench: one for one in map(Results.load, sorted(folder.glob("*.json")))}


def make(text: str, runs: Runs) -> str:
    """Return the page."""

    def table(found: re.Match[str]) -> str:
        name, arguments = found[1], found[2].split(maxsplit=2)
        if name in ("goals", "recorded"):
            return {"goals": goals, "recorded": recorded}[name](runs)
        if (results := runs.get(arguments[0])) is None:
            return "Not measured."
        return TABLES[name](results, *arguments[1:])

    return NOTE + _DIRECTIVE.sub(table, text)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; but for the first, columns are flush right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals(runs: Runs) -> str:
    """Return the table of goals, and how to measure each."""
    found = outcomes(runs)
    rows = [
        (
            f"{number}. {one.goal.what}",
            str(one.goal),
            spread(one.values) if one.values else "",
            one.verdict,
        )
        for number, one in enumerate(found, 1)
    ]
    table = grid(("what", "goal", "measured", ""), rows)
    commands: dict[str, list[str]] = {}
    for number, one in enumerate(found, 1):
        commands.setdefault(one.goal.command, []).append(str(number))
    lines = [f"    {command}    # {', '.join(numbers)}" for command, numbers in commands.items()]
    return table + "\n\nTo measure a row again:\n\n" + "\n".join(lines)


def recorded(_runs: Runs) -> str:
    """Return what is known of the deployed agent."""
    units = {"objects": "objects/s", "CPU": "us of CPU an object", "throughput": "MB/s"}
    rows = [(one.setting, units[one.figure], shown(one.value)) for one in RECORDED]
    return ORIGIN + "\n\n" + grid(("set", "", "deployed Rust agent"), rows)


def heading(results: Results) -> str:
    """Return what a benchmark was measured on."""
    noise = results.heading.noise
    loud = (
        "**This machine was not quiet.**\n" if max(noise.busy_at_start, noise.others) > LOUD else ""
    )
    first, *others = describe(results.bench, results.heading)[:3]
    return loud + "\n".join(
        [
            f"{first};",
            *(f"{line};" for line in others),
            f"of the CPUs' time others used {noise.others:.0%}, and {noise.stolen:.0%} was stolen.",
        ]
    )


def tables(results: Results, *setting: str) -> str:
    """Return a table for each setting whose name begins with the words that are given."""
    wanted = " ".join(setting)
    chosen = [row for row in results.rows if row.setting.startswith(wanted)]
    return "\n\n".join(
        rows_of(name, list(rows), results.figures)
        for name, rows in groupby(chosen, key=lambda row: row.setting)
    )


def rows_of(setting: str, rows: Sequence[Row], figures: Mapping[str, Figure]) -> str:
    """Return the table of one setting, with medians and ranges."""
    measured = [name for name in figures if any(row.values(name) for row in rows)]
    head = [f"**{setting}**", *(f"{name}, {figures[name].unit}" for name in measured)]
    return grid(head, ([row.contender, *(cell(row.values(n)) for n in measured)] for row in rows))


def cell(values: Sequence[float]) -> str:
    """Return the median, and the range if there is one."""
    if not values:
        return ""
    return spread(values) if len(values) > 1 else shown(Summary.of(values).median)


def changes(results: Results, before: str, after: str) -> str:
    """Return what changed beyond noise between two contenders, and what did not."""
    lines = list(compare(pairs_of_contenders(results, before, after), results.figures))
    beyond = [one for one in lines if one.change.verdict in (Verdict.BETTER, Verdict.WORSE)]
    rows = [
        (
            one.setting,
            f"{one.figure}, {one.unit}",
            shown(one.change.before),
            shown(one.change.after),
            "" if one.change.share is None else f"{one.change.share:+.0%}",
            str(one.change.verdict),
        )
        for one in beyond
    ]
    rest = f"\n\nWithin noise, or with too few rounds to tell: {len(lines) - len(beyond)} others."
    return grid(("set", "figure", before, after, "change", ""), rows) + rest


TABLES: dict[str, Callable[..., str]] = {"heading": heading, "tables": tables, "changes": changes}


def main() -> None:
    options_of = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options_of.add_argument("--check", action="store_true")
    options = options_of.parse_args()
    made = make((FOLDER / "text.md").read_text(), load(FOLDER))
    if not options.check:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what its results make: run tools/bench/page")


if __name__ == "__main__":
    main()
