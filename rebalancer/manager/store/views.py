"""This module reads a job's file for the API, for reports and for retry jobs.

Its functions block, and open the file for themselves, so that they hold up no running job.
"""

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs

from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import FOUND_TOO_LATE
from rebalancer.domain.records import account_of, copy_path
from rebalancer.domain.states import AT_DESTINATION, LinkStatus, ObjectStatus
from rebalancer.domain.verdicts import OTHER, End
from rebalancer.errors import StoreError
from rebalancer.manager.store import (
    assignments,
    counts,
    destinations,
    final_scans,
    job_info,
    links,
    scans,
    tier_counts,
)
from rebalancer.manager.store.counts import REASON
from rebalancer.manager.store.records import (
    NOT_CONFIGURED,
    Finding,
    Listed,
    Orphan,
    Round,
    ScanPosition,
    ScanProgress,
    StatusCounts,
)
from rebalancer.manager.store.schema import JOB_FILE
from rebalancer.sqlite import connect, prepare, store_error

#: Rows that are looked at for one page of objects, which takes some 20 ms.
WINDOW = 250_000
#: The highest row there can be.
MAX_ROW = (1 << 63) - 1
#: Rows of a report that are read at once.
REPORT_ROWS = 1000

#: Columns for people, of a number that the store knows a shard by: the tier, and the shard in it.
_SHARD = (
    "CASE WHEN shard < 0 THEN 'buckets' WHEN shard <> 0 THEN 'directory' END AS tier,"
    " iif(shard < 0, -shard, shard) AS shard"
)
_SHARDS = (
    "iif(shards GLOB '*-*', 'buckets', 'directory') AS tier, replace(shards, '-', '') AS shards"
)
_OBJECT = (
    f"id, key, {_SHARD}, status, {REASON} AS reason, detail, bytes, dest_shark, assignment_id,"
    " attempts, etag"
)
#: For each kind of line in a report: the column that numbers its rows, and what is selected.
_COLUMNS = {
    "warning": ("rowid", '"check", detail FROM warnings'),
    "object": ("number", f"{_OBJECT} FROM evacuateobjects"),
    "duplicate": ("rowid", f"id, key, {_SHARDS} FROM duplicates"),
    "link": ("rowid", f"id, key, {_SHARD}, status, detail FROM links"),
    "dropped": ("rowid", f"{_SHARD}, key, reason FROM dropped"),
    "orphan": ("rowid", "object_id, shark, path, reason FROM orphans"),
    "remaining": ("rowid", f"{_SHARD}, key, object_id, why FROM remaining"),
    "assignment": (
        "number",
        "id, dest_shark, dest_datacenter, state, tasks, bytes, created, detail FROM assignments",
    ),
}
#: The kinds of lines in a report, in their order.
REPORT = tuple(_COLUMNS)


#: Exceptions raised by values that the program did not write, in a file that a person changed.
_STRANGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@attrs.frozen
class Overview:
    """An overview has what is shown of a job."""

    origin: Shark | None
    status: StatusCounts
    scans: Sequence[ScanPosition]
    rounds: Sequence[Round]
    warnings: Sequence[Finding]
    #: Rows of table `destinations`.
    destinations: Sequence[Mapping[str, Any]]
    #: Unprocessed objects that have no destination now.
    deferred: int = 0
    #: Bucket objects and their bytes by status, which are in `status` too.
    buckets: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)


