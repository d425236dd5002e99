"""This module shows what checks have found: as text of 80 columns, or as JSON.  Pure."""

import json
import textwrap
from collections.abc import Iterator, Sequence

from rebalancer.adm.printing import printable
from rebalancer.doctor.findings import Finding, Level, closing, skipped
from rebalancer.doctor.run import Result

#: Columns of a line, and of what stands before a finding.
WIDTH, LEVEL, NAME = 80, 9, 15


def lines(program: str, results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a report: the worst stands last, above the verdict, where eyes are."""
    for name, finding in sorted(_folded(results), key=lambda one: one[1].level.rank):
        head = f"{finding.level:{LEVEL}}{name:{NAME}}"
        parts = [finding.found]
        if finding.expected:
            parts += [f"expected: {finding.expected}", f"do: {finding.do}"]
        for part in parts:
            for line in textwrap.wrap(printable(part), WIDTH - LEVEL - NAME):
                yield f"{head}{line}"
                head = " " * (LEVEL + NAME)
    yield ""
    yield closing(program, [one.finding.level for one in results])


def _folded(results: Sequence[Result]) -> Iterator[tuple[str, Finding]]:
    """Yield each finding with its check's name; those skipped for one reason become one."""
    unmade: dict[str, list[str]] = {}
    for one in results:
        if one.finding.level is Level.SKIPPED:
            unmade.setdefault(one.finding.found, []).append(one.check.name)
        else:
            yield one.check.name, one.finding
    for why, names in unmade.items():
        if len(names) == 1:
            yield names[0], skipped(why)
        else:
            yield f"{len(names)} checks", skipped(f"{why}: {', '.join(names)}")


def document(program: str, place: str, user: str, results: Sequence[Result]) -> str:
    """Return the report as JSON."""
    levels = [one.finding.level for one in results]
    return json.dumps(
        {
            "program": program,
            "configuration": place,
            "user": user,
            "verdict": max(levels, key=lambda level: level.rank, default=Level.OK),
            "findings": [
                {
                    "check": one.check.name,
                    "level": one.finding.level,
                    "found": one.finding.found,
                    "expected": one.finding.expected,
                    "do": one.finding.do,
                }
                for one in results
            ],
        },
        indent=2,
    )
