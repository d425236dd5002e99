-- One job.  The first three tables have the names and columns of the predecessor, which
-- operators query by hand; columns after the marked line and all further tables are ours.

CREATE TABLE IF NOT EXISTS evacuateobjects (
    id              TEXT PRIMARY KEY NOT NULL,
    assignment_id   TEXT,
    object          TEXT,                       -- the record as discovered, JSON
    shard           INTEGER,
    dest_shark      TEXT,
    etag            TEXT,                       -- of the record as discovered
    status          TEXT NOT NULL CHECK (status IN (
        'unprocessed', 'assigned', 'skipped', 'error', 'post_processing', 'complete')),
    skipped_reason  TEXT CHECK (skipped_reason GLOB '{http_status_code:[0-9]*}' OR skipped_reason IN (
        'agent_fs_error', 'agent_assignment_no_ent', 'agent_busy', 'assignment_error',
        'assignment_mismatch', 'assignment_rejected', 'destination_insufficient_space',
        'destination_unreachable', 'md5_mismatch', 'network_error',
        'object_already_on_dest_shark', 'object_already_in_datacenter', 'source_other_error',
        'source_is_evac_shark')),
    error           TEXT CHECK (error IN (
        'bad_moray_client', 'bad_moray_object', 'bad_manta_object', 'bad_shard_number',
        'duplicate_shark', 'internal_error', 'metadata_update_failed', 'missing_sharks',
        'bad_content_length')),
    -- ours
    key             TEXT,
    bytes           INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0, -- that came to nothing
    tried           TEXT,                       -- JSON: destinations, sources that failed it
    put_off         INTEGER NOT NULL DEFAULT 0, -- unprocessed until all else of the job is settled
    outcome         TEXT,                       -- why it ended, where the columns above cannot say
    detail          TEXT,                       -- for a person
    earlier_shark   TEXT                        -- has a copy, though its record was put back
);
CREATE INDEX IF NOT EXISTS assignment_id ON evacuateobjects (assignment_id);
-- What a restart must take up again; at any time only what is in the pipeline.
CREATE INDEX IF NOT EXISTS waiting ON evacuateobjects (status) WHERE status = 'unprocessed';

CREATE TABLE IF NOT EXISTS config (
    id              INTEGER PRIMARY KEY,
    from_shark      TEXT                        -- JSON: datacenter, manta_storage_id
);

CREATE TABLE IF NOT EXISTS duplicates (
    id              TEXT PRIMARY KEY NOT NULL,
    key             TEXT,
    shards          TEXT                        -- JSON array of shard numbers
);

-- Further records of objects in `duplicates`: each must name the new copy too.
CREATE TABLE IF NOT EXISTS links (
    shard           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    id              TEXT NOT NULL,
    object          TEXT NOT NULL,
    etag            TEXT NOT NULL,
    status          TEXT NOT NULL DEFAULT 'waiting'
                    CHECK (status IN ('waiting', 'complete', 'skipped', 'error')),
    detail          TEXT,
    PRIMARY KEY (shard, key)
);
CREATE INDEX IF NOT EXISTS links_of ON links (id);

CREATE TABLE IF NOT EXISTS assignments (
    id              TEXT PRIMARY KEY NOT NULL,
    dest_shark      TEXT NOT NULL,
    dest_datacenter TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN (
        'init', 'assigned', 'rejected', 'agent_complete', 'post_processed')),
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    created         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    detail          TEXT
);
CREATE INDEX IF NOT EXISTS open_assignments ON assignments (state)
    WHERE state IN ('init', 'assigned', 'agent_complete');

-- What each destination has been given, and how it did; kept as `counters` is.
CREATE TABLE IF NOT EXISTS destinations (
    shark           TEXT PRIMARY KEY NOT NULL,
    datacenter      TEXT NOT NULL,
    assignments     INTEGER NOT NULL,
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    copied          INTEGER NOT NULL DEFAULT 0, -- of the tasks: verified copies
    failed          INTEGER NOT NULL DEFAULT 0  -- the agent could not do, or nobody knows
) WITHOUT ROWID;

-- Kept in the transactions that change rows, so that a status costs the same at any size.
CREATE TABLE IF NOT EXISTS counters (
    status          TEXT NOT NULL,              -- of evacuateobjects, or 'duplicates'
    reason          TEXT NOT NULL,
    objects         INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    PRIMARY KEY (status, reason)
) WITHOUT ROWID;

-- How far scans have come: all ids up to `position` are stored.  Round 0 is discovery, the
-- others are final scans.
CREATE TABLE IF NOT EXISTS scans (
    shard           INTEGER NOT NULL,
    id_column       TEXT NOT NULL,
    position        INTEGER NOT NULL,
    until           INTEGER NOT NULL,
    round           INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (round, shard, id_column)
);

-- Final scans of the live metadata.
CREATE TABLE IF NOT EXISTS rounds (
    round           INTEGER PRIMARY KEY,
    started         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    found           INTEGER NOT NULL DEFAULT 0, -- records that went through the pipeline
    remaining       INTEGER NOT NULL DEFAULT 0  -- records that were listed in `remaining`
);

-- Records that named the evacuated shark when the last final scan met them, and stay so.
CREATE TABLE IF NOT EXISTS remaining (
    shard           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    object_id       TEXT NOT NULL,              -- of an upload in progress: its own
    why             TEXT NOT NULL,              -- the object's reason, or
                                                -- 'upload_in_progress', 'found_too_late'
    PRIMARY KEY (shard, key)
);

-- What the pre-flight found.
CREATE TABLE IF NOT EXISTS warnings (
    "check"         TEXT NOT NULL,
    detail          TEXT NOT NULL,
    PRIMARY KEY ("check", detail)
);

-- Records that a listing named and that are not the job's business any more.
CREATE TABLE IF NOT EXISTS dropped (
    shard           INTEGER NOT NULL,           -- 0: none of them has it
    key             TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (shard, key)
);

-- Files on destinations that no record names, or may not name.
CREATE TABLE IF NOT EXISTS orphans (
    object_id       TEXT NOT NULL,
    shark           TEXT NOT NULL,
    path            TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (object_id, shark)
);