def read_job(path: Path) -> Overview:
    """Return what to show of a job, running or not, at a cost that does not depend on its size.

    Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        counted = counts.read_counts(db)
        known = Overview(
            job_info.read_origin(db),
            counted.status,
            scans.read_scans(db),
            final_scans.read_rounds(db),
            job_info.read_warnings(db),
            destinations.read_destinations(db),
            counted.deferred,
            tier_counts.read_bucket_counts(db),
        )
        _check(known)
        return known


#: The overview of a job whose file cannot be read.
NOTHING = Overview(None, StatusCounts({}), (), (), (), ())

#: Parts of an ended job that a retry job takes: objects without a moved copy, links that were not
#: updated, records that were found after the last round, and listed records whose shard was not
#: configured.  An operator may have mended the cause of each.
RETRYABLE = ("objects", "links", "remaining", "dropped")
_RETRYABLE = {
    # Not only skipped and failed objects: if the job broke, others have not come to an end.
    "objects": ("number", f"evacuateobjects WHERE status <> '{ObjectStatus.COMPLETE}'"),
    "links": ("rowid", f"links WHERE status <> '{LinkStatus.COMPLETE}'"),
    "remaining": ("rowid", f"remaining WHERE why = '{FOUND_TOO_LATE}'"),
    "dropped": ("rowid", f"dropped WHERE reason = '{NOT_CONFIGURED}'"),
}
# Columns of an object: its id; the node where a copy of it may lie, unless the copy is listed as an
# orphan; and its record, if there is such a node.
_AT_DESTINATION = ", ".join(f"'{status}'" for status in AT_DESTINATION)
_PLACE = f"CASE WHEN status IN ({_AT_DESTINATION}) THEN dest_shark ELSE earlier_shark END"
# Of a record without a key its id stands for one, so that a retry lists the object as not found.
_LISTED = (
    "ifnull(key, id), id, CASE WHEN NOT EXISTS"
    f" (SELECT 1 FROM orphans WHERE object_id = id AND shark = {_PLACE})"
    f" THEN {_PLACE} END, CASE WHEN {_PLACE} IS NOT NULL THEN object END"
)


def read_scan_progress(path: Path) -> ScanProgress:
    """Return the shards that a job had to scan, and how far it has come in each.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        return scans.read_progress(db)


def read_end(path: Path) -> End:
    """Return what an ended job's file says of its end.  Blocking.

    It looks at each record that the job has listed as remaining, of which there may be millions, so
    the answer should be kept.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        counted = {key: objects for key, (objects, _) in counts.read_status(db).counts.items()}
        rounds = final_scans.read_rounds(db)
        remaining, shards = None, frozenset[int]()
        # After a scan that found something, nobody has looked what became of that.
        if rounds and not rounds[-1].found:
            remaining = _by_word(db, "why", "remaining")
            # A person may have taken records from the list, which moves none of them.
            if (taken := rounds[-1].remaining - sum(remaining.values())) > 0:
                remaining[OTHER] = remaining.get(OTHER, 0) + taken
            last = rounds[-1].round
            shards = frozenset(one.shard for one in scans.read_scans(db) if one.round == last)
        gone = f"status IN ('{LinkStatus.COMPLETE}', '{LinkStatus.SKIPPED}')"
        links = _by_word(db, "coalesce(detail, status)", f"links WHERE NOT {gone}")
        (dropped,) = db.execute("SELECT count(*) FROM dropped").fetchone()
        return End(counted, remaining, links, int(dropped), shards)


def pending_at(path: Path, shark: str) -> int:
    """Return how many assignments of a job to `shark` have not ended, and links wait.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        return assignments.count_open(db, shark) + links.count_waiting(db, shark)


def _by_word(db: sqlite3.Connection, word: str, source: str) -> dict[str, int]:
    """Count rows by a reason's word; all texts that are no words count as one."""
    rows = db.execute(
        f"SELECT iif({word} GLOB '*[^a-z0-9_{{}}:]*', '{OTHER}', {word}), count(*)"
        f" FROM {source} GROUP BY 1"
    )
    return {str(name): int(count) for name, count in rows}


def last_retryable(path: Path, part: str) -> int:
    """Return the number of the last row in `part` of `RETRYABLE`, 0 if it is empty.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        row, source = _RETRYABLE[part]
        (last,) = db.execute(f"SELECT ifnull(max({row}), 0) FROM {source}").fetchone()
        return int(last)


def retryable(path: Path, part: str, after: int, limit: int) -> tuple[int, list[Listed]]:
    """Return the last row looked at, and a page of the records that a retry job can take.

    Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        row, source = _RETRYABLE[part]
        rows = db.execute(
            f"SELECT {row} AS row, shard, {_LISTED if part == 'objects' else 'key'} FROM {source}"
            f" AND {row} > ? ORDER BY {row} LIMIT ?",
            (after, limit),
        ).fetchall()
        end = rows[-1]["row"] if rows else after
        return end, [_listed(*tuple(row)[1:]) for row in rows]


