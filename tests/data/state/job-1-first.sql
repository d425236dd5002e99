BEGIN TRANSACTION;
CREATE TABLE assignments (
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
INSERT INTO "assignments" VALUES('assignment-0.7735937030276743','3.stor.lab','dc1','rejected',1,1005,'2026-11-25T21:29:50.891Z','lost');
INSERT INTO "assignments" VALUES('assignment-0.3099579316031288','3.stor.lab','dc1','rejected',2,2028,'2026-11-25T21:29:50.923Z','lost');
INSERT INTO "assignments" VALUES('assignment-0.36618447584186054','3.stor.lab','dc1','rejected',1,1031,'2026-11-25T21:29:50.947Z','never sent');
INSERT INTO "assignments" VALUES('assignment-0.34074053550422223','3.stor.lab','dc1','agent_complete',2,2028,'2026-11-25T21:29:50.968Z',NULL);
INSERT INTO "assignments" VALUES('assignment-0.8384292811681322','3.stor.lab','dc1','agent_complete',1,1031,'2026-11-25T21:29:51.011Z',NULL);
INSERT INTO "assignments" VALUES('assignment-0.9679805128391624','3.stor.lab','dc1','init',2,2044,'2026-11-25T21:29:51.179Z',NULL);
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
CREATE TABLE duplicates (
    id              TEXT PRIMARY KEY NOT NULL,
    key             TEXT,
    shards          TEXT                        -- JSON array of shard numbers
);
INSERT INTO "duplicates" VALUES('00000000-0000-4000-8000-000000000009','/other/0.4345551906004371','[1]');
INSERT INTO "duplicates" VALUES('00000000-0000-4000-8000-000000000012','/k/12','[1]');
CREATE TABLE evacuateobjects (
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
    attempts        INTEGER NOT NULL DEFAULT 0, -- assignments that came to nothing
    outcome         TEXT,                       -- why it ended, where the columns above cannot say
    detail          TEXT                        -- for a person
);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000011',NULL,'{"key": "/account/stor/11", "name": "11", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000011", "contentLength": 1011, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 11}',1,NULL,'u1','skipped',NULL,NULL,'/k/11',1011,0,'excluded',NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000005','assignment-0.7735937030276743','{"key": "/account/stor/5", "name": "5", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000005", "contentLength": 1005, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 5}',1,NULL,'u1','unprocessed',NULL,NULL,'/other/0.6179261849630812',1005,1,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000009','assignment-0.34074053550422223','{"key": "/account/stor/9", "name": "9", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000009", "contentLength": 1009, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 9}',1,'3.stor.lab','u1','skipped','md5_mismatch',NULL,'/other/0.6179261849630812',1009,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000019','assignment-0.34074053550422223','{"key": "/account/stor/19", "name": "19", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000019", "contentLength": 1019, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 19}',1,'3.stor.lab','u1','skipped','md5_mismatch',NULL,'/other/0.3136513677349536',1019,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000017',NULL,'{"key": "/account/stor/17", "name": "17", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000017", "contentLength": 1017, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 17}',1,NULL,'u1','error',NULL,'missing_sharks','/k/17',1017,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000031','assignment-0.8384292811681322','{"key": "/account/stor/31", "name": "31", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000031", "contentLength": 1031, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 31}',1,'3.stor.lab','u1','complete',NULL,NULL,'/k/31',1031,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000012',NULL,'{"key": "/account/stor/12", "name": "12", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000012", "contentLength": 1012, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 12}',1,NULL,'u1','error',NULL,'missing_sharks','/k/12',1012,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000004',NULL,'{"key": "/account/stor/4", "name": "4", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000004", "contentLength": 1004, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 4}',1,NULL,'u1','skipped',NULL,NULL,'/k/4',1004,0,'excluded',NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000027',NULL,'{"key": "/account/stor/27", "name": "27", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000027", "contentLength": 1027, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 27}',1,NULL,'u1','skipped',NULL,NULL,'/k/27',1027,0,'unknown_reason','NewOne');
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000007',NULL,'{"key": "/account/stor/7", "name": "7", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000007", "contentLength": 1007, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 7}',1,NULL,'u1','skipped',NULL,NULL,'/k/7',1007,0,'excluded',NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000034',NULL,'{"key": "/account/stor/34", "name": "34", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000034", "contentLength": 1034, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 34}',1,NULL,'u1','skipped',NULL,NULL,'/k/34',1034,0,'excluded',NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000030',NULL,'{"key": "/account/stor/30", "name": "30", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000030", "contentLength": 1030, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 30}',1,NULL,'u1','error',NULL,'missing_sharks','/k/30',1030,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000001',NULL,'{"key": "/account/stor/1", "name": "1", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000001", "contentLength": 1001, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 1}',1,NULL,'u1','error',NULL,'missing_sharks','/k/1',1001,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000036',NULL,'{"key": "/account/stor/36", "name": "36", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000036", "contentLength": 1036, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 36}',1,NULL,'u1','error',NULL,'missing_sharks','/k/36',1036,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000013',NULL,'{"key": "/account/stor/13", "name": "13", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000013", "contentLength": 1013, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 13}',1,NULL,'u1','skipped',NULL,NULL,'/k/13',1013,0,'excluded',NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000024',NULL,'{"key": "/account/stor/24", "name": "24", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000024", "contentLength": 1024, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "4.stor.lab"}], "vnode": 24}',1,NULL,'u1','skipped',NULL,NULL,'/other/0.2828581980722068',1024,0,'unknown_reason','NewOne');
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000029','assignment-0.9679805128391624','{"key": "/account/stor/29", "name": "29", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000029", "contentLength": 1029, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 29}',1,'3.stor.lab','u1','assigned',NULL,NULL,'/k/29',1029,0,NULL,NULL);
INSERT INTO "evacuateobjects" VALUES('00000000-0000-4000-8000-000000000015','assignment-0.9679805128391624','{"key": "/account/stor/15", "name": "15", "type": "object", "owner": "00000000-0000-4000-8000-000000000000", "objectId": "00000000-0000-4000-8000-000000000015", "contentLength": 1015, "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==", "sharks": [{"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}, {"datacenter": "dc2", "manta_storage_id": "2.stor.lab"}], "vnode": 15}',1,'3.stor.lab','u1','assigned',NULL,NULL,'/other/0.6308651620035047',1015,0,NULL,NULL);
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
CREATE TABLE scans (
    shard           INTEGER NOT NULL,
    id_column       TEXT NOT NULL,
    position        INTEGER NOT NULL,
    until           INTEGER NOT NULL,
    PRIMARY KEY (shard, id_column)
);
INSERT INTO "scans" VALUES(1,'_id',1,2);
CREATE INDEX assignment_id ON evacuateobjects (assignment_id);
CREATE INDEX waiting ON evacuateobjects (status) WHERE status = 'unprocessed';
CREATE INDEX links_of ON links (id);
CREATE INDEX open_assignments ON assignments (state)
    WHERE state IN ('init', 'assigned', 'agent_complete');
COMMIT;
