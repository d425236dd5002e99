CREATE TABLE job (
    id              TEXT PRIMARY KEY NOT NULL,
    action          TEXT NOT NULL,
    state           TEXT NOT NULL,
    params          TEXT NOT NULL,              -- JSON
    created         TEXT NOT NULL,
    started         TEXT,
    finished        TEXT,
    error           TEXT,
    wish            TEXT
);
CREATE TABLE records (
    number          INTEGER PRIMARY KEY,        -- in the order of discovery
    id              TEXT NOT NULL UNIQUE,
    shard           INTEGER,
    key             TEXT,
    etag            TEXT,
    object          TEXT
);
CREATE TABLE progress (
    number          INTEGER PRIMARY KEY,        -- of its record
    status          TEXT NOT NULL CHECK (status IN (
        'unprocessed', 'assigned', 'skipped', 'error', 'post_processing', 'complete')),
    bytes           INTEGER NOT NULL,
    assignment      INTEGER,                    -- number of the last that it was in
    dest_shark      TEXT,
    attempts        INTEGER NOT NULL DEFAULT 0,
    put_off         INTEGER NOT NULL DEFAULT 0,
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
    outcome         TEXT,
    detail          TEXT,
    tried           TEXT,
    earlier_shark   TEXT
);
CREATE INDEX assignment_id ON progress (assignment) WHERE assignment IS NOT NULL;
CREATE INDEX waiting ON progress (status) WHERE status = 'unprocessed';
CREATE VIEW evacuateobjects AS
SELECT
    records.id,
    assignments.id AS assignment_id,
    object,                                     -- the record as discovered, JSON
    shard,
    progress.dest_shark,
    etag,                                       -- of the record as discovered
    status,
    skipped_reason,
    error,
    -- ours
    key,
    progress.bytes,
    attempts,                                   -- that came to nothing
    tried,                                      -- JSON: destinations, sources that failed it
    put_off,                                    -- unprocessed until all else of the job is settled
    outcome,                                    -- why it ended, where the columns above cannot say
    progress.detail,                            -- for a person
    earlier_shark,                              -- has a copy, though its record was put back
    progress.number
FROM progress
JOIN records ON records.number = progress.number
LEFT JOIN assignments ON assignments.number = progress.assignment;
CREATE TRIGGER insert_object INSTEAD OF INSERT ON evacuateobjects
BEGIN
    SELECT RAISE(ABORT, 'an object cannot be put into an assignment by hand')
        WHERE new.status IN ('assigned', 'post_processing');
    SELECT RAISE(ABORT, 'there is an object of this id or number already')
        WHERE EXISTS (SELECT 1 FROM records WHERE id = new.id OR number = new.number)
        OR EXISTS (SELECT 1 FROM progress WHERE number = new.number);
    INSERT INTO records VALUES (new.number, new.id, new.shard, new.key, new.etag, new.object);
    INSERT INTO progress VALUES (
        (SELECT number FROM records WHERE id = new.id), new.status, ifnull(new.bytes, 0),
        iif(new.status = 'unprocessed', NULL,
            (SELECT number FROM assignments WHERE id = new.assignment_id)),
        new.dest_shark, ifnull(new.attempts, 0),
        -- A job looks at what is put off before it takes it up, at its start or its end.
        new.status = 'unprocessed',
        iif(new.status IN ('skipped', 'error'), new.skipped_reason, NULL),
        iif(new.status IN ('skipped', 'error'), new.error, NULL),
        iif(new.status IN ('skipped', 'error'), new.outcome, NULL),
        new.detail, new.tried, new.earlier_shark);
    SELECT RAISE(ABORT, 'the row is not one that an object can have')
        WHERE NOT EXISTS (SELECT 1 FROM progress p JOIN records r USING (number)
            WHERE r.id = new.id AND p.status = new.status);
    INSERT INTO counters
        SELECT status, coalesce(skipped_reason, error, outcome, ''), 1, bytes FROM progress
        WHERE number = (SELECT number FROM records WHERE id = new.id)
        ON CONFLICT (status, reason) DO UPDATE
        SET objects = objects + 1, bytes = bytes + excluded.bytes;
    INSERT INTO counters SELECT 'put_off', '', 1, 0 WHERE new.status = 'unprocessed'
        ON CONFLICT (status, reason) DO UPDATE SET objects = objects + 1;
