"""This module makes tables for a terminal of what the manager tells."""

from collections.abc import Sequence
from typing import Any

import attrs
from rich import box
from rich.table import Table
from rich.text import Text

from rebalancer import units
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import state_words, subject
from rebalancer.api.fields import key_of
from rebalancer.api.imports import Importable
from rebalancer.api.jobs import JobShown, Results, Scan, Summary
from rebalancer.api.plan import Plan, PlannedSkip
from rebalancer.domain import reasons
from rebalancer.domain.reasons import LEFT
from rebalancer.domain.states import ObjectStatus
from rebalancer.domain.tiers import Tier
from rebalancer.progress import scan_name


class _Table(Table):
    """A table that shows what comes from outside as it is: no order to a terminal, no markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(Text(printable(str(cell))) for cell in cells), **options)

    def add_column(self, header: Any = "", *more: Any, **options: Any) -> None:
        """Add a column with a text above."""
        super().add_column(Text(printable(str(header))), *more, **options)


def _table(*columns: str, figures: Sequence[str] = ()) -> Table:
    """Return an empty table; what is in the columns `figures` stands on the right."""
    table = _Table(box=box.SIMPLE)
    for name in columns:
        table.add_column(name, justify="right" if name in figures else "left", overflow="fold")
    return table


def counts_table(view: JobShown) -> Table:
    """Return a job's counts."""
    words = state_words(view)
    table = _table(subject(view), words, figures=(words,))
    for field in attrs.fields(Results):
        table.add_row(key_of(field), f"{getattr(view.results, field.name):,}")
    return table


def importable_table(jobs: Sequence[Importable]) -> Table:
    """Return the jobs of a Rust manager, and what stands in the way of importing each."""
    table = _table(
        "id", "state", "node", "objects", "left", "imported", figures=("objects", "left")
    )
    for job in jobs:
        objects = sum(job.objects.values())
        left = objects - job.objects.get(ObjectStatus.COMPLETE, 0) + job.duplicates
        told = job.problem or ", ".join(job.imported) or "no"
        table.add_row(job.id, job.state, job.node or "?", f"{objects:,}", f"{left:,}", told)
    return table


def summary_tables(summary: Summary) -> list[Table]:
    """Return how a job is going, in figures."""
    counts = _table("status", "reason", "objects", "bytes", figures=("objects", "bytes"))
    for count in summary.counts:
        size = units.size(count.bytes)
        counts.add_row(count.status, count.reason, f"{count.objects:,}", size)
    tables = [counts]
    rates = [("minute", summary.rates.minute), ("hour", summary.rates.hour)]
    if any(rate for _, rate in rates):
        table = _table("last", "objects/s", "bytes/s", figures=("objects/s", "bytes/s"))
        for name, rate in rates:
            if rate is not None:
                size = units.size(rate.bytes_per_s)
                table.add_row(name, f"{rate.objects_per_s:,.1f}", f"{size}/s")
        tables.append(table)
    if summary.scans:
        table = _table("scan", "shard", "column", "done", figures=("shard", "done"))
        for scan in summary.scans:
            done = f"{scan.position / max(scan.until, 1):.0%}"
            table.add_row(scan_name(scan.round), _shard(scan), scan.column, done)
        tables.append(table)
    if summary.rounds:
        table = _table("final scan", "sent on", "remain", figures=("sent on", "remain"))
        for one in summary.rounds:
            table.add_row(str(one.round), f"{one.found:,}", f"{one.remaining:,}")
        tables.append(table)
    if tuning := {name: value for name, value in summary.tuning.items() if value is not None}:
        table = _table("changed for this job", "to", figures=("to",))
        for name, value in tuning.items():
            table.add_row(name, f"{value:,}")
        tables.append(table)
    return tables


def _shard(scan: Scan) -> str:
    """Return the number of a shard, with its tier if that is not the first."""
    return f"buckets {scan.shard}" if scan.tier == Tier.BUCKETS else str(scan.shard)


def plan_table(plan: Plan) -> Table:
    """Return where a job's objects would go, and those that would go nowhere."""
    figures = ("objects", "bytes")
    table = _table("destination", "datacenter", *figures, figures=figures)
    for shark in plan.destinations:
        objects, size = f"{shark.objects:,}", units.size(shark.bytes)
        table.add_row(shark.manta_storage_id, shark.datacenter, objects, size)
    table.add_section()
    for skip in plan.skipped:
        why = "left alone" if skip.reason in LEFT else "skipped"
        objects, size = f"{skip.objects:,}", units.size(skip.bytes)
        table.add_row(f"{why}: {skip.reason}", "", objects, size)
    for error in plan.errors:
        table.add_row(f"unusable record: {error.error}", "", f"{error.objects:,}", "")
    if plan.duplicates:
        table.add_row("further records of the same objects", "", f"{plan.duplicates:,}", "")
    return table


#: What objects of a plan lack, by the reason for which they would be skipped.
_WANT = {
    reasons.DESTINATION_INSUFFICIENT_SPACE.word: "without room anywhere",
    reasons.OBJECT_ALREADY_ON_DEST_SHARK.word: "without a permitted place",
    reasons.OBJECT_ALREADY_IN_DATACENTER.word: "without a permitted place",
    reasons.SOURCE_IS_EVAC_SHARK.word: "without a copy that may be read",
}


def what_does_not_fit(plan: Plan) -> list[str]:
    """Return why a planned job would not move everything; nothing if it would."""
    if plan.fits:
        return []
    refused = [one for one in plan.skipped if one.reason not in LEFT]
    return [*map(_why_not, refused), *plan.failures]


def _why_not(skip: PlannedSkip) -> str:
    objects = f"{skip.objects:,} object{'s' * (skip.objects != 1)}"
    why = f" {_WANT[skip.reason]}" if skip.reason in _WANT else ""
    return f"{objects}{why}: {skip.reason}"
