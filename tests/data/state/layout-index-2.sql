CREATE TABLE jobs (
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
