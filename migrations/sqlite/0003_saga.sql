-- Sagas: definitions, the plans that running ones were started with, where each stands, and what happened.

CREATE TABLE saga_definition (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    document TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

-- Steps by their hash, shared by all sagas that were started with them.
CREATE TABLE saga_plan (
    hash TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- `machine` is the state machine's own form. `version` counts transitions: a write names the one that it read. `owner` is the
-- replica that has the saga in hand, or empty; `wake_us` is when a saga that nobody has may be taken, or NULL.
CREATE TABLE saga (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    definition_name TEXT NOT NULL,
    definition_version INTEGER NOT NULL,
    plan_hash TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    labels TEXT NOT NULL,
    inputs TEXT NOT NULL,
    context TEXT NOT NULL,
    priority INTEGER NOT NULL,
    concurrency_key TEXT,
    request_key TEXT UNIQUE,
    body_hash TEXT NOT NULL,
    deadline_us INTEGER,
    state TEXT NOT NULL,
    machine TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_write TEXT NOT NULL,
    owner TEXT NOT NULL,
    wake_us INTEGER,
    crashes INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    started_us INTEGER,
    ended_us INTEGER
) STRICT;
CREATE INDEX saga_runnable ON saga (wake_us) WHERE owner = '' AND wake_us IS NOT NULL;
CREATE INDEX saga_owned ON saga (owner) WHERE owner <> '';
CREATE INDEX saga_state ON saga (state, id);
CREATE INDEX saga_ended ON saga (ended_us) WHERE ended_us IS NOT NULL;
CREATE INDEX saga_deadline ON saga (deadline_us) WHERE deadline_us IS NOT NULL;
CREATE INDEX saga_waiting ON saga (concurrency_key, priority, id) WHERE concurrency_key IS NOT NULL AND ended_us IS NULL;

-- One row per transition: what is remembered of it, and the outputs that it brought, as JSON.
CREATE TABLE saga_event (
    saga_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    records TEXT NOT NULL,
    PRIMARY KEY (saga_id, version)
) STRICT, WITHOUT ROWID;

-- Who holds a concurrency key. Start and release lock the row alike, so that no wake-up is lost.
CREATE TABLE saga_key (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL UNIQUE
) STRICT;
