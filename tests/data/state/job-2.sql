BEGIN TRANSACTION;
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
INSERT INTO "assignments" VALUES(1,'assignment-0.7735937030276743','3.stor.lab','dc1','rejected',1,1005,'2026-11-25T21:29:59.013Z','lost');
INSERT INTO "assignments" VALUES(2,'assignment-0.3099579316031288','3.stor.lab','dc1','rejected',2,2028,'2026-11-25T21:29:59.075Z','lost');
INSERT INTO "assignments" VALUES(3,'assignment-0.36618447584186054','3.stor.lab','dc1','rejected',1,1031,'2026-11-25T21:29:59.087Z','never sent');
INSERT INTO "assignments" VALUES(4,'assignment-0.34074053550422223','3.stor.lab','dc1','agent_complete',2,2028,'2026-11-25T21:29:59.116Z',NULL);
INSERT INTO "assignments" VALUES(5,'assignment-0.8384292811681322','3.stor.lab','dc1','agent_complete',1,1031,'2026-11-25T21:29:59.157Z',NULL);
INSERT INTO "assignments" VALUES(6,'assignment-0.9679805128391624','3.stor.lab','dc1','init',2,2044,'2026-11-25T21:29:59.271Z',NULL);
CREATE TABLE config (
    id              INTEGER PRIMARY KEY,
    from_shark      TEXT                        -- JSON: datacenter, manta_storage_id
);
INSERT INTO "config" VALUES(1,'{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}');
CREATE TABLE counters (
    status          TEXT NOT NULL,              -- of evacuateobjects, or 'duplicates'
    reason          TEXT NOT NULL,
    objects         INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    PRIMARY KEY (status, reason)
) WITHOUT ROWID;
INSERT INTO "counters" VALUES('assigned','',2,2044);
INSERT INTO "counters" VALUES('complete','',1,1031);
INSERT INTO "counters" VALUES('duplicates','',2,0);
INSERT INTO "counters" VALUES('error','missing_sharks',5,5096);
INSERT INTO "counters" VALUES('post_processing','',0,0);
INSERT INTO "counters" VALUES('skipped','excluded',5,5069);
INSERT INTO "counters" VALUES('skipped','md5_mismatch',2,2028);
INSERT INTO "counters" VALUES('skipped','unknown_reason',2,2051);
INSERT INTO "counters" VALUES('unprocessed','',1,1005);
CREATE TABLE destinations (
    shark           TEXT PRIMARY KEY NOT NULL,
    datacenter      TEXT NOT NULL,
    assignments     INTEGER NOT NULL,
    tasks           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    copied          INTEGER NOT NULL DEFAULT 0, -- of the tasks: verified copies
    failed          INTEGER NOT NULL DEFAULT 0  -- the agent could not do, or nobody knows
) WITHOUT ROWID;
INSERT INTO "destinations" VALUES('3.stor.lab','dc1',6,9,9167,1,2);
CREATE TABLE dropped (
    shard           INTEGER NOT NULL,           -- 0: none of them has it
    key             TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (shard, key)
);
CREATE TABLE duplicates (
    id              TEXT PRIMARY KEY NOT NULL,
    key             TEXT,
    shards          TEXT                        -- JSON array of shard numbers
);
INSERT INTO "duplicates" VALUES('00000000-0000-4000-8000-000000000009','/other/0.4345551906004371','[1]');
INSERT INTO "duplicates" VALUES('00000000-0000-4000-8000-000000000012','/k/12','[1]');
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
INSERT INTO "links" VALUES(1,'/other/0.4345551906004371','00000000-0000-4000-8000-000000000009','{"key": "/account/stor/9", "name": "9", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000009", "contentLength": 1009, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 9}','u1','waiting',NULL);
INSERT INTO "links" VALUES(1,'/other/0.6308651620035047','00000000-0000-4000-8000-000000000012','{"key": "/account/stor/12", "name": "12", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000012", "contentLength": 1012, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 12}','u1','waiting',NULL);
CREATE TABLE orphans (
    object_id       TEXT NOT NULL,
    shark           TEXT NOT NULL,
    path            TEXT NOT NULL,
    reason          TEXT NOT NULL,
    PRIMARY KEY (object_id, shark)
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
INSERT INTO "progress" VALUES(1,'skipped',1011,NULL,NULL,0,0,NULL,NULL,'excluded',NULL,NULL,NULL);
INSERT INTO "progress" VALUES(2,'unprocessed',1005,1,NULL,1,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(3,'skipped',1009,4,'3.stor.lab',0,0,'md5_mismatch',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(4,'skipped',1019,4,'3.stor.lab',0,0,'md5_mismatch',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(5,'error',1017,NULL,NULL,0,0,NULL,'missing_sharks',NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(6,'complete',1031,5,'3.stor.lab',0,0,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(7,'error',1012,NULL,NULL,0,0,NULL,'missing_sharks',NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(8,'skipped',1004,NULL,NULL,0,0,NULL,NULL,'excluded',NULL,NULL,NULL);
INSERT INTO "progress" VALUES(9,'skipped',1027,NULL,NULL,0,0,NULL,NULL,'unknown_reason','NewOne',NULL,NULL);
INSERT INTO "progress" VALUES(10,'skipped',1007,NULL,NULL,0,0,NULL,NULL,'excluded',NULL,NULL,NULL);
INSERT INTO "progress" VALUES(11,'skipped',1034,NULL,NULL,0,0,NULL,NULL,'excluded',NULL,NULL,NULL);
INSERT INTO "progress" VALUES(12,'error',1030,NULL,NULL,0,0,NULL,'missing_sharks',NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(13,'error',1001,NULL,NULL,0,0,NULL,'missing_sharks',NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(14,'error',1036,NULL,NULL,0,0,NULL,'missing_sharks',NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(15,'skipped',1013,NULL,NULL,0,0,NULL,NULL,'excluded',NULL,NULL,NULL);
INSERT INTO "progress" VALUES(16,'skipped',1024,NULL,NULL,0,0,NULL,NULL,'unknown_reason','NewOne',NULL,NULL);
INSERT INTO "progress" VALUES(17,'assigned',1029,6,'3.stor.lab',0,0,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "progress" VALUES(18,'assigned',1015,6,'3.stor.lab',0,0,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE records (
    number          INTEGER PRIMARY KEY,        -- in the order of discovery
    id              TEXT NOT NULL UNIQUE,
    shard           INTEGER,
    key             TEXT,
    etag            TEXT,
    object          TEXT
);
INSERT INTO "records" VALUES(1,'00000000-0000-4000-8000-000000000011',1,'/k/11','u1','{"key": "/account/stor/11", "name": "11", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000011", "contentLength": 1011, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 11}');
INSERT INTO "records" VALUES(2,'00000000-0000-4000-8000-000000000005',1,'/other/0.6179261849630812','u1','{"key": "/account/stor/5", "name": "5", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000005", "contentLength": 1005, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 5}');
INSERT INTO "records" VALUES(3,'00000000-0000-4000-8000-000000000009',1,'/other/0.6179261849630812','u1','{"key": "/account/stor/9", "name": "9", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000009", "contentLength": 1009, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 9}');
INSERT INTO "records" VALUES(4,'00000000-0000-4000-8000-000000000019',1,'/other/0.3136513677349536','u1','{"key": "/account/stor/19", "name": "19", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000019", "contentLength": 1019, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 19}');
INSERT INTO "records" VALUES(5,'00000000-0000-4000-8000-000000000017',1,'/k/17','u1','{"key": "/account/stor/17", "name": "17", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000017", "contentLength": 1017, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 17}');
INSERT INTO "records" VALUES(6,'00000000-0000-4000-8000-000000000031',1,'/k/31','u1','{"key": "/account/stor/31", "name": "31", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000031", "contentLength": 1031, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 31}');
INSERT INTO "records" VALUES(7,'00000000-0000-4000-8000-000000000012',1,'/k/12','u1','{"key": "/account/stor/12", "name": "12", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000012", "contentLength": 1012, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 12}');
INSERT INTO "records" VALUES(8,'00000000-0000-4000-8000-000000000004',1,'/k/4','u1','{"key": "/account/stor/4", "name": "4", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000004", "contentLength": 1004, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 4}');
INSERT INTO "records" VALUES(9,'00000000-0000-4000-8000-000000000027',1,'/k/27','u1','{"key": "/account/stor/27", "name": "27", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000027", "contentLength": 1027, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 27}');
INSERT INTO "records" VALUES(10,'00000000-0000-4000-8000-000000000007',1,'/k/7','u1','{"key": "/account/stor/7", "name": "7", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000007", "contentLength": 1007, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 7}');
INSERT INTO "records" VALUES(11,'00000000-0000-4000-8000-000000000034',1,'/k/34','u1','{"key": "/account/stor/34", "name": "34", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000034", "contentLength": 1034, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 34}');
INSERT INTO "records" VALUES(12,'00000000-0000-4000-8000-000000000030',1,'/k/30','u1','{"key": "/account/stor/30", "name": "30", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000030", "contentLength": 1030, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 30}');
INSERT INTO "records" VALUES(13,'00000000-0000-4000-8000-000000000001',1,'/k/1','u1','{"key": "/account/stor/1", "name": "1", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000001", "contentLength": 1001, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 1}');
INSERT INTO "records" VALUES(14,'00000000-0000-4000-8000-000000000036',1,'/k/36','u1','{"key": "/account/stor/36", "name": "36", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000036", "contentLength": 1036, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 36}');
INSERT INTO "records" VALUES(15,'00000000-0000-4000-8000-000000000013',1,'/k/13','u1','{"key": "/account/stor/13", "name": "13", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000013", "contentLength": 1013, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 13}');
INSERT INTO "records" VALUES(16,'00000000-0000-4000-8000-000000000024',1,'/other/0.2828581980722068','u1','{"key": "/account/stor/24", "name": "24", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000024", "contentLength": 1024, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 24}');
INSERT INTO "records" VALUES(17,'00000000-0000-4000-8000-000000000029',1,'/k/29','u1','{"key": "/account/stor/29", "name": "29", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000029", "contentLength": 1029, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 29}');
INSERT INTO "records" VALUES(18,'00000000-0000-4000-8000-000000000015',1,'/other/0.6308651620035047','u1','{"key": "/account/stor/15", "name": "15", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000015", "contentLength": 1015, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 15}');
CREATE TABLE remaining (
    shard           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    object_id       TEXT NOT NULL,              -- of an upload in progress: its own
    why             TEXT NOT NULL,              -- the object's reason, or
                                                -- 'upload_in_progress', 'found_too_late'
    PRIMARY KEY (shard, key)
);
CREATE TABLE rounds (
    round           INTEGER PRIMARY KEY,
    started         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    found           INTEGER NOT NULL DEFAULT 0, -- records that went through the pipeline
    remaining       INTEGER NOT NULL DEFAULT 0  -- records that were listed in `remaining`
);
CREATE TABLE scans (
    shard           INTEGER NOT NULL,
    id_column       TEXT NOT NULL,
    position        INTEGER NOT NULL,
    until           INTEGER NOT NULL,
    round           INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (round, shard, id_column)
);
INSERT INTO "scans" VALUES(1,'_id',1,2,0);
CREATE TABLE warnings (
    "check"         TEXT NOT NULL,
    detail          TEXT NOT NULL,
    PRIMARY KEY ("check", detail)
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
    INSERT INTO records VALUES (new.number, new.id, new.shard, new.key, new.etag, new.object);
    INSERT INTO progress VALUES (
        last_insert_rowid(), new.status, ifnull(new.bytes, 0),
        (SELECT number FROM assignments WHERE id = new.assignment_id), new.dest_shark,
        ifnull(new.attempts, 0), ifnull(new.put_off, 0), new.skipped_reason, new.error,
        new.outcome, new.detail, new.tried, new.earlier_shark);
END;
CREATE TRIGGER update_object INSTEAD OF UPDATE ON evacuateobjects
BEGIN
    UPDATE records SET id = new.id, shard = new.shard, key = new.key, etag = new.etag,
        object = new.object
        WHERE number = old.number;
    UPDATE progress SET status = new.status, bytes = new.bytes,
        assignment = (SELECT number FROM assignments WHERE id = new.assignment_id),
        dest_shark = new.dest_shark, attempts = new.attempts, put_off = new.put_off,
        skipped_reason = new.skipped_reason, error = new.error, outcome = new.outcome,
        detail = new.detail, tried = new.tried, earlier_shark = new.earlier_shark
        WHERE number = old.number;
END;
CREATE TRIGGER delete_object INSTEAD OF DELETE ON evacuateobjects
BEGIN
    DELETE FROM records WHERE number = old.number;
    DELETE FROM progress WHERE number = old.number;
END;
CREATE INDEX links_of ON links (id);
CREATE INDEX open_assignments ON assignments (state)
    WHERE state IN ('init', 'assigned', 'agent_complete');
COMMIT;
