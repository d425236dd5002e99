BEGIN TRANSACTION;
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY NOT NULL,
    action      TEXT NOT NULL,
    state       TEXT NOT NULL,
    params      TEXT NOT NULL,                  -- JSON
    created     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started     TEXT,
    finished    TEXT,
    error       TEXT
);
INSERT INTO "jobs" VALUES('11111111-1111-4111-8111-111111111111','evacuate','complete','{"from_shark": "1.stor.lab", "max_objects": null}','2026-01-01T00:00:00.000Z','2026-01-01T00:00:01.000Z','2026-01-02T00:00:00.000Z',NULL);
INSERT INTO "jobs" VALUES('22222222-2222-4222-8222-222222222222','evacuate','failed','{"from_shark": "1.stor.lab", "max_objects": null}','2026-01-01T00:00:00.000Z','2026-01-01T00:00:01.000Z','2026-01-02T00:00:00.000Z','SharkNotFound');
INSERT INTO "jobs" VALUES('33333333-3333-4333-8333-333333333333','evacuate','running','{"from_shark": "1.stor.lab", "max_objects": null}','2026-01-01T00:00:00.000Z','2026-01-01T00:00:01.000Z',NULL,NULL);
COMMIT;
