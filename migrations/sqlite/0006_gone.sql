-- What proves that a resource is gone, and how an inventory ends that finds many.

-- When the inventory ended that counted the first miss, which `missed_us` says when it began: another one proves more only if it
-- began after that. Two that were under way at once may both have skipped a row for the same reason.
ALTER TABLE drift_live ADD COLUMN missed_end_us INTEGER NOT NULL DEFAULT 0;
UPDATE drift_live SET missed_end_us = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE misses = 1;

-- What is gone has no attributes, whoever found out.
UPDATE drift_live SET attributes = '', digest = '', transition = '' WHERE misses = 2;

-- Few are under way at once, and of those that failed only the newest of each scope matters, however long the history is.
CREATE INDEX drift_inventory_running ON drift_inventory (provider, start_us) WHERE state = 'running';
CREATE INDEX drift_inventory_failed ON drift_inventory (provider, types, start_us DESC) WHERE state = 'failed';

-- What is due now, however much will be later.
CREATE INDEX drift_due_time ON drift_due (due_us);

-- The resources that sagas hold, however many other keys they do.
CREATE INDEX saga_key_resource ON saga_key (name) WHERE substr(name, 1, 9) = 'resource/';

-- An inventory ends in many transactions. `ending` says how, from the first of them to the last: `complete` while what it missed is
-- counted, during which its state is still `running`; `failed` while what that concerns is made due. `ending_us` is when it was asked
-- to end; its reports are counted then.
ALTER TABLE drift_inventory ADD COLUMN ending TEXT NOT NULL DEFAULT '';
ALTER TABLE drift_inventory ADD COLUMN ending_us INTEGER;
CREATE INDEX drift_inventory_ending ON drift_inventory (key) WHERE ending <> '';

-- What is told of an inventory's reports only once it is complete, and what has to be done when it fails: `wrote` are the resources whose
-- rows a call has written, so that they name the inventory, and `news` those of them that may have come or gone. A failed one keeps
-- its calls until it is forgotten.
ALTER TABLE drift_seen ADD COLUMN wrote BLOB NOT NULL DEFAULT x'';
ALTER TABLE drift_seen ADD COLUMN news BLOB NOT NULL DEFAULT x'';
-- Nothing is known of what was written before; it is not compared until somebody looks again.
UPDATE drift_live SET inventory = -1 WHERE inventory IN (SELECT key FROM drift_inventory WHERE state <> 'complete');

-- What was last told of each resource: that it is there, or that it is gone. Nothing was told of the others.
CREATE TABLE drift_told (
    key INTEGER PRIMARY KEY,
    is_there INTEGER NOT NULL
) STRICT;
INSERT INTO drift_told (key, is_there) SELECT key, misses < 2 FROM drift_live WHERE misses = 2 OR attributes <> '';
