"""The manager's state files have these layouts, and files of earlier versions become new ones."""

import sqlite3
from collections.abc import Iterable
from importlib import resources

from rebalancer.layout import Layout, run_script

_SCRIPT = resources.files("rebalancer.manager.store").joinpath("schema.sql").read_text()

#: Status in table `counters` of the unprocessed objects that are put off: they are counted twice.
PUT_OFF = "put_off"

#: Columns that came to the table `evacuateobjects` of job files, version 1, in time.
_LATER_COLUMNS = {
    "tried": "TEXT",
    "put_off": "INTEGER NOT NULL DEFAULT 0",
    "earlier_shark": "TEXT",
}
#: Version 2 of what differs from version 1.
_SPLIT = """
CREATE TABLE records (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    shard           INTEGER,
    key             TEXT,
    etag            TEXT,
    object          TEXT
);
CREATE TABLE progress (
    number          INTEGER PRIMARY KEY,
    status          TEXT NOT NULL CHECK (status IN (
        'unprocessed', 'assigned', 'skipped', 'error', 'post_processing', 'complete')),
    bytes           INTEGER NOT NULL,
    assignment      INTEGER,
    dest_shark      TEXT,
    attempts        INTEGER NOT NULL DEFAULT 0,
    put_off         INTEGER NOT NULL DEFAULT 0,
    skipped_reason  TEXT CHECK (skipped_reason GLOB '{http_status_code:[0-9]*}'
        OR skipped_reason IN (
        'agent_fs_error', 'agent_assignment_no_ent', 'agent_busy', 'assignment_error',
        'assignment_mismatch', 'assignment_rejected', 'destination_insufficient_space',
        'destination_unreachable', 'md5_mismatch', 'network_error',
        'object_already_on_dest_shark', 'object_already_in_datacenter', 'source_other_error',
        'source_is_evac_shark')),
    error           TEXT CHECK (error IN (
        'bad_moray_client', 'bad_moray_object', 'bad_manta_object', 'bad_shard_number',
        'duplicate_shark', 'internal_error', 'metadata_update_failed', 'missing_sharks',
        'bad_content_length')),
    outcome         TEXT,
    detail          TEXT,
    tried           TEXT,
    earlier_shark   TEXT
);
CREATE INDEX assignment_id ON progress (assignment) WHERE assignment IS NOT NULL;
CREATE INDEX waiting ON progress (status) WHERE status = 'unprocessed';
CREATE TABLE assignments (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    dest_shark      TEXT NOT NULL,
    dest_datacenter TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN (
        'init', 'assigned', 'rejected', 'agent_complete', 'post_processed')),
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    created         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    detail          TEXT
);
CREATE INDEX open_assignments ON assignments (state)
    WHERE state IN ('init', 'assigned', 'agent_complete');
CREATE TABLE scans (
    shard           INTEGER NOT NULL,
    id_column       TEXT NOT NULL,
    position        INTEGER NOT NULL,
    until           INTEGER NOT NULL,
    round           INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (round, shard, id_column)
);
INSERT INTO assignments
    SELECT rowid, id, dest_shark, dest_datacenter, state, tasks, bytes, created, detail
    FROM old_assignments;
INSERT INTO records SELECT rowid, id, shard, key, etag, object FROM old_objects;
INSERT INTO progress
    SELECT o.rowid, o.status, o.bytes, a.number, o.dest_shark, o.attempts, o.put_off,
        o.skipped_reason, o.error, o.outcome, o.detail, o.tried, o.earlier_shark
    FROM old_objects o LEFT JOIN assignments a ON a.id = o.assignment_id;
INSERT INTO scans SELECT shard, id_column, position, until, round FROM old_scans;
DROP TABLE old_objects;
DROP TABLE old_assignments;
DROP TABLE old_scans;
"""
#: Later files of version 1 have this table; for the others it is made of their rows.
_DESTINATIONS = """
CREATE TABLE destinations (
    shark           TEXT PRIMARY KEY NOT NULL,
    datacenter      TEXT NOT NULL,
    assignments     INTEGER NOT NULL,
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    copied          INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO destinations
    SELECT dest_shark, max(dest_datacenter), count(*), sum(tasks), sum(bytes),
        (SELECT count(*) FROM progress p WHERE p.dest_shark = a.dest_shark
            AND p.status IN ('post_processing', 'complete')),
        0
    FROM assignments a GROUP BY dest_shark;
"""


