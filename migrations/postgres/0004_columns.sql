-- Batches whose arguments are columns instead of JSON: PostgreSQL reads them in a fraction of the time. Their statements are
-- planned once per session: a plan for the length of each batch takes longer to make than to run, and is the same.

-- Publishes without request ids, all or nothing: gives each the next revision, in the order of the arrays, and returns the
-- revision before the first. If one of them is in the log already, by a call whose answer was lost, it writes nothing and
-- returns NULL; `publish_batch` then says where each landed. The lock and the look at the log must be two statements: see
-- `log_append`.
CREATE FUNCTION publish_append(write_ids text[], marks bigint[], origins text[], changes text[])
    RETURNS bigint LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    head bigint;
BEGIN
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    IF EXISTS (SELECT 1 FROM change_log c WHERE c.write_id = ANY (write_ids COLLATE "C")) THEN
        RETURN NULL;
    END IF;
    SELECT max(c.revision) INTO head FROM change_log c;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    SELECT head + e.ord, e.mark, e.write_id, e.origin, steadfast_now_us(), e.changes
    FROM unnest(write_ids, marks, origins, changes) WITH ORDINALITY AS e(write_id, mark, origin, changes, ord);
    RETURN head;
END
$$;

-- Commits transitions of many sagas as one transaction. Each names the version that it read and the owner that it believes in;
-- one that is not so any more is left out. If all are committed, returns one row without `ord`, with the time that they have; else
-- one for each that still exists: one that was committed before, by a call whose answer was lost, counts as committed. `changes` is
-- the log's text of all of them.
DROP FUNCTION saga_commit(json, json, text, bigint, text);
CREATE FUNCTION saga_commit(
    lease_name text, lease_fence bigint, lease_owner text, log_mark bigint, log_write_id text, changes text,
    ids text[], expected bigint[], holders text[], owners text[], wakes bigint[], states text[], machines text[],
    write_ids text[], records text[], ended boolean[], released boolean[], progressed boolean[])
    RETURNS TABLE (ord bigint, landed boolean, fenced boolean, at_us bigint)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := steadfast_now_us();
    written text[];
    all_written boolean;
BEGIN
    PERFORM 1 FROM lease WHERE name = lease_name AND fence = lease_fence AND owner = lease_owner FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT n::bigint, false, true, NULL::bigint FROM generate_series(0, cardinality(ids) - 1) AS n;
        RETURN;
    END IF;
    IF cardinality(ids) = 1 AND NOT released[1] THEN
        -- A saga on its own: the same without sets, in half the time.
        UPDATE saga s SET state = states[1], machine = machines[1], version = s.version + 1,
            last_write = write_ids[1], owner = owners[1], wake_us = wakes[1],
            crashes = CASE WHEN progressed[1] THEN 0 ELSE s.crashes END,
            started_us = coalesce(s.started_us, now_us),
            ended_us = CASE WHEN ended[1] THEN now_us END
        WHERE s.id = ids[1] COLLATE "C" AND s.version = expected[1] AND s.owner = holders[1];
        IF FOUND THEN
            INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
            VALUES (ids[1], expected[1] + 1, now_us, '', '', records[1]);
            PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
            INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
            VALUES ((SELECT max(c.revision) FROM change_log c) + 1, log_mark, log_write_id, '', now_us, saga_commit.changes);
            RETURN QUERY SELECT NULL::bigint, true, false, now_us;
            RETURN;
        END IF;
        RETURN QUERY SELECT 0::bigint, s.last_write = write_ids[1], false, NULL::bigint FROM saga s WHERE s.id = ids[1] COLLATE "C";
        RETURN;
    END IF;
    WITH updated AS (
        UPDATE saga s SET state = e.state, machine = e.machine, version = s.version + 1,
            last_write = e.write_id, owner = e.owner, wake_us = e.wake_us,
            crashes = CASE WHEN e.progressed THEN 0 ELSE s.crashes END,
            started_us = coalesce(s.started_us, now_us),
            ended_us = CASE WHEN e.ended THEN now_us END
        FROM unnest(ids, expected, holders, owners, wakes, states, machines, write_ids, ended, progressed)
            AS e(id, expected, held_by, owner, wake_us, state, machine, write_id, ended, progressed)
        WHERE s.id = e.id COLLATE "C" AND s.version = e.expected AND s.owner = e.held_by
        RETURNING s.last_write
    )
    SELECT array_agg(last_write) INTO written FROM updated;
    all_written := cardinality(written) = cardinality(ids);
    IF written IS NOT NULL THEN
        INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
        SELECT e.id, e.expected + 1, now_us, '', '', e.records
        FROM unnest(ids, expected, write_ids, records) AS e(id, expected, write_id, records)
        WHERE all_written OR e.write_id = ANY (written);
        IF true = ANY (released) THEN
            PERFORM saga_release_keys((
                SELECT array_agg(e.id) FROM unnest(ids, write_ids, released) AS e(id, write_id, released)
                WHERE e.released AND e.write_id = ANY (written)));
        END IF;
        IF NOT all_written THEN
            SELECT json_agg(json_build_object('t', 'saga', 'k', e.id, 'o', 'u', 'e', e.state || '/' || e.expected + 1))
            INTO changes FROM unnest(ids, expected, states, write_ids) AS e(id, expected, state, write_id)
            WHERE e.write_id = ANY (written);
        END IF;
        PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
        INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
        VALUES ((SELECT max(c.revision) FROM change_log c) + 1, log_mark, log_write_id, '', now_us, saga_commit.changes);
    END IF;
    IF all_written THEN
        RETURN QUERY SELECT NULL::bigint, true, false, now_us;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT e.ord - 1, s.last_write = e.write_id, false, NULL::bigint
        FROM unnest(ids, write_ids) WITH ORDINALITY AS e(id, write_id, ord)
        JOIN saga s ON s.id = e.id COLLATE "C";
