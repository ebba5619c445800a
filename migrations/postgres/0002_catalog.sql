-- The catalogue: packages, the schemas that their versions carry, and the refreshes that brought them.

-- One row per package. `document` is canonical JSON without anything that changes by itself; `content_hash` is its SHA-256.
CREATE TABLE package (
    name text COLLATE "C" PRIMARY KEY,
    source text NOT NULL,
    document text NOT NULL,
    content_hash text NOT NULL,
    upstream_etag text NOT NULL
);

-- Schemas by the SHA-256 of their bytes, so that equal ones are stored once.
CREATE TABLE schema_blob (
    hash text COLLATE "C" PRIMARY KEY,
    document text NOT NULL
);

-- What the tarball of a version held. `hash` is null if it has no schema. `integrity` is that of the tarball that was read: while
-- it is the same, there is nothing to read again.
CREATE TABLE package_schema (
    package text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    hash text COLLATE "C",
    integrity text NOT NULL,
    label text NOT NULL,
    read_us bigint NOT NULL,
    PRIMARY KEY (package, version)
);
CREATE INDEX package_schema_hash ON package_schema (hash);

-- When each source was last asked with success about all of its packages. It moves without a revision.
CREATE TABLE source_state (
    source text COLLATE "C" PRIMARY KEY,
    checked_us bigint NOT NULL
);

-- One row, never updated: its row lock lets one request for a refresh at a time look for a run to join.
CREATE TABLE refresh_gate (
    id smallint PRIMARY KEY CHECK (id = 1)
);
INSERT INTO refresh_gate VALUES (1);

-- One row per refresh. `package` is null for all packages. Packages are read in the order of their names, and those up to and
-- including `begun_through` may have been read. `item_count` numbers the items without gaps.
CREATE TABLE refresh_run (
    id text COLLATE "C" PRIMARY KEY,
    state text NOT NULL,
    packages boolean NOT NULL,
    schemas boolean NOT NULL,
    package text COLLATE "C",
    cause text NOT NULL,
    requested_by text NOT NULL,
    create_us bigint NOT NULL,
    start_us bigint,
    end_us bigint,
    owner text NOT NULL,
    attempts bigint NOT NULL,
    error text NOT NULL,
    begun_through text COLLATE "C",
    item_count bigint NOT NULL,
    packages_listed bigint NOT NULL,
    packages_changed bigint NOT NULL,
    packages_unchanged bigint NOT NULL,
    packages_failed bigint NOT NULL,
    schemas_listed bigint NOT NULL,
    schemas_changed bigint NOT NULL,
    schemas_unchanged bigint NOT NULL,
    schemas_failed bigint NOT NULL
);
CREATE INDEX refresh_run_state ON refresh_run (state);

-- What became of one package, or of one version's schema, in the order in which they ended.
CREATE TABLE refresh_item (
    run_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    package text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    outcome text NOT NULL,
    reason text NOT NULL,
    message text NOT NULL,
    revision bigint,
    PRIMARY KEY (run_id, seq)
);
