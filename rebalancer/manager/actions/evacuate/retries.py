"""This module says what a retry of an evacuation has to look at, by what earlier jobs left.

A job that ended before it had looked at everything leaves scans, and listings, half way; a retry
goes on behind them.  One that ended as complete leaves only what it skipped, and of one that was
imported only the list of its objects is known: not how many it was to take.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.domain.states import JobState
from rebalancer.errors import BadRequest
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.pipeline.listings import EarlierJob, Joined, Listing, ObjectsFile
from rebalancer.manager.store import views
from rebalancer.manager.store.records import ScanPosition


def params_of_retry(
    row: JobRow, known: Callable[[str], JobRow | None], taken: int
) -> dict[str, Any]:
    """Make the parameters of a job that retries `row`, of whose limit `taken` objects are done.

    `known` has the rows of all jobs.

    Raises:
      BadRequest: something of the earlier jobs is missing that cannot be found anew.
    """
    made: dict[str, Any] = {"from_shark": row.params["from_shark"], "retry_of": row.id}
    if (tiers := row.params.get("tiers")) is not None:
        made["tiers"] = tiers
    if _only_lists(row):
        return made
    before = _before(row, known)
    missing = [earlier for earlier in before.chain if known(earlier) is None]
    if missing and not before.scans:
        raise BadRequest(
            f"Job {row.id} retried job {missing[0]}, which was removed: what it left is not known"
        )
    limit = before.max_objects
    if limit is not None and limit <= taken:
        return {**made, "chain": list(before.chain)}
    return {
        **made,
        "chain": [earlier for earlier in before.chain if earlier not in missing],
        "scans": before.scans,
        # Without the positions of all of them, the whole node is scanned.
        "anew": bool(missing),
        "objects_file": before.objects_file,
        "max_objects": None if limit is None else limit - taken,
    }


@attrs.frozen
class _Before:
    """This object has what an incomplete job had to look at, besides what its own file lists."""

    chain: tuple[str, ...]
    scans: bool
    objects_file: str | None
    max_objects: int | None


def _before(row: JobRow, known: Callable[[str], JobRow | None]) -> _Before:
    params = row.params
    limit, objects_file = params.get("max_objects"), params.get("objects_file")
    earlier = params.get("retry_of")
    if earlier is None:
        return _Before((), objects_file is None, objects_file, limit)
    if "scans" in params or (found := known(earlier)) is None:
        further = tuple(params.get("chain", ()))
        return _Before((earlier, *further), bool(params.get("scans")), objects_file, limit)
    # A retry that only lists: of a complete job, or made by a version that knew no others.
    if _only_lists(found):
        return _Before((earlier,), False, None, None)
    inner = _before(found, known)
    return attrs.evolve(inner, chain=(earlier, *inner.chain))


def is_imported(params: Mapping[str, Any]) -> bool:
    """Tell whether a job was done by a predecessor, and imported."""
    return params.get("imported_from") is not None


def _only_lists(row: JobRow) -> bool:
    """Tell whether all that a job has left is in its list of objects."""
    return row.state is JobState.COMPLETE or is_imported(row.params)


def scans_shards(params: Mapping[str, Any]) -> bool:
    """Tell whether a job scans the shards, or only reads what is listed."""
    is_listed = params.get("retry_of") is not None or params.get("objects_file") is not None
    return bool(params.get("scans", not is_listed))


def listing_of(params: Mapping[str, Any], file: Callable[[str], Path]) -> Listing | None:
    """Return the records that a job reads anew, if any; `file` returns the path of a job's file."""
    objects_file = params.get("objects_file")
    listing: Listing | None = None if objects_file is None else ObjectsFile(Path(objects_file))
    if (earlier := params.get("retry_of")) is None:
        return listing
    by_part = dict[str, tuple[Listing, str]]()
    for job_id in (earlier, *params.get("chain", ())):
        retried = EarlierJob(file(job_id))
        for part in retried.parts:
            by_part[_part_of(part, job_id, earlier)] = (retried, part)
    if listing is not None:
        by_part |= {part: (listing, part) for part in listing.parts}
    return Joined(by_part)


def _part_of(part: str, job_id: str, earlier: str) -> str:
    """Name a part of the listing of job `job_id` as a retry of `earlier` calls it."""
    return part if job_id == earlier else f"{part} of {job_id}"


def read_left(
    params: Mapping[str, Any], file: Callable[[str], Path]
) -> tuple[Sequence[ScanPosition], frozenset[int]]:
    """Read the scan positions of the jobs before a retry job, and the shards they had to empty.

    Blocking.

    Raises:
      StoreError: one of their files cannot be read.
    """
    earlier, further = params["retry_of"], tuple(params.get("chain", ()))
    furthest = dict[tuple[int, str], ScanPosition]()
    shards = set[int]()
    for number, job_id in enumerate((earlier, *further)):
        looked = views.read_scan_progress(file(job_id))
        shards |= looked.shards
        # A part with a plain name in the file of this job is of the job that it retries.
        retried = further[number] if number < len(further) else None
        for position in looked.scans:
            if position.round or (params.get("anew") and position.shard != NO_SHARD):
                continue
            if position.shard == NO_SHARD and position.column in views.RETRYABLE:
                if retried is None:
                    continue
                position = attrs.evolve(position, column=f"{position.column} of {retried}")
            place = (position.shard, position.column)
            known = furthest.get(place)
            if known is None or known.position < position.position:
                furthest[place] = position
    return list(furthest.values()), frozenset(shards)
