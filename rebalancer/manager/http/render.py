"""This module makes the answers of the manager's API, of classes in `rebalancer.api`.  Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from rebalancer import __version__
from rebalancer.actions import DECLARED, FALLBACK
from rebalancer.api import jobs as api
from rebalancer.api import plan as api_plan
from rebalancer.api import status as api_status
from rebalancer.api.jobs import TierCounts
from rebalancer.domain.objects import Shark
from rebalancer.domain.placement import MIB
from rebalancer.domain.reasons import LEFT
from rebalancer.domain.states import ObjectStatus
from rebalancer.domain.tiers import Tier, tier_of
from rebalancer.domain.verdicts import Verdict
from rebalancer.manager.actions.action import Plan, PlanLook
from rebalancer.manager.fleet.standings import NodeStanding
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store.records import Finding, Round, ScanPosition, StatusCounts
from rebalancer.manager.store.views import Overview
from rebalancer.progress import scanned_share
from rebalancer.rates import HOUR_S, MINUTE_S, Rates, eta_s
from rebalancer.waits import Wait


def listed(
    row: JobRow,
    known: Overview,
    rates: Rates | None = None,
    waits: Iterable[Wait] = (),
    verdict: Verdict | None = None,
    behind: Iterable[str] = (),
) -> api.JobListed:
    """Render a job in the list of jobs; `rates` are those of a job that runs."""
    status = known.status
    rate, eta_s = pace(known, rates)
    return api.JobListed(
        id=row.id,
        action=row.action.capitalize(),
        state=row.state_shown,
        subject=DECLARED.get(row.action, FALLBACK).subject(row.params),
        created=row.created,
        started=row.started,
        finished=row.finished,
        results=results(status),
        bytes=_bytes(status),
        tiers=tiers(status, known.buckets),
        deferred=known.deferred,
        scanned=min(scanned_share(known.scans, 0), 1.0),
        rate=rate,
        eta_s=eta_s,
        waiting=_waiting(waits),
        behind=tuple(behind),
        wish=row.words.wish,
        error=row.error,
        verdict=None if verdict is None else verdict.word,
    )


def tiers(status: StatusCounts, buckets: Mapping[str, tuple[int, int]]) -> tuple[TierCounts, ...]:
    """Render the counts of all objects, and those of bucket objects, by metadata tier."""
    of_buckets = StatusCounts({(name, ""): count for name, count in buckets.items()})
    there = _of_tier(Tier.BUCKETS, of_buckets)
    whole = _of_tier(Tier.DIRECTORY, status)
    first = api.TierCounts(
        tier=whole.tier,
        # A person may have put in objects of the other tier before there were counts of it.
        **{name: max(0, getattr(whole, name) - getattr(there, name)) for name in _COUNTED},
    )
    return (first, there) if there.objects else (first,)


_COUNTED = ("objects", "bytes", "complete", "bytes_complete")


def _of_tier(tier: Tier, status: StatusCounts) -> TierCounts:
    return api.TierCounts(
        tier=tier,
        objects=max(0, status.total),
        bytes=max(0, status.size()),
        complete=max(0, status.objects(ObjectStatus.COMPLETE)),
        bytes_complete=max(0, status.size(ObjectStatus.COMPLETE)),
    )


def _bytes(status: StatusCounts) -> api.JobBytes:
    return api.JobBytes(complete=status.size(ObjectStatus.COMPLETE), total=status.size())


def pace(known: Overview, rates: Rates | None) -> tuple[api.Rate | None, float | None]:
    """Render the rate of the last minute, and the seconds left, of a job that has such `rates`."""
    return None if rates is None else _rate(rates, MINUTE_S), _eta_s(known, rates)


def _eta_s(known: Overview, rates: Rates | None) -> float | None:
    return eta_s(
        settled=known.status.settled,
        known=known.status.total,
        scanned=scanned_share(known.scans, 0),
        per_s=0.0 if rates is None else rates.per_s(MINUTE_S)[0],
    )


def job(
    row: JobRow, known: Overview, waits: Iterable[Wait] = (), verdict: Verdict | None = None
) -> api.JobShown:
    """Render a job: what the predecessor shows, and more; `waits` is what it waits for."""
    origin, status = known.origin, known.status
    return api.JobShown(
        config={"action": row.action.capitalize(), **_config(row, origin)},
        results=results(status),
        bytes=_bytes(status),
        tiers=tiers(status, known.buckets),
        scans=_scans(known.scans),
        rounds=_rounds(known.rounds),
        warnings=_findings(known.warnings),
        waiting=_waiting(waits),
        deferred=known.deferred,
        created=row.created,
        started=row.started,
        finished=row.finished,
        state=row.state_shown,
        wish=row.words.wish,
        error=row.error,
        verdict=None if verdict is None else _verdict(verdict),
    )


def _verdict(verdict: Verdict) -> api.Verdict:
    causes = (
        api.VerdictCause(cause=one.word, count=one.count, advice=one.advice, command=one.command)
        for one in verdict.causes
    )
    return api.Verdict(verdict=verdict.word, line=verdict.line, causes=tuple(causes))


def _config(row: JobRow, origin: Shark | None) -> Mapping[str, Any]:
    """Return what a job is about; of an action that is not known, as the predecessors show it."""
    node = attrs.asdict(Shark("", "") if origin is None else origin)
    return DECLARED.get(row.action, FALLBACK).shown_config(row.params, node)


def _scans(scans: Iterable[ScanPosition]) -> tuple[api.Scan, ...]:
    return tuple(
        api.Scan(
            tier=tier_of(scan.shard) if scan.shard else None,
            shard=abs(scan.shard),
            column=scan.column,
            position=scan.position,
            until=scan.until,
            round=scan.round,
        )
        for scan in scans
    )


def _rounds(rounds: Iterable[Round]) -> tuple[api.Round, ...]:
    return tuple(
        api.Round(round=one.round, started=one.started, found=one.found, remaining=one.remaining)
        for one in rounds
    )


def _findings(findings: Iterable[Finding]) -> tuple[api.Finding, ...]:
    return tuple(api.Finding(check=one.check, detail=one.detail) for one in findings)


def _waiting(waits: Iterable[Wait]) -> tuple[api.Wait, ...]:
    """Render what a job waits for, the oldest first."""
    return tuple(api.Wait(subject=one.subject, since=one.since, detail=one.detail) for one in waits)


def results(status: StatusCounts) -> api.Results:
    """Render a job's counts under the predecessor's names."""
    counts = {str(one): status.objects(one) for one in ObjectStatus}
    counts["duplicates"] = status.objects("duplicates")
    return api.Results(total=sum(counts.values()), **counts)


def summary(
    row: JobRow,
    known: Overview,
    rates: Rates | None,
    standings: Iterable[NodeStanding],
    waits: Iterable[Wait] = (),
) -> api.Summary:
    """Render how a job is going.

    `rates` are those of a job that runs, `standings` its destinations', `waits` what it waits for.
    """
    status = known.status
    return api.Summary(
        id=row.id,
        state=row.state_shown,
        counts=tuple(
            api.ReasonCount(status=name, reason=reason, objects=objects, bytes=size)
            for (name, reason), (objects, size) in sorted(status.counts.items())
            if objects
        ),
        tiers=tiers(status, known.buckets),
        rates=_rates(rates),
        eta_s=_eta_s(known, rates),
        scans=_scans(known.scans),
        rounds=_rounds(known.rounds),
        warnings=_findings(known.warnings),
        waiting=_waiting(waits),
        destinations=_destinations(known.destinations, standings),
        tuning=row.params.get("tuning", {}),
        wish=row.words.wish,
        error=row.error,
    )


def _rates(rates: Rates | None) -> api.SummaryRates:
    if rates is None:
        return api.SummaryRates()
    return api.SummaryRates(minute=_rate(rates, MINUTE_S), hour=_rate(rates, HOUR_S))


def _rate(rates: Rates, span_s: float) -> api.Rate:
    objects_per_s, bytes_per_s = rates.per_s(span_s)
    return api.Rate(objects_per_s=objects_per_s, bytes_per_s=bytes_per_s)


def _destinations(
    kept: Iterable[Mapping[str, Any]], standings: Iterable[NodeStanding]
) -> tuple[api.Destination, ...]:
    now = {standing.shark: standing for standing in _standings(standings)}
    return tuple(api.Destination(**one, now=now.get(one["shark"])) for one in kept)


def _standings(standings: Iterable[NodeStanding]) -> tuple[api.Standing, ...]:
    return tuple(map(_standing, standings))


def _standing(one: NodeStanding) -> api.Standing:
    node = one.node
    return api.Standing(
        **attrs.asdict(one.standing),
        datacenter=None if node is None else node.datacenter,
        percent_used=None if node is None else node.percent_used,
        available=None if node is None else node.available_mb * MIB,
        unused=one.unused,
    )


def status(
    rows: Sequence[JobRow],
    running: Iterable[str],
    standings: Iterable[NodeStanding],
    *,
    nodes: int,
    age_s: float | None,
    max_concurrent_jobs: int,
) -> api_status.Status:
    """Render how the manager is; `nodes` is what storinfo lists, told `age_s` seconds ago."""
    return api_status.Status(
        version=__version__,
        jobs=dict(Counter(row.state_shown for row in rows)),
        states=dict(Counter(row.state or row.words.state for row in rows)),
        running=tuple(running),
        max_concurrent_jobs=max_concurrent_jobs,
        storinfo=api_status.Storinfo(nodes=nodes, age_s=age_s),
        destinations=_standings(standings),
    )


def plan_progress(look: PlanLook, seconds: float) -> api_plan.PlanProgress:
    """Render how far a dry run is."""
    status = look.status
    left = (status.counts.get((ObjectStatus.SKIPPED, word), (0, 0))[0] for word in LEFT)
    return api_plan.PlanProgress(
        type="progress",
        seconds=round(seconds, 1),
        scanned=_share_of_plan(look),
        shards_done=len(look.ended),
        shards=len(look.shards),
        objects=status.total,
        bytes=status.size(),
        placed=status.objects(ObjectStatus.ASSIGNED),
        without_place=status.objects(ObjectStatus.SKIPPED) - sum(left),
    )


def _share_of_plan(look: PlanLook) -> float | None:
    """Return the share of the search that is done, each shard with the same weight.

    The ids of a shard are not known before its turn, so that a share of all would go back then.
    """
    if not look.shards:
        return min(scanned_share(look.scans, 0), 1.0) if look.scans else None
    shares = (
        1.0
        if number in look.ended
        else scanned_share([scan for scan in look.scans if scan.shard == number], 0)
        for number in look.shards
    )
    return min(sum(shares) / len(look.shards), 1.0) if look.scans or look.ended else None


def plan(made: Plan) -> api_plan.Plan:
    """Render what a job would do."""
    counts = made.status.counts
    refused = {
        reason: count
        for (name, reason), count in sorted(counts.items())
        if name == ObjectStatus.SKIPPED and count[0]
    }
    return api_plan.Plan(
        objects=made.status.total,
        bytes=made.status.size(),
        tiers=tiers(made.status, made.buckets),
        fits=not made.failures and set(refused) <= LEFT,
        destinations=tuple(
            api_plan.PlannedDestination(**attrs.asdict(shark), objects=objects, bytes=size)
            for shark, (objects, size) in made.destinations.items()
        ),
        skipped=tuple(
            api_plan.PlannedSkip(reason=reason, objects=objects, bytes=size)
            for reason, (objects, size) in refused.items()
        ),
        errors=tuple(
            api_plan.PlannedError(error=reason, objects=objects)
            for (name, reason), (objects, _) in sorted(counts.items())
            if name == ObjectStatus.ERROR and objects
        ),
        duplicates=made.status.objects("duplicates"),
        warnings=_findings(made.warnings),
        failures=tuple(made.failures),
    )
