"""This module holds what a benchmark measured: all rounds, and on what they were measured.

A figure of a row is a list with a value for each round.  Rounds of contenders are interleaved, so
the values of one round are neighbours in time and may be set against each other.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import attrs
import cattrs

#: The figures of one contender in one round.
Round = dict[str, float]
FORMAT = 1


@attrs.frozen
class Figure:
    """A figure is what is measured: its unit, and whether more or less of it is better."""

    unit: str
    better: Literal["more", "less"]


@attrs.frozen
class Noise:
    """Noise is what else the machine did: load averages, and shares of all of its CPUs' time."""

    load_at_start: tuple[float, float, float]
    busy_at_start: float  # in the second before the first round
    load_at_end: tuple[float, float, float] = (0.0, 0.0, 0.0)
    others: float = 0.0  # used by processes that are not of this run
    stolen: float = 0.0  # by the host of a virtual machine


@attrs.frozen
class Heading:
    """A heading tells what was measured, when, and on what."""

    measured: str
    arguments: list[str]
    version: str
    commit: str
    is_dirty: bool
    programs: dict[str, str]
    cpu: str
    cpus: int
    file_systems: dict[str, str]
    noise: Noise


@attrs.frozen
class Row:
    """A row has all rounds of a contender in one setting."""

    setting: str
    contender: str
    rounds: list[Round]

    def values(self, figure: str) -> list[float]:
        """Return the value of each round, or none at all for a figure that was not measured."""
        return [one[figure] for one in self.rounds if figure in one]


@attrs.define
class Results:
    """These are the results of one run of a benchmark."""

    bench: str
    heading: Heading
    figures: dict[str, Figure]
    rows: list[Row] = attrs.field(factory=list)
    format: int = FORMAT

    def row(self, setting: str, contender: str) -> Row | None:
        """Return the row of `contender` in `setting`, if it took part."""
        for row in self.rows:
            if (row.setting, row.contender) == (setting, contender):
                return row
        return None

    def save(self, path: Path) -> None:
        """Write the results to `path`, all numbers to six digits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = cattrs.unstructure(self)
        for row in told["rows"]:
            row["rounds"] = [{k: float(f"{v:.6g}") for k, v in r.items()} for r in row["rounds"]]
        path.write_text(_with_a_line_a_round(told))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read results that were saved."""
        try:
            told = json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise SystemExit(f"{path} cannot be read: {exc}") from exc
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise SystemExit(f"{path} is not a file of results of format {FORMAT}")
        return cattrs.structure(told, cls)


def _with_a_line_a_round(told: dict[str, Any]) -> str:
    """Return JSON in which each round has one line, for people who look at differences."""
    rows = []
    for row in told.pop("rows"):
        rounds = ",\n      ".join(json.dumps(one) for one in row.pop("rounds"))
        rows.append(f'    {json.dumps(row)[:-1]}, "rounds": [\n      {rounds}]}}')
    head = json.dumps(told, indent=2).removesuffix("\n}")
    return head + ',\n  "rows": [\n' + ",\n".join(rows) + "\n  ]\n}\n"


@attrs.frozen
class Summary:
    """A summary has the middle and the spread of some values; `mad` is the median deviation."""

    median: float
    least: float
    most: float
    mad: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up `values`, of which there is at least one."""
        median = statistics.median(values)
        mad = statistics.median(abs(value - median) for value in values)
        return cls(median, min(values), max(values), mad)


def spread(values: Sequence[float]) -> str:
    """Return the median of some values, with the least and the most of them."""
    of = Summary.of(values)
    return f"{shown(of.median)} ({shown(of.least)}-{shown(of.most)})"


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Return the ratio of each round; both have the same rounds."""
    return [a / b for a, b in zip(of, to, strict=True)]


def shown(value: float) -> str:
    """Return a number with about three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"