END
$$;

-- Starts sagas that have no concurrency key, as one transaction. One whose id or request is there already is left out; `added` is
-- then a JSON array of the ids of the others, and NULL if all are new. `changes` is the log's text of all of them.
CREATE FUNCTION saga_start(
    log_mark bigint, log_write_id text, changes text, plan_hashes text[], plan_documents text[],
    ids text[], kinds text[], definition_names text[], definition_versions bigint[], plans text[], deployment_ids text[],
    starters text[], labels text[], inputs text[], contexts text[], priorities bigint[], request_keys text[],
    body_hashes text[], deadlines bigint[], states text[], machines text[], last_writes text[], owners text[],
    wakes bigint[], records text[], OUT now_us bigint, OUT added text)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    new_ids text[];
BEGIN
    now_us := steadfast_now_us();
    INSERT INTO saga_plan (hash, document)
    SELECT e.hash, e.document FROM unnest(plan_hashes, plan_documents) AS e(hash, document)
    ORDER BY e.hash ON CONFLICT (hash) DO NOTHING;
    WITH inserted AS (
        INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels,
            inputs, context, priority, request_key, body_hash, deadline_us, state, machine, version, last_write,
            owner, wake_us, crashes, created_us, started_us)
        SELECT e.id, e.kind, e.definition_name, e.definition_version, e.plan_hash, e.deployment_id, e.triggered_by, e.labels,
            e.inputs, e.context, e.priority, e.request_key, e.body_hash, e.deadline_us, e.state, e.machine, 1, e.last_write,
            e.owner, e.wake_us, 0, saga_start.now_us, CASE WHEN e.state <> 'pending' THEN saga_start.now_us END
        FROM unnest(ids, kinds, definition_names, definition_versions, plans, deployment_ids, starters, labels, inputs,
                contexts, priorities, request_keys, body_hashes, deadlines, states, machines, last_writes, owners, wakes)
            AS e(id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels, inputs,
                context, priority, request_key, body_hash, deadline_us, state, machine, last_write, owner, wake_us)
        ORDER BY e.request_key, e.id
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT array_agg(id) INTO new_ids FROM inserted;
    IF new_ids IS NULL THEN
        added := '[]';
        RETURN;
    END IF;
    IF cardinality(new_ids) < cardinality(ids) THEN
        added := array_to_json(new_ids)::text;
        SELECT json_agg(json_build_object('t', 'saga', 'k', e.id, 'o', 'u', 'e', e.state || '/1'))
        INTO changes FROM unnest(ids, states) AS e(id, state) WHERE e.id = ANY (new_ids);
    END IF;
    INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
    SELECT e.id, 1, saga_start.now_us, e.triggered_by, '', e.records
    FROM unnest(ids, starters, records) AS e(id, triggered_by, records)
    WHERE added IS NULL OR e.id = ANY (new_ids);
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    VALUES ((SELECT max(c.revision) FROM change_log c) + 1, log_mark, log_write_id, '', saga_start.now_us, saga_start.changes);
END
$$;
