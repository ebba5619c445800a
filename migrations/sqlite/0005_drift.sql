-- Drift: what was asked for, what is there, and where the two differ.
--
-- A resource has a number, `key`, by which everything else refers to it: rows are narrow, are read in the order in which they lie,
-- and a set of resources is a handful of bitmaps. Locks are taken in this order: lease or inventory, resource, live, drift, due.

-- One row per resource that anyone recorded or reported. `recorded` says that there is a spec; `spec_version` goes on counting when
-- one is deleted. `applied_us` is null while the spec is pending. `writes`
-- counts what changed the row, `last_write` is the last of them.
CREATE TABLE drift_resource (
    key INTEGER PRIMARY KEY,
    writes INTEGER NOT NULL,
    spec_version INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL,
    applied_us INTEGER,
    recorded INTEGER NOT NULL,
    provider TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    labels TEXT NOT NULL,
    recorded_by TEXT NOT NULL,
    saga_id TEXT NOT NULL,
    last_write TEXT NOT NULL,
    spec TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX drift_resource_id ON drift_resource (provider, type, id);

-- What the provider says. A report that repeats it writes nothing here, unless the row's own observation does not count for the spec
-- as applied; so `observed_us` says from when the observation counts at least, and `drift_seen_block` who saw it since.
-- `misses` is 0 while it is there, 1 once a complete inventory did not have it, 2 when it is gone; `missed_us` is when that inventory
-- began. `inventory` is 0 for a report on its own. `attributes` is empty if there never was a report;
-- `digest` is equal for observations that mean the same.
CREATE TABLE drift_live (
    key INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    observed_us INTEGER NOT NULL,
    inventory INTEGER NOT NULL,
    misses INTEGER NOT NULL,
    missed_us INTEGER NOT NULL,
    transition TEXT NOT NULL,
    digest TEXT NOT NULL,
    attributes TEXT NOT NULL
) STRICT;

-- Looks at everything within a scope. `types` is a JSON array; empty means all types. The counts are filled in when it ends.
CREATE TABLE drift_inventory (
    key INTEGER PRIMARY KEY,
    start_us INTEGER NOT NULL,
    end_us INTEGER,
    reported INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    types TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    error TEXT NOT NULL
) STRICT;
CREATE INDEX drift_inventory_start ON drift_inventory (provider, start_us);
CREATE INDEX drift_inventory_state ON drift_inventory (state, start_us);

-- One row per call that reported within an inventory: which resources it named, as ascending differences in LEB128. They become
-- `drift_seen_block` when the inventory ends as complete, and are dropped when it fails.
CREATE TABLE drift_seen (
    inventory INTEGER NOT NULL,
    first_key INTEGER NOT NULL,
    last_key INTEGER NOT NULL,
    reported INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    write_id TEXT NOT NULL,
    keys BLOB NOT NULL,
    PRIMARY KEY (inventory, write_id)
) STRICT, WITHOUT ROWID;

-- Which resources a complete inventory saw: a bit for each of the 4,096 keys of a block. Kept until a newer one covers its scope.
CREATE TABLE drift_seen_block (
    inventory INTEGER NOT NULL,
    block INTEGER NOT NULL,
    bits BLOB NOT NULL,
    PRIMARY KEY (inventory, block)
) STRICT, WITHOUT ROWID;
CREATE INDEX drift_seen_block_block ON drift_seen_block (block);

-- Resources to compare, from `due_us` on. Only a finished comparison takes one away, if `generation` is as it read it.
CREATE TABLE drift_due (
    key INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    due_us INTEGER NOT NULL
) STRICT;

-- What the last finished comparison said. Not part of the resource's row, which is ten times as wide.
CREATE TABLE drift_verdict (
    key INTEGER PRIMARY KEY,
    decided_us INTEGER NOT NULL,
    verdict TEXT NOT NULL
) STRICT;
CREATE INDEX drift_verdict_wrong ON drift_verdict (verdict, key) WHERE verdict <> 'in_sync';

-- Differences, one per path of a resource; `path` is empty if it is about all of it. Closed ones are the history. `version` counts
-- the changes that its etag shows. `expected` and `actual` are null where there is nothing.
CREATE TABLE drift (
    id TEXT PRIMARY KEY,
    key INTEGER NOT NULL,
    version INTEGER NOT NULL,
    spec_version INTEGER NOT NULL,
    first_seen_us INTEGER NOT NULL,
    changed_us INTEGER NOT NULL,
    flips INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    suppressed_until_us INTEGER,
    resolved_us INTEGER,
    secret INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    suppressed_by TEXT NOT NULL,
    suppressed_policy TEXT NOT NULL,
    expected TEXT,
    actual TEXT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX drift_open ON drift (key, path) WHERE state = 'open';
-- Only for lists: a plan made while the table is empty would take it for the open drifts of one resource, too.
CREATE INDEX drift_open_id ON drift (id) WHERE state = 'open' AND id <> '';
CREATE INDEX drift_history ON drift (key, path, id);
CREATE INDEX drift_resolved ON drift (resolved_us) WHERE resolved_us IS NOT NULL;

-- What happened to resources. `detail` is a JSON object, or empty.
CREATE TABLE drift_event (
    seq INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    drift_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX drift_event_key ON drift_event (key, seq);

-- What is to be done about drifts. `document` is JSON.
CREATE TABLE drift_policy (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    expire_us INTEGER,
    provider TEXT NOT NULL,
    actor TEXT NOT NULL,
    document TEXT NOT NULL
) STRICT;

-- Named generations of what comparisons depend on, for example the declared comparators.
CREATE TABLE drift_generation (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- The last time that an apply or an inventory was given, where the clock is too coarse to tell which came first: it counts
-- milliseconds on SQLite. Unused on PostgreSQL.
CREATE TABLE drift_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_us INTEGER NOT NULL
) STRICT;
INSERT INTO drift_clock VALUES (1, 0);

-- One row, never updated: its row lock lets one request for a sweep at a time look for one to join, and a sweep end.
CREATE TABLE drift_gate (
    id INTEGER PRIMARY KEY CHECK (id = 1)
) STRICT;
INSERT INTO drift_gate VALUES (1);

-- One row per sweep. It compares keys above `cursor_key` up to `through_key`; `round` is 0 on the way through all of its scope, and
-- counts the further ways through what became due meanwhile. `asked_us` is when it was asked for last. `tally` is JSON.
CREATE TABLE drift_sweep (
    id TEXT PRIMARY KEY,
    forced INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    only_key INTEGER NOT NULL,
    cursor_key INTEGER NOT NULL,
    through_key INTEGER NOT NULL,
    round INTEGER NOT NULL,
    round_us INTEGER,
    asked_us INTEGER NOT NULL,
    create_us INTEGER NOT NULL,
    start_us INTEGER,
    end_us INTEGER,
    attempts INTEGER NOT NULL,
    resources INTEGER NOT NULL,
    state TEXT NOT NULL,
    labels TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    owner TEXT NOT NULL,
    error TEXT NOT NULL,
    tally TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX drift_sweep_running ON drift_sweep (state) WHERE state = 'running';
