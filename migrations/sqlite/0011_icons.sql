-- Icons of packages, and the one fetch at a time of each that the fleet does.

-- Icons by the SHA-256 of their bytes, so that equal ones are stored once, and what a hash names never changes.
CREATE TABLE icon_blob (
    hash TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- What an upstream has for one package, shape and format. `hash` is null if it has none; it was then told so `misses` times, and is
-- asked again once `retry_us` has passed. `upstream_etag` is what the next question is asked with. The reference keeps a blob that one
-- transaction refers to from being pruned by another.
CREATE TABLE icon (
    package TEXT NOT NULL,
    shape TEXT NOT NULL,
    ext TEXT NOT NULL,
    hash TEXT REFERENCES icon_blob (hash),
    size INTEGER NOT NULL,
    upstream_etag TEXT NOT NULL,
    misses INTEGER NOT NULL,
    retry_us INTEGER NOT NULL,
    PRIMARY KEY (package, shape, ext)
) STRICT;
CREATE INDEX icon_hash ON icon (hash);

-- A fetch that somebody asked for. Whoever drew `owner` does it, until `expires_us`; after a failure that is when the next may begin.
CREATE TABLE icon_fetch (
    package TEXT NOT NULL,
    shape TEXT NOT NULL,
    owner TEXT NOT NULL,
    expires_us INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (package, shape)
) STRICT;

ALTER TABLE refresh_run ADD COLUMN icons INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_listed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_changed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_unchanged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN icons_failed INTEGER NOT NULL DEFAULT 0;