def _listed(
    shard: int,
    key: str,
    object_id: str | None = None,
    shark: str | None = None,
    text: str | None = None,
) -> Listed:
    """Return a listed record, and the copy of its object that `shark` may have by record `text`."""
    copy = None
    if object_id is not None and shark is not None and text is not None:
        path = copy_path(account_of(json.loads(text)), object_id)
        copy = Orphan(object_id, shark, path, "copied by an earlier job")
    return Listed(shard or None, key, copy)


@attrs.frozen
class Page:
    """A page of a job's objects; `after` is where the next page begins, None if there is none."""

    objects: Sequence[Mapping[str, Any]]
    after: int | None


def objects_page(
    path: Path, status: str | None, reason: str | None, after: int, limit: int
) -> Page:
    """Return a page of objects from rows after `after`, in the order in which they were found.

    At most `WINDOW` rows are looked at, so a page may have fewer objects than `limit`, or none,
    though more follow.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    until = min(after + WINDOW, MAX_ROW)
    with _reading(path) as db:
        rows = db.execute(
            f"SELECT number AS row, {_OBJECT} FROM evacuateobjects WHERE number > :after"
            " AND number <= :until AND (:status IS NULL OR status = :status)"
            f" AND (:reason IS NULL OR {REASON} = :reason) ORDER BY number LIMIT :limit",
            {
                "after": after,
                "until": until,
                "status": status,
                "reason": reason,
                "limit": limit,
            },
        ).fetchall()
        (last,) = db.execute("SELECT ifnull(max(number), 0) FROM progress").fetchone()
    seen = rows[-1]["row"] if len(rows) == limit else until
    return Page([_without_row(row) for row in rows], seen if seen < last else None)


def last_reported(path: Path, kind: str) -> int:
    """Return the number of the last row of a `kind` of `REPORT`, 0 if there is none.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        row, columns = _COLUMNS[kind]
        source = columns.rpartition(" FROM ")[2]
        (last,) = db.execute(f"SELECT ifnull(max({row}), 0) FROM {source}").fetchone()
        return int(last)


def report_page(path: Path, kind: str, after: int) -> tuple[int, Sequence[Mapping[str, Any]]]:
    """Return a page of a job's report: lines of one `kind` of `REPORT`, from rows after `after`.

    Returns the last row seen; no rows means there are no more.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        row, columns = _COLUMNS[kind]
        rows = db.execute(
            f"SELECT {row} AS row, {columns} WHERE {row} > ? ORDER BY {row} LIMIT ?",
            (after, REPORT_ROWS),
        ).fetchall()
    end = rows[-1]["row"] if rows else after
    return end, [{"type": kind, **_without_row(row)} for row in rows]


def _without_row(row: sqlite3.Row) -> dict[str, Any]:
    return {name: _shown(row[name]) for name in row.keys() if name != "row"}  # noqa: SIM118 - no mapping


def _shown(value: Any) -> Any:
    """Make a value fit for JSON: a file that a person changed may hold a value of any type."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(known: Overview) -> None:
    """Check that an overview can be shown.

    Raises:
      TypeError, ValueError: a value has a type that the program does not write.
    """
    by_tier = {(status, ""): count for status, count in known.buckets.items()}
    for key, value in (*known.status.counts.items(), *by_tier.items()):
        if not all(isinstance(text, str) for text in key) or not all(
            isinstance(number, int) for number in value
        ):
            raise TypeError("a count is no number")
    if known.origin is not None and not all(
        isinstance(v, str) for v in attrs.astuple(known.origin)
    ):
        raise TypeError("the evacuated shark has no name")
    for scan in known.scans:
        numbers = scan.shard, scan.position, scan.until, scan.round
        if not all(isinstance(number, int) for number in numbers):
            raise TypeError("the position of a scan is no number")
    rest: list[Any] = [*known.scans, *known.rounds, *known.warnings]
    json.dumps([[attrs.asdict(one) for one in rest], list(known.destinations)], allow_nan=False)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(connect(path, mode="ro")) as db:
            if JOB_FILE.is_newest(db):
                yield db
                return
        # An ended job of an earlier version: whoever looks first brings it up to date.
        with closing(connect(path, mode="rw")) as db:
            prepare(db, path, JOB_FILE, must_exist=True)
            db.execute("PRAGMA query_only=1")
            yield db
    except sqlite3.Error as exc:
        raise store_error(path, exc) from exc
    except _STRANGE as exc:
        raise StoreError(f"{path} holds what a job's file does not: {exc}") from exc
