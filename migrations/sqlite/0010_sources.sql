-- What sources were told of the names of packages, and refreshes that are tried, forced and cancelled.

-- The names that a listing or a search of a source brought. `found_by` is `listing` or `search`; only what a listing brought can be
-- missing from one, which makes it `unlisted`. `absent_us` is when an unlisted package was first not found, if it still is.
CREATE TABLE source_name (
    source TEXT NOT NULL,
    package TEXT NOT NULL,
    found_by TEXT NOT NULL,
    unlisted INTEGER NOT NULL,
    absent_us INTEGER,
    PRIMARY KEY (source, package)
) STRICT;
CREATE INDEX source_name_package ON source_name (package);

-- `dry_run`: it stores nothing but its own items. `forced`: it asks for everything, whatever is known, and trusts a short listing.
ALTER TABLE refresh_run ADD COLUMN dry_run INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refresh_run ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;

-- Of the listing of a source, whose name it is; `package` is empty then.
ALTER TABLE refresh_item ADD COLUMN source TEXT NOT NULL DEFAULT '';

-- `origin` is the template of the address that a schema was read from; empty for the version's tarball. A schema that was not there
-- `misses` times in a row is asked for again at `retry_us`.
ALTER TABLE package_schema ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE package_schema ADD COLUMN misses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE package_schema ADD COLUMN retry_us INTEGER;
