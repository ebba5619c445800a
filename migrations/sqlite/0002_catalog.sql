-- The catalogue: packages, the schemas that their versions carry, and the refreshes that brought them.

-- One row per package. `document` is canonical JSON without anything that changes by itself; `content_hash` is its SHA-256.
CREATE TABLE package (
    name TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    document TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    upstream_etag TEXT NOT NULL
) STRICT;

-- Schemas by the SHA-256 of their bytes, so that equal ones are stored once.
CREATE TABLE schema_blob (
    hash TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- What the tarball of a version held. `hash` is null if it has no schema. `integrity` is that of the tarball that was read: while
-- it is the same, there is nothing to read again.
CREATE TABLE package_schema (
    package TEXT NOT NULL,
    version TEXT NOT NULL,
    hash TEXT,
    integrity TEXT NOT NULL,
    label TEXT NOT NULL,
    read_us INTEGER NOT NULL,
    PRIMARY KEY (package, version)
) STRICT;
CREATE INDEX package_schema_hash ON package_schema (hash);

-- When each source was last asked with success about all of its packages. It moves without a revision.
CREATE TABLE source_state (
    source TEXT PRIMARY KEY,
    checked_us INTEGER NOT NULL
) STRICT;

-- One row, never updated: its row lock lets one request for a refresh at a time look for a run to join.
CREATE TABLE refresh_gate (
    id INTEGER PRIMARY KEY CHECK (id = 1)
) STRICT;
INSERT INTO refresh_gate VALUES (1);

-- One row per refresh. `package` is null for all packages. Packages are read in the order of their names, and those up to and
-- including `begun_through` may have been read. `item_count` numbers the items without gaps.
CREATE TABLE refresh_run (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    packages INTEGER NOT NULL,
    schemas INTEGER NOT NULL,
    package TEXT,
    cause TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    start_us INTEGER,
    end_us INTEGER,
    owner TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    begun_through TEXT,
    item_count INTEGER NOT NULL,
    packages_listed INTEGER NOT NULL,
    packages_changed INTEGER NOT NULL,
    packages_unchanged INTEGER NOT NULL,
    packages_failed INTEGER NOT NULL,
    schemas_listed INTEGER NOT NULL,
    schemas_changed INTEGER NOT NULL,
    schemas_unchanged INTEGER NOT NULL,
    schemas_failed INTEGER NOT NULL
) STRICT;
CREATE INDEX refresh_run_state ON refresh_run (state);

-- What became of one package, or of one version's schema, in the order in which they ended.
CREATE TABLE refresh_item (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    package TEXT NOT NULL,
    version TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    revision INTEGER,
    PRIMARY KEY (run_id, seq)
) STRICT;
