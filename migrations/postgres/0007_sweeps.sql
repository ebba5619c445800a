-- What is hidden is counted by itself, however long the history is.
CREATE INDEX drift_hidden ON drift (id) WHERE state = 'open' AND suppressed_by <> '';

-- Rules of comparison are declared and adopted under other names now.
DELETE FROM drift_generation WHERE name = 'comparators';