END;
CREATE TRIGGER update_object INSTEAD OF UPDATE ON evacuateobjects
BEGIN
    SELECT RAISE(ABORT, 'the number of an object cannot be changed')
        WHERE new.number IS NOT old.number;
    SELECT RAISE(ABORT, 'there is an object of this id already')
        WHERE new.id IS NOT old.id AND EXISTS (SELECT 1 FROM records WHERE id = new.id);
    SELECT RAISE(ABORT, 'an object cannot be put into an assignment by hand')
        WHERE new.status IN ('assigned', 'post_processing') AND new.status IS NOT old.status;
    SELECT RAISE(ABORT, 'the object is in an assignment that an agent may have: let that end')
        WHERE old.status IN ('assigned', 'post_processing')
        AND (new.status IS NOT old.status OR new.id IS NOT old.id
            OR new.assignment_id IS NOT old.assignment_id
            OR new.dest_shark IS NOT old.dest_shark OR new.bytes IS NOT old.bytes);
    SELECT RAISE(ABORT, 'the object is in the hands of a job that runs: pause that first')
        WHERE old.status = 'unprocessed' AND NOT old.put_off
        AND EXISTS (SELECT 1 FROM job WHERE state = 'running');
    UPDATE counters SET objects = objects - 1, bytes = bytes - old.bytes
        WHERE status = old.status
        AND reason = coalesce(old.skipped_reason, old.error, old.outcome, '');
    UPDATE counters SET objects = objects - 1 WHERE status = 'put_off' AND old.put_off;
    UPDATE records SET id = new.id, shard = new.shard, key = new.key, etag = new.etag,
        object = new.object
        WHERE number = old.number;
    UPDATE progress SET status = new.status, bytes = new.bytes,
        assignment = iif(new.status = 'unprocessed', NULL,
            (SELECT number FROM assignments WHERE id = new.assignment_id)),
        dest_shark = new.dest_shark, attempts = new.attempts,
        put_off = new.status = 'unprocessed',
        skipped_reason = iif(new.status IN ('skipped', 'error'), new.skipped_reason, NULL),
        error = iif(new.status IN ('skipped', 'error'), new.error, NULL),
        outcome = iif(new.status IN ('skipped', 'error'), new.outcome, NULL),
        detail = new.detail, tried = new.tried, earlier_shark = new.earlier_shark
        WHERE number = old.number;
    SELECT RAISE(ABORT, 'the row is not one that an object can have')
        WHERE NOT EXISTS (SELECT 1 FROM progress p JOIN records r USING (number)
            WHERE p.number = old.number AND r.id = new.id AND p.status = new.status
            AND p.bytes IS new.bytes AND p.attempts IS new.attempts);
    INSERT INTO counters
        SELECT status, coalesce(skipped_reason, error, outcome, ''), 1, bytes FROM progress
        WHERE number = old.number
        ON CONFLICT (status, reason) DO UPDATE
        SET objects = objects + 1, bytes = bytes + excluded.bytes;
    INSERT INTO counters SELECT 'put_off', '', 1, 0
        FROM progress WHERE number = old.number AND put_off
        ON CONFLICT (status, reason) DO UPDATE SET objects = objects + 1;
END;
CREATE TRIGGER delete_object INSTEAD OF DELETE ON evacuateobjects
BEGIN
    SELECT RAISE(ABORT, 'the object is in an assignment that an agent may have: let that end')
        WHERE old.status IN ('assigned', 'post_processing');
    SELECT RAISE(ABORT, 'the object is in the hands of a job that runs: pause that first')
        WHERE old.status = 'unprocessed' AND NOT old.put_off
        AND EXISTS (SELECT 1 FROM job WHERE state = 'running');
    UPDATE counters SET objects = objects - 1, bytes = bytes - old.bytes
        WHERE status = old.status
        AND reason = coalesce(old.skipped_reason, old.error, old.outcome, '');
    UPDATE counters SET objects = objects - 1 WHERE status = 'put_off' AND old.put_off;
    DELETE FROM records WHERE number = old.number;
    DELETE FROM progress WHERE number = old.number;
END;
CREATE TABLE config (
    id              INTEGER PRIMARY KEY,
    from_shark      TEXT                        -- JSON: datacenter, manta_storage_id
);
CREATE TABLE duplicates (
    id              TEXT PRIMARY KEY NOT NULL,
    key             TEXT,
    shards          TEXT                        -- JSON array of shard numbers
);
CREATE TABLE links (
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
CREATE INDEX links_of ON links (id);
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
CREATE TABLE destinations (
    shark           TEXT PRIMARY KEY NOT NULL,
    datacenter      TEXT NOT NULL,
    assignments     INTEGER NOT NULL,
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    copied          INTEGER NOT NULL DEFAULT 0, -- of the tasks: verified copies
    failed          INTEGER NOT NULL DEFAULT 0  -- the agent could not do, or nobody knows
) WITHOUT ROWID;
CREATE TABLE counters (
    status          TEXT NOT NULL,              -- of evacuateobjects, 'duplicates', 'put_off'
    reason          TEXT NOT NULL,
    objects         INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    PRIMARY KEY (status, reason)
) WITHOUT ROWID;
CREATE TABLE scans (
    shard           INTEGER NOT NULL,
    id_column       TEXT NOT NULL,
    position        INTEGER NOT NULL,
    until           INTEGER NOT NULL,
    round           INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (round, shard, id_column)
);
CREATE TABLE shards (
    shard           INTEGER PRIMARY KEY NOT NULL
);
CREATE TABLE rounds (
    round           INTEGER PRIMARY KEY,
    started         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    found           INTEGER NOT NULL DEFAULT 0, -- records that went through the pipeline
    remaining       INTEGER NOT NULL DEFAULT 0  -- records that were listed in `remaining`
);
CREATE TABLE remaining (
    shard           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    object_id       TEXT NOT NULL,              -- of an upload in progress: its own
    why             TEXT NOT NULL,              -- the object's reason, or
                                                -- 'upload_in_progress', 'found_too_late'
    PRIMARY KEY (shard, key)
);
CREATE TABLE warnings (
    "check"         TEXT NOT NULL,
    detail          TEXT NOT NULL,
    PRIMARY KEY ("check", detail)
);
CREATE TABLE dropped (
    shard           INTEGER NOT NULL,           -- 0: none of them has it
    key             TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (shard, key)
);
CREATE TABLE orphans (
    object_id       TEXT NOT NULL,
    shark           TEXT NOT NULL,
    path            TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (object_id, shark)
);
