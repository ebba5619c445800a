-- Starts and transitions of sagas in one call: under load they arrive together, and one transaction for both costs half of two.
DROP FUNCTION saga_commit(
    text, bigint, text, bigint, text, text, text[], bigint[], text[], text[], bigint[], text[], text[], text[], text[],
    boolean[], boolean[], boolean[]);
DROP FUNCTION saga_start(
    bigint, text, text, text[], text[], text[], text[], text[], bigint[], text[], text[], text[], text[], text[], text[],
    bigint[], text[], text[], bigint[], text[], text[], text[], text[], bigint[], text[]);

-- Commits transitions of sagas, and starts sagas that have no concurrency key, as one transaction; either may be none. A transition
-- names the version that it read and the owner that it believes in; one that is not so any more is left out, as is a start whose id
-- or request is there already. If nothing was left out, returns one row that has landed, with the time of all of them and the
-- revision before theirs. Otherwise returns a row for each transition whose saga still exists, where one that was committed before,
-- by a call whose answer was lost, has landed; and for the starts a row without `ord`, with a JSON array of the ids that are new.
-- `changes` is the log's text of all of them, transitions first.
CREATE FUNCTION saga_commit(
    log_mark bigint, log_write_id text, changes text, lease_name text, lease_fence bigint, lease_owner text,
    moved text[], expected bigint[], holders text[], next_owners text[], next_wakes bigint[], next_states text[],
    next_machines text[], write_ids text[], remembered text[], ended boolean[], released boolean[], progressed boolean[],
    plan_hashes text[], plan_documents text[],
    ids text[], kinds text[], definition_names text[], definition_versions bigint[], plans text[], deployment_ids text[],
    starters text[], labels text[], inputs text[], contexts text[], priorities bigint[], request_keys text[],
    body_hashes text[], deadlines bigint[], states text[], machines text[], last_writes text[], owners text[],
    wakes bigint[], records text[])
    RETURNS TABLE (
        ord bigint, landed boolean, fenced boolean, at_us bigint, head bigint, head_mark bigint, added text)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := steadfast_now_us();
    is_fenced boolean := false;
    written text[];
    new_ids text[];
    is_whole boolean;
    newest record;
BEGIN
    IF cardinality(moved) > 0 THEN
        PERFORM 1 FROM lease WHERE name = lease_name AND fence = lease_fence AND owner = lease_owner FOR SHARE;
        is_fenced := NOT FOUND;
    END IF;
    IF cardinality(moved) > 0 AND NOT is_fenced THEN
        WITH updated AS (
            UPDATE saga s SET state = e.state, machine = e.machine, version = s.version + 1,
                last_write = e.write_id, owner = e.owner, wake_us = e.wake_us,
                crashes = CASE WHEN e.progressed THEN 0 ELSE s.crashes END,
                started_us = coalesce(s.started_us, now_us),
                ended_us = CASE WHEN e.ended THEN now_us END
            FROM unnest(moved, expected, holders, next_owners, next_wakes, next_states, next_machines, write_ids, ended,
                    progressed)
                AS e(id, expected, held_by, owner, wake_us, state, machine, write_id, ended, progressed)
            WHERE s.id = e.id COLLATE "C" AND s.version = e.expected AND s.owner = e.held_by
            RETURNING s.last_write
        )
        SELECT array_agg(last_write) INTO written FROM updated;
    END IF;
    IF cardinality(ids) > 0 THEN
        INSERT INTO saga_plan (hash, document)
        SELECT e.hash, e.document FROM unnest(plan_hashes, plan_documents) AS e(hash, document)
        ORDER BY e.hash ON CONFLICT (hash) DO NOTHING;
        WITH inserted AS (
            INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels,
                inputs, context, priority, request_key, body_hash, deadline_us, state, machine, version, last_write,
                owner, wake_us, crashes, created_us, started_us)
            SELECT e.id, e.kind, e.definition_name, e.definition_version, e.plan_hash, e.deployment_id, e.triggered_by,
                e.labels, e.inputs, e.context, e.priority, e.request_key, e.body_hash, e.deadline_us, e.state, e.machine, 1,
                e.last_write, e.owner, e.wake_us, 0, now_us, CASE WHEN e.state <> 'pending' THEN now_us END
            FROM unnest(ids, kinds, definition_names, definition_versions, plans, deployment_ids, starters, labels, inputs,
                    contexts, priorities, request_keys, body_hashes, deadlines, states, machines, last_writes, owners, wakes)
                AS e(id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels, inputs,
                    context, priority, request_key, body_hash, deadline_us, state, machine, last_write, owner, wake_us)
            ORDER BY e.request_key, e.id
            ON CONFLICT DO NOTHING
            RETURNING id
        )
        SELECT array_agg(id) INTO new_ids FROM inserted;
    END IF;
    is_whole := coalesce(cardinality(written), 0) = cardinality(moved) AND coalesce(cardinality(new_ids), 0) = cardinality(ids);
    IF written IS NOT NULL OR new_ids IS NOT NULL THEN
        INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
        SELECT e.id, e.expected + 1, now_us, '', '', e.records
        FROM unnest(moved, expected, write_ids, remembered) AS e(id, expected, write_id, records)
        WHERE is_whole OR e.write_id = ANY (written)
        UNION ALL
        SELECT e.id, 1, now_us, e.starter, '', e.records
        FROM unnest(ids, starters, records) AS e(id, starter, records)
        WHERE is_whole OR e.id = ANY (new_ids);
        IF true = ANY (released) THEN
            PERFORM saga_release_keys((
                SELECT array_agg(e.id) FROM unnest(moved, write_ids, released) AS e(id, write_id, released)
                WHERE e.released AND e.write_id = ANY (written)));
        END IF;
        IF NOT is_whole THEN
            SELECT json_agg(json_build_object('t', 'saga', 'k', e.id, 'o', 'u', 'e', e.etag)) INTO changes FROM (
                SELECT e.id, e.state || '/' || e.expected + 1 AS etag
                FROM unnest(moved, expected, next_states, write_ids) AS e(id, expected, state, write_id)
                WHERE e.write_id = ANY (written)
                UNION ALL
                SELECT e.id, e.state || '/1' FROM unnest(ids, states) AS e(id, state) WHERE e.id = ANY (new_ids)
            ) AS e;
        END IF;
        PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
        SELECT c.revision, c.mark INTO newest FROM change_log c ORDER BY c.revision DESC LIMIT 1;
        INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
        VALUES (newest.revision + 1, log_mark, log_write_id, '', now_us, saga_commit.changes);
        IF is_whole THEN
            RETURN QUERY SELECT NULL::bigint, true, false, now_us, newest.revision, newest.mark, NULL::text;
            RETURN;
        END IF;
    END IF;
    IF is_fenced THEN
        RETURN QUERY
            SELECT n::bigint, false, true, NULL::bigint, NULL::bigint, NULL::bigint, NULL::text
            FROM generate_series(0, cardinality(moved) - 1) AS n;
    ELSIF cardinality(moved) > 0 THEN
        RETURN QUERY
            SELECT e.ord - 1, s.last_write = e.write_id, false, NULL::bigint, NULL::bigint, NULL::bigint, NULL::text
            FROM unnest(moved, write_ids) WITH ORDINALITY AS e(id, write_id, ord)
            JOIN saga s ON s.id = e.id COLLATE "C";
    END IF;
    IF cardinality(ids) > 0 THEN
        RETURN QUERY
            SELECT NULL::bigint, false, false, now_us, NULL::bigint, NULL::bigint,
                coalesce(array_to_json(new_ids)::text, '[]');
    END IF;
END
$$;
