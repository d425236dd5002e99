"""This module makes JSON of what the manager's API shows.  Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from rebalancer import __version__
from rebalancer.domain.reasons import EXCLUDED
from rebalancer.domain.states import ObjectStatus
from rebalancer.manager.fleet.ledger import Standing
from rebalancer.manager.jobs.plan import Plan
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store.records import ScanPosition, Status
from rebalancer.manager.store.views import Overview
from rebalancer.rates import HOUR_S, MINUTE_S, Rates, eta_s
from rebalancer.waits import Wait


def listed(row: JobRow) -> dict[str, Any]:
    """Render a job in the list of all jobs."""
    return {"id": row.id, "action": row.action.capitalize(), "state": row.state_shown}


def job(row: JobRow, known: Overview, waits: Iterable[Wait] = ()) -> dict[str, Any]:
    """Render a job: what the predecessor shows, and more; `waits` is what it waits for."""
    origin, status = known.origin, known.status
    shown = {
        "config": {
            "action": row.action.capitalize(),
            "from_shark": {
                "datacenter": "" if origin is None else origin.datacenter,
                "manta_storage_id": "" if origin is None else origin.manta_storage_id,
            },
            "max_objects": row.params.get("max_objects"),
        },
        "results": results(status),
        "bytes": {"complete": status.size(ObjectStatus.COMPLETE), "total": status.size()},
        "scans": [attrs.asdict(scan) for scan in known.scans],
        "rounds": [attrs.asdict(one) for one in known.rounds],
        "warnings": [attrs.asdict(finding) for finding in known.warnings],
        "waiting": waiting(waits),
        "created": row.created,
        "started": row.started,
        "finished": row.finished,
        "state": row.state_shown,
    }
    if row.words.wish is not None:
        shown["wish"] = row.words.wish
    if row.error is not None:
        shown["error"] = row.error
    return shown


def waiting(waits: Iterable[Wait]) -> list[dict[str, str]]:
    """Render what a job waits for, the oldest first."""
    return [{"for": one.subject, "since": one.since, "detail": one.detail} for one in waits]


def results(status: Status) -> dict[str, int]:
    """Render a job's counts under the predecessor's names."""
    counts = {
        "Unprocessed": status.objects(ObjectStatus.UNPROCESSED),
        "Assigned": status.objects(ObjectStatus.ASSIGNED),
        "Skipped": status.objects(ObjectStatus.SKIPPED),
        "Error": status.objects(ObjectStatus.ERROR),
        "Post Processing": status.objects(ObjectStatus.POST_PROCESSING),
        "Complete": status.objects(ObjectStatus.COMPLETE),
        "Duplicates": status.objects("duplicates"),
    }
    return {"Total": sum(counts.values()), **counts}


def summary(
    row: JobRow,
    known: Overview,
    rates: Rates | None,
    standings: Iterable[Standing],
    waits: Iterable[Wait] = (),
) -> dict[str, Any]:
    """Render how a job is going.

    `rates` are those of a job that runs, `standings` its destinations', `waits` what it waits for.
    """
    status = known.status
    cause = {} if row.error is None else {"error": row.error}
    per_s = (0.0, 0.0) if rates is None else rates.per_s(MINUTE_S)
    return {
        "id": row.id,
        "state": row.state_shown,
        "counts": [
            {"status": name, "reason": reason, "objects": objects, "bytes": size}
            for (name, reason), (objects, size) in sorted(status.counts.items())
            if objects
        ],
        "rates": {} if rates is None else _rates(rates),
        "eta_s": eta_s(
            settled=status.settled,
            known=status.total,
            scanned=_scanned(known.scans),
            per_s=per_s[0],
        ),
        "scans": [attrs.asdict(scan) for scan in known.scans],
        "rounds": [attrs.asdict(one) for one in known.rounds],
        "warnings": [attrs.asdict(finding) for finding in known.warnings],
        "waiting": waiting(waits),
        "destinations": _destinations(known.destinations, standings),
        "tuning": row.params.get("tuning", {}),
        **cause,
    }


def _rates(rates: Rates) -> dict[str, Any]:
    spans = {"minute": MINUTE_S, "hour": HOUR_S}
    return {
        name: dict(zip(("objects_per_s", "bytes_per_s"), rates.per_s(span), strict=True))
        for name, span in spans.items()
    }


def _scanned(scans: Sequence[ScanPosition]) -> float:
    """Return the share of the shards' ids that discovery has looked at."""
    first = [scan for scan in scans if scan.round == 0]
    until = sum(scan.until for scan in first)
    return sum(scan.position for scan in first) / until if until else 0.0


def _destinations(
    kept: Iterable[Mapping[str, Any]], standings: Iterable[Standing]
) -> list[dict[str, Any]]:
    now = {standing.shark: attrs.asdict(standing) for standing in standings}
    return [{**one, "now": now.get(one["shark"])} for one in kept]


def status(
    rows: Iterable[JobRow],
    running: Iterable[str],
    standings: Iterable[Standing],
    *,
    nodes: int,
    age_s: float | None,
    max_concurrent_jobs: int,
) -> dict[str, Any]:
    """Render how the manager is; `nodes` is what storinfo lists, told `age_s` seconds ago."""
    return {
        "version": __version__,
        "jobs": dict(Counter(row.state_shown for row in rows)),
        "running": list(running),
        "max_concurrent_jobs": max_concurrent_jobs,
        "storinfo": {"nodes": nodes, "age_s": age_s},
        "destinations": [attrs.asdict(standing) for standing in standings],
    }


def plan(made: Plan) -> dict[str, Any]:
    """Render what a job would do."""
    counts = made.status.counts
    refused = {
        reason: count
        for (name, reason), count in sorted(counts.items())
        if name == ObjectStatus.SKIPPED and count[0]
    }
    return {
        "objects": made.status.total,
        "bytes": made.status.size(),
        "fits": not made.failures and set(refused) <= {EXCLUDED.word},
        "destinations": [
            {**attrs.asdict(shark), "objects": objects, "bytes": size}
            for shark, (objects, size) in made.destinations.items()
        ],
        "skipped": [
            {"reason": reason, "objects": objects, "bytes": size}
            for reason, (objects, size) in refused.items()
        ],
        "errors": [
            {"error": reason, "objects": objects}
            for (name, reason), (objects, _) in sorted(counts.items())
            if name == ObjectStatus.ERROR and objects
        ],
        "duplicates": made.status.objects("duplicates"),
        "warnings": [attrs.asdict(finding) for finding in made.warnings],
        "failures": made.failures,
    }
