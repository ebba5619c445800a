-- What is hidden is counted by itself, however long the history is.
CREATE INDEX drift_hidden ON drift (id) WHERE state = 'open' AND suppressed_by <> '';

-- Rules of comparison are declared and adopted under other names now.
DELETE FROM drift_generation WHERE name = 'comparators';

-- `stalls` counts how often a sweep was taken in hand since it last got any further. `failed` is a JSON array of the first resources
-- that it could not compare, with the reason of each, or empty.
ALTER TABLE drift_sweep ADD COLUMN stalls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE drift_sweep ADD COLUMN failed TEXT NOT NULL DEFAULT '';
