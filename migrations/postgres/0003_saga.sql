-- Sagas: definitions, the plans that running ones were started with, where each stands, and what happened.

CREATE TABLE saga_definition (
    name text NOT NULL,
    version bigint NOT NULL,
    hash text NOT NULL,
    document text NOT NULL,
    created_us bigint NOT NULL,
    PRIMARY KEY (name, version)
);

-- Steps by their hash, shared by all sagas that were started with them.
CREATE TABLE saga_plan (
    hash text PRIMARY KEY,
    document text NOT NULL
);

-- `machine` is the state machine's own form. `version` counts transitions: a write names the one that it read. `owner` is the
-- replica that has the saga in hand, or empty; `wake_us` is when a saga that nobody has may be taken, or NULL.
CREATE TABLE saga (
    id text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL,
    definition_name text NOT NULL,
    definition_version bigint NOT NULL,
    plan_hash text NOT NULL,
    deployment_id text NOT NULL,
    triggered_by text NOT NULL,
    labels text NOT NULL,
    inputs text NOT NULL,
    context text NOT NULL,
    priority bigint NOT NULL,
    concurrency_key text,
    request_key text UNIQUE,
    body_hash text NOT NULL,
    deadline_us bigint,
    state text NOT NULL,
    machine text NOT NULL,
    version bigint NOT NULL,
    last_write text NOT NULL,
    owner text NOT NULL,
    wake_us bigint,
    crashes bigint NOT NULL,
    created_us bigint NOT NULL,
    started_us bigint,
    ended_us bigint
) WITH (fillfactor = 70);
CREATE INDEX saga_runnable ON saga (wake_us) WHERE owner = '' AND wake_us IS NOT NULL;
CREATE INDEX saga_owned ON saga (owner) WHERE owner <> '';
CREATE INDEX saga_state ON saga (state, id);
CREATE INDEX saga_ended ON saga (ended_us) WHERE ended_us IS NOT NULL;
CREATE INDEX saga_deadline ON saga (deadline_us) WHERE deadline_us IS NOT NULL;
CREATE INDEX saga_waiting ON saga (concurrency_key, priority, id) WHERE concurrency_key IS NOT NULL AND ended_us IS NULL;

-- One row per transition: what is remembered of it, and the outputs that it brought, as JSON.
CREATE TABLE saga_event (
    saga_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    time_us bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    records text NOT NULL,
    PRIMARY KEY (saga_id, version)
);

-- Who holds a concurrency key. Start and release lock the row alike, so that no wake-up is lost.
CREATE TABLE saga_key (
    name text PRIMARY KEY,
    holder text NOT NULL UNIQUE
);

-- Hands the concurrency keys that these sagas hold to the waiters that come first, or drops them.
CREATE FUNCTION saga_release_keys(ids text[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held record;
    waiter text;
BEGIN
    FOR held IN SELECT name, holder FROM saga_key WHERE holder = ANY (ids) ORDER BY name FOR UPDATE LOOP
        SELECT id INTO waiter FROM saga
        WHERE concurrency_key = held.name AND ended_us IS NULL AND state = 'pending' AND id <> held.holder
        ORDER BY priority DESC, id LIMIT 1;
        IF waiter IS NULL THEN
            DELETE FROM saga_key WHERE name = held.name;
        ELSE
            UPDATE saga_key SET holder = waiter WHERE name = held.name;
            UPDATE saga SET wake_us = steadfast_now_us() WHERE id = waiter;
        END IF;
    END LOOP;
END
$$;

-- Commits transitions of many sagas as one transaction. Each names the version that it read and the owner that it believes in;
-- one that is not so any more is left out. One that was committed before, by a call whose answer was lost, counts as committed.
CREATE FUNCTION saga_commit(entries json, log_entry json, lease_name text, lease_fence bigint, lease_owner text)
    RETURNS TABLE (ord bigint, landed boolean, fenced boolean)
    LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    written text[];
BEGIN
    PERFORM 1 FROM lease WHERE name = lease_name AND fence = lease_fence AND owner = lease_owner FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT e.ord, false, true FROM json_to_recordset(entries) AS e(ord bigint);
        RETURN;
    END IF;
    WITH e AS (
        SELECT * FROM json_to_recordset(entries) AS e(ord bigint, id text, expected bigint, held_by text,
            owner text, state text, machine text, write_id text, wake_us bigint, ended boolean, progress boolean)
    ), updated AS (
        UPDATE saga s SET state = e.state, machine = e.machine, version = s.version + 1,
            last_write = e.write_id, owner = e.owner, wake_us = e.wake_us,
            crashes = CASE WHEN e.progress THEN 0 ELSE s.crashes END,
            started_us = coalesce(s.started_us, steadfast_now_us()),
            ended_us = CASE WHEN e.ended THEN steadfast_now_us() END
        FROM e WHERE s.id = e.id COLLATE "C" AND s.version = e.expected AND s.owner = e.held_by
        RETURNING s.last_write
    )
    SELECT array_agg(last_write) INTO written FROM updated;
    IF written IS NOT NULL THEN
        INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
        SELECT e.id, e.expected + 1, steadfast_now_us(), '', '', e.records
        FROM json_to_recordset(entries) AS e(id text, expected bigint, write_id text, records text)
        WHERE e.write_id = ANY (written);
        IF EXISTS (SELECT 1 FROM json_to_recordset(entries) AS e(release boolean) WHERE e.release) THEN
            PERFORM saga_release_keys((
                SELECT array_agg(e.id) FROM json_to_recordset(entries) AS e(id text, write_id text, release boolean)
                WHERE e.release AND e.write_id = ANY (written)));
        END IF;
        PERFORM log_append(json_build_array(json_build_object(
            'ord', 0, 'mark', log_entry -> 'mark', 'write_id', log_entry -> 'write_id', 'origin', '',
            'changes', (SELECT json_agg(json_build_object('t', 'saga', 'k', e.id, 'o', 'u', 'e', e.etag))
                        FROM json_to_recordset(entries) AS e(id text, write_id text, etag text)
                        WHERE e.write_id = ANY (written))::text)));
    END IF;
    RETURN QUERY
        SELECT e.ord, s.last_write = e.write_id, false
        FROM json_to_recordset(entries) AS e(ord bigint, id text, write_id text)
        JOIN saga s ON s.id = e.id COLLATE "C";
END
$$;
