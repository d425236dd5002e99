"""This module reads the jobs that a Rust manager keeps in its PostgreSQL, and changes none of them.

Database `rebalancer` lists the jobs; each has a database of its own, which is named by its id.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from rebalancer.errors import PeerRefused
from rebalancer.peers.postgres import GivenDatabase, Row

#: The database with the list of jobs.
DATABASE = "rebalancer"
#: Jobs that are read of a list.
MOST_JOBS = 10_000
#: Rows that are in memory at a time.
BATCH = 2000
#: Seconds that counting the objects of a job may take.
COUNT_S = 1800.0

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_OBJECTS = (
    "SELECT id, assignment_id, object::text AS object, shard, dest_shark, etag, status,"
    " skipped_reason, error FROM evacuateobjects"
)
_DUPLICATES = "SELECT id, key, shards FROM duplicates"
#: An old server names its own workers by what they do only.
_USERS = (
    "SELECT count(*) AS users FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND coalesce(query, '') NOT LIKE 'autovacuum:%'"
)


@attrs.frozen
class PredecessorJob:
    """A row of the predecessor's list of jobs, as it is."""

    id: str
    action: str
    state: str


@attrs.frozen
class Contents:
    """The contents of a job's database, in numbers."""

    #: The JSON of the node that the job emptied; None: there is none.
    node: str | None
    objects: Mapping[str, int]
    duplicates: int
    #: Other clients of the database: while its manager runs it has some.
    users: int


@asynccontextmanager
async def open_database(parameters: Mapping[str, Any], name: str) -> AsyncIterator[GivenDatabase]:
    """Open a database for reading; all that is read of it is as it was at the first statement.

    Raises:
      PeerUnreachable: it cannot be reached now.
      PeerRefused: it cannot be opened, or not for reading only.
    """
    database = GivenDatabase(f"database {name}", {**parameters, "dbname": name})
    try:
        await database.sql(_BEGIN)
        (row,) = await database.sql("SHOW transaction_read_only")
        if row["transaction_read_only"] != "on":
            raise PeerRefused(f"database {name}: the server does not keep to reading only")
        yield database
    finally:
        database.close()


async def read_jobs(parameters: Mapping[str, Any]) -> list[PredecessorJob]:
    """Return the list of jobs.

    Raises:
      PeerUnreachable, PeerRefused: it cannot be read.
    """
    async with open_database(parameters, str(parameters.get("dbname", DATABASE))) as database:
        rows = await database.sql(
            f"SELECT id::text, action::text, state::text FROM jobs ORDER BY id LIMIT {MOST_JOBS}"
        )
    return [PredecessorJob(*(str(row[name]) for name in ("id", "action", "state"))) for row in rows]


async def read_contents(database: GivenDatabase) -> Contents:
    """Return what a job's database holds.

    Raises:
      PeerUnreachable, PeerRefused: it cannot be read.
    """
    (users,) = await database.sql(_USERS)
    node = await database.sql("SELECT from_shark::text AS node FROM config WHERE id = 1")
    counts = await database.sql(
        "SELECT status, count(*) AS objects FROM evacuateobjects GROUP BY status",
        within_s=COUNT_S,
    )
    (duplicates,) = await database.sql("SELECT count(*) AS rows FROM duplicates", within_s=COUNT_S)
    objects = {str(row["status"]): int(row["objects"]) for row in counts}
    return Contents(
        node[0]["node"] if node else None, objects, int(duplicates["rows"]), int(users["users"])
    )


def read_objects(database: GivenDatabase) -> AsyncGenerator[Sequence[Row], None]:
    """Yield the rows of a job's objects, a batch at a time."""
    return _batches(database, "objects", _OBJECTS)


def read_duplicates(database: GivenDatabase) -> AsyncGenerator[Sequence[Row], None]:
    """Yield the rows of a job's objects that have further records, a batch at a time."""
    return _batches(database, "duplicates", _DUPLICATES)


async def _batches(
    database: GivenDatabase, name: str, query: str
) -> AsyncGenerator[Sequence[Row], None]:
    # A cursor of the server's: a job may have more rows than fit into memory.
    await database.sql(f"DECLARE rows_of_{name} NO SCROLL CURSOR FOR {query}")
    while rows := await database.sql(f"FETCH {BATCH} FROM rows_of_{name}"):
        yield rows
