-- Icons of packages, and the one fetch at a time of each that the fleet does.

-- Icons by the SHA-256 of their bytes, so that equal ones are stored once, and what a hash names never changes.
CREATE TABLE icon_blob (
    hash text COLLATE "C" PRIMARY KEY,
    bytes bytea NOT NULL
);

-- What an upstream has for one package, shape and format. `hash` is null if it has none; it was then told so `misses` times, and is
-- asked again once `retry_us` has passed. `upstream_etag` is what the next question is asked with. The reference keeps a blob that one
-- transaction refers to from being pruned by another.
CREATE TABLE icon (
    package text COLLATE "C" NOT NULL,
    shape text COLLATE "C" NOT NULL,
    ext text COLLATE "C" NOT NULL,
    hash text COLLATE "C" REFERENCES icon_blob (hash),
    size bigint NOT NULL,
    upstream_etag text NOT NULL,
    misses bigint NOT NULL,
    retry_us bigint NOT NULL,
    PRIMARY KEY (package, shape, ext)
);
CREATE INDEX icon_hash ON icon (hash);

-- A fetch that somebody asked for. Whoever drew `owner` does it, until `expires_us`; after a failure that is when the next may begin.
CREATE TABLE icon_fetch (
    package text COLLATE "C" NOT NULL,
    shape text COLLATE "C" NOT NULL,
    owner text NOT NULL,
    expires_us bigint NOT NULL,
    failures bigint NOT NULL,
    PRIMARY KEY (package, shape)
);

ALTER TABLE refresh_run ADD COLUMN icons boolean NOT NULL DEFAULT false;
ALTER TABLE refresh_run ADD COLUMN icons_listed bigint NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_changed bigint NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_unchanged bigint NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_failed bigint NOT NULL DEFAULT 0;
