-- What proves that a resource is gone, and how an inventory ends that finds many.

-- When the inventory ended that counted the first miss, which `missed_us` says when it began: another one proves more only if it
-- began after that. Two that were under way at once may both have skipped a row for the same reason.
ALTER TABLE drift_live ADD COLUMN missed_end_us bigint NOT NULL DEFAULT 0;
UPDATE drift_live SET missed_end_us = steadfast_now_us() WHERE misses = 1;

-- What is gone has no attributes, whoever found out.
UPDATE drift_live SET attributes = '', digest = '', transition = '' WHERE misses = 2;

-- Few are under way at once, however long the history is.
CREATE INDEX drift_inventory_running ON drift_inventory (provider, start_us) WHERE state = 'running';

-- An inventory ends in many transactions. `ending` says how, from the first of them to the last: `complete` while what it missed is
-- counted, during which its state is still `running`; `failed` while what that concerns is made due. `ending_us` is when it was asked
-- to end; its reports are counted then.
ALTER TABLE drift_inventory ADD COLUMN ending text NOT NULL DEFAULT '';
ALTER TABLE drift_inventory ADD COLUMN ending_us bigint;
CREATE INDEX drift_inventory_ending ON drift_inventory (key) WHERE ending <> '';
