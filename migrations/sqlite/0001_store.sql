-- The store's own tables: identity, change log, idempotency, leases, schedules.
-- Times are microseconds since 1970-01-01T00:00:00Z, by the database's clock.

-- One row. `store_id` names the history; it is set by the program after the migration.
CREATE TABLE store_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    compacted_revision INTEGER NOT NULL,
    compacted_mark INTEGER NOT NULL
) STRICT;

-- Orders the log on PostgreSQL; here the one writer does. Kept so that both engines have the same tables.
CREATE TABLE log_lock (
    id INTEGER PRIMARY KEY CHECK (id = 1)
) STRICT;
INSERT INTO log_lock VALUES (1);

-- One row per logical write. `changes` is a JSON array of {t: topic, k: key, o: "u"|"d", e: etag, p: payload in base64}.
CREATE TABLE change_log (
    revision INTEGER PRIMARY KEY,
    mark INTEGER NOT NULL,
    write_id TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    time_us INTEGER NOT NULL,
    changes TEXT NOT NULL
) STRICT;
INSERT INTO change_log VALUES
    (0, random(), 'migration', '', CAST(unixepoch('subsec') * 1000000 AS INTEGER), '[]');

-- Outcomes of calls that carried a request id.
CREATE TABLE request_outcome (
    identity TEXT NOT NULL,
    rpc TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    write_id TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    revision INTEGER,
    mark INTEGER,
    outcome TEXT,
    PRIMARY KEY (identity, rpc, request_id)
) STRICT;
CREATE UNIQUE INDEX request_outcome_write_id ON request_outcome (write_id);
CREATE INDEX request_outcome_created ON request_outcome (created_us);

CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fence INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) STRICT;

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    cron TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    paused INTEGER NOT NULL,
    next_due_us INTEGER,
    last_run_us INTEGER,
    last_result TEXT NOT NULL
) STRICT;
