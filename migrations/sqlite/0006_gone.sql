-- What proves that a resource is gone.

-- When the inventory ended that counted the first miss, which `missed_us` says when it began: another one proves more only if it
-- began after that. Two that were under way at once may both have skipped a row for the same reason.
ALTER TABLE drift_live ADD COLUMN missed_end_us INTEGER NOT NULL DEFAULT 0;
UPDATE drift_live SET missed_end_us = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE misses = 1;

-- What is gone has no attributes, whoever found out.
UPDATE drift_live SET attributes = '', digest = '', transition = '' WHERE misses = 2;

-- Few are under way at once, however long the history is.
CREATE INDEX drift_inventory_running ON drift_inventory (provider, start_us) WHERE state = 'running';
