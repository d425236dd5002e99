"""Looking into a job's file from outside: what the API shows, and what a retry takes up.

Read-only, blocking, on a connection of its own: neither a running job nor its writer is held up.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

from rebalancer.domain.again import FOUND_TOO_LATE
from rebalancer.domain.objects import Shark
from rebalancer.errors import StoreError
from rebalancer.manager import store
from rebalancer.manager.store import Finding, Round, ScanPosition, Status
from rebalancer.sqlite import connect


@attrs.frozen
class Overview:
    """What to show of a job."""

    origin: Shark | None
    status: Status
    scans: Sequence[ScanPosition]
    rounds: Sequence[Round]
    warnings: Sequence[Finding]


def read_job(path: Path) -> Overview:
    """What to show of a job, running or not, at a cost that does not depend on its size.

    Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        return Overview(
            store.read_origin(db),
            store.read_status(db),
            store.read_scans(db),
            store.read_rounds(db),
            store.read_warnings(db),
        )


#: The objects of a job that another job can take up, their further records, and what came back
#: after the last round.  Whatever a shard that is not configured has is left out, for nothing
#: can be asked about it.
RETRYABLE = ("objects", "links", "remaining")
_RETRYABLE = {
    # A job that broke has objects that came to no end.
    "objects": "evacuateobjects WHERE status <> 'complete'"
    " AND error IS NOT 'bad_shard_number' AND outcome IS NOT 'excluded'",
    "links": "links WHERE status <> 'complete'",
    "remaining": f"remaining WHERE why = '{FOUND_TOO_LATE}'",
}


def last_retryable(path: Path, part: str) -> int:
    """The last row in `part` of `RETRYABLE`, 0 without any.  Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        (row,) = db.execute(f"SELECT ifnull(max(rowid), 0) FROM {_RETRYABLE[part]}").fetchone()
        return int(row)


def retryable(path: Path, part: str, after: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
    """Shard and key of records that another job can take up, and the last row looked at.

    Blocking.

    Raises:
      StoreError: the file cannot be read.
    """
    with _reading(path) as db:
        rows = db.execute(
            f"SELECT rowid, shard, key FROM {_RETRYABLE[part]} AND rowid > ?"
            " ORDER BY rowid LIMIT ?",
            (after, limit),
        ).fetchall()
    end = rows[-1]["rowid"] if rows else after
    return end, [(row["shard"], row["key"]) for row in rows]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(connect(path, mode="ro")) as db:
            yield db
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}") from exc