def _split_objects(db: sqlite3.Connection) -> None:
    """Bring version 1, where `evacuateobjects` is a table, to 2, where it is a view of two."""
    objects = _columns(db, "evacuateobjects")
    _add_columns(db, "evacuateobjects", objects, _LATER_COLUMNS)
    for index in ("assignment_id", "waiting", "open_assignments"):
        db.execute(f"DROP INDEX IF EXISTS {index}")
    db.execute("ALTER TABLE evacuateobjects RENAME TO old_objects")
    db.execute("ALTER TABLE assignments RENAME TO old_assignments")
    db.execute("ALTER TABLE scans RENAME TO old_scans")
    scans = _columns(db, "old_scans")
    _add_columns(db, "old_scans", scans, {"round": "INTEGER NOT NULL DEFAULT 0"})
    run_script(db, _SPLIT)
    if not _columns(db, "destinations"):
        run_script(db, _DESTINATIONS)


def _keep_counts(db: sqlite3.Connection) -> None:
    """Bring version 2 to 3, whose view keeps `counters` when a person changes rows through it.

    The counts are made anew, because in version 2 such changes left them wrong.
    """
    for trigger in ("insert_object", "update_object", "delete_object"):
        db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    db.execute("DROP VIEW IF EXISTS evacuateobjects")
    run_script(db, _SCRIPT)
    count_anew(db)


def count_anew(db: sqlite3.Connection) -> None:
    """Make the counters anew from the rows, at a cost that grows with the job."""
    db.execute("DELETE FROM counters")
    db.execute(
        "INSERT INTO counters SELECT status, coalesce(skipped_reason, error, outcome, '') AS why,"
        " count(*), sum(bytes) FROM progress GROUP BY status, why"
    )
    db.execute("INSERT INTO counters SELECT 'duplicates', '', count(*), 0 FROM duplicates")
    db.execute(
        "INSERT INTO counters SELECT ?, '', count(*), 0 FROM progress WHERE put_off", (PUT_OFF,)
    )


def _add_wish(db: sqlite3.Connection) -> None:
    """Bring version 1 of the list of jobs to 2, which knows what operators want of a job."""
    db.execute("ALTER TABLE jobs ADD COLUMN wish TEXT CHECK (wish IN ('pause', 'cancel'))")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def _add_columns(
    db: sqlite3.Connection, table: str, known: Iterable[str], wanted: dict[str, str]
) -> None:
    for name in wanted.keys() - set(known):
        db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {wanted[name]}")


def _kind_of(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT type FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _version_of_job(db: sqlite3.Connection) -> int:
    return {"table": 1, "view": 2}.get(_kind_of(db, "evacuateobjects") or "", 0)


def _version_of_index(db: sqlite3.Connection) -> int:
    columns = _columns(db, "jobs")
    return 0 if not columns else 1 + ("wish" in columns)


#: Version 3 of a job's file is `schema.sql`, which never changes: whoever changes the layout adds
#: a step to version 4, which new files take too.
JOB_FILE = Layout(
    "a job's file", _SCRIPT, (_split_objects, _keep_counts), _version_of_job, script_version=3
)

INDEX = Layout(
    "a list of jobs",
    # The first three columns are the predecessor's.
    """
CREATE TABLE IF NOT EXISTS jobs (
    id          TEXT PRIMARY KEY NOT NULL,
    action      TEXT NOT NULL,
    state       TEXT NOT NULL,
    params      TEXT NOT NULL,                  -- JSON
    created     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started     TEXT,
    finished    TEXT,
    error       TEXT,
    wish        TEXT CHECK (wish IN ('pause', 'cancel'))
);
""",
    (_add_wish,),
    _version_of_index,
    script_version=2,
)
