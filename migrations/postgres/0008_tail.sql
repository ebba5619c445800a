-- Appends that say where they landed: the revision before the first, its mark, and the time that all of them have. With that a
-- replica follows its own commits without reading them back, and still knows that they continue the history it has.

DROP FUNCTION publish_append(text[], bigint[], text[], text[]);
DROP FUNCTION saga_commit(
    text, bigint, text, bigint, text, text, text[], bigint[], text[], text[], bigint[], text[], text[], text[], text[],
    boolean[], boolean[], boolean[]);
DROP FUNCTION saga_start(
    bigint, text, text, text[], text[], text[], text[], text[], bigint[], text[], text[], text[], text[], text[], text[],
    bigint[], text[], text[], bigint[], text[], text[], text[], text[], bigint[], text[]);

-- Publishes without request ids, all or nothing: gives each the next revision, in the order of the arrays. If one of them is in
-- the log already, by a call whose answer was lost, it writes nothing and returns NULLs; `publish_batch` then says where each
-- landed. The lock and the look at the log must be two statements: see `log_append`.
CREATE FUNCTION publish_append(
    write_ids text[], marks bigint[], origins text[], changes text[],
    OUT head bigint, OUT head_mark bigint, OUT now_us bigint)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    IF EXISTS (SELECT 1 FROM change_log c WHERE c.write_id = ANY (write_ids COLLATE "C")) THEN
        RETURN;
    END IF;
    now_us := steadfast_now_us();
    SELECT c.revision, c.mark INTO head, head_mark FROM change_log c ORDER BY c.revision DESC LIMIT 1;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    SELECT publish_append.head + e.ord, e.mark, e.write_id, e.origin, publish_append.now_us, e.changes
    FROM unnest(write_ids, marks, origins, changes) WITH ORDINALITY AS e(write_id, mark, origin, changes, ord);
END
$$;

-- Commits the transition of one saga that releases no key: the common case without sets. It writes nothing, and returns NULLs, if
-- the lease is lost or the saga is not as it was read; `saga_commit` then says which.
CREATE FUNCTION saga_commit_one(
    lease_name text, lease_fence bigint, lease_owner text, log_mark bigint, log_write_id text, changes text,
    saga_id text, expected bigint, held_by text, next_owner text, wake bigint, next_state text, next_machine text,
    write text, remembered text, has_ended boolean, progressed boolean,
    OUT now_us bigint, OUT head bigint, OUT head_mark bigint)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM 1 FROM lease l WHERE l.name = lease_name AND l.fence = lease_fence AND l.owner = lease_owner FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    now_us := steadfast_now_us();
    UPDATE saga s SET state = next_state, machine = next_machine, version = s.version + 1,
        last_write = write, owner = next_owner, wake_us = wake,
        crashes = CASE WHEN progressed THEN 0 ELSE s.crashes END,
        started_us = coalesce(s.started_us, saga_commit_one.now_us),
        ended_us = CASE WHEN has_ended THEN saga_commit_one.now_us END
    WHERE s.id = saga_commit_one.saga_id COLLATE "C" AND s.version = expected AND s.owner = held_by;
    IF NOT FOUND THEN
        now_us := NULL;
        RETURN;
    END IF;
    INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
    VALUES (saga_commit_one.saga_id, expected + 1, saga_commit_one.now_us, '', '', remembered);
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    SELECT c.revision, c.mark INTO head, head_mark FROM change_log c ORDER BY c.revision DESC LIMIT 1;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    VALUES (saga_commit_one.head + 1, log_mark, log_write_id, '', saga_commit_one.now_us, saga_commit_one.changes);
END
$$;

-- Commits transitions of many sagas as one transaction. Each names the version that it read and the owner that it believes in;
-- one that is not so any more is left out. If all are committed, returns one row without `ord`, with the time that they have and
-- the revision before theirs; else one for each that still exists: one that was committed before, by a call whose answer was lost,
-- counts as committed. `changes` is the log's text of all of them.
CREATE FUNCTION saga_commit(
    lease_name text, lease_fence bigint, lease_owner text, log_mark bigint, log_write_id text, changes text,
    ids text[], expected bigint[], holders text[], owners text[], wakes bigint[], states text[], machines text[],
    write_ids text[], records text[], ended boolean[], released boolean[], progressed boolean[])
    RETURNS TABLE (ord bigint, landed boolean, fenced boolean, at_us bigint, head bigint, head_mark bigint)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := steadfast_now_us();
    written text[];
    all_written boolean;
    newest record;
BEGIN
    PERFORM 1 FROM lease WHERE name = lease_name AND fence = lease_fence AND owner = lease_owner FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT n::bigint, false, true, NULL::bigint, NULL::bigint, NULL::bigint
            FROM generate_series(0, cardinality(ids) - 1) AS n;
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
        SELECT c.revision, c.mark INTO newest FROM change_log c ORDER BY c.revision DESC LIMIT 1;
        INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
        VALUES (newest.revision + 1, log_mark, log_write_id, '', now_us, saga_commit.changes);
    END IF;
    IF all_written THEN
        RETURN QUERY SELECT NULL::bigint, true, false, now_us, newest.revision, newest.mark;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT e.ord - 1, s.last_write = e.write_id, false, NULL::bigint, NULL::bigint, NULL::bigint
        FROM unnest(ids, write_ids) WITH ORDINALITY AS e(id, write_id, ord)
        JOIN saga s ON s.id = e.id COLLATE "C";
END
$$;

-- Starts one saga that has no concurrency key: the common case without sets. It writes no saga, and returns NULLs, if the id or the
-- request is there already; `saga_start` then says which.
CREATE FUNCTION saga_start_one(
    log_mark bigint, log_write_id text, changes text, hash text, document text,
    new_id text, kind text, definition_name text, definition_version bigint, deployment_id text,
    starter text, labels text, inputs text, context text, priority bigint, request_key text,
    body_hash text, deadline bigint, state text, machine text, last_write text, owner text,
    wake bigint, remembered text,
    OUT now_us bigint, OUT head bigint, OUT head_mark bigint)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
BEGIN
    now_us := steadfast_now_us();
    INSERT INTO saga_plan (hash, document) VALUES (hash, document) ON CONFLICT DO NOTHING;
    INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels,
        inputs, context, priority, request_key, body_hash, deadline_us, state, machine, version, last_write,
        owner, wake_us, crashes, created_us, started_us)
    VALUES (new_id, kind, definition_name, definition_version, hash, deployment_id, starter, labels,
        inputs, context, priority, request_key, body_hash, deadline, state, machine, 1, last_write,
        owner, wake, 0, now_us, CASE WHEN state <> 'pending' THEN now_us END)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        now_us := NULL;
        RETURN;
    END IF;
    INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
    VALUES (new_id, 1, now_us, starter, '', remembered);
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    SELECT c.revision, c.mark INTO head, head_mark FROM change_log c ORDER BY c.revision DESC LIMIT 1;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    VALUES (head + 1, log_mark, log_write_id, '', now_us, changes);
END
$$;

-- Starts sagas that have no concurrency key, as one transaction. One whose id or request is there already is left out; `added` is
-- then a JSON array of the ids of the others, and NULL if all are new. `changes` is the log's text of all of them.
CREATE FUNCTION saga_start(
    log_mark bigint, log_write_id text, changes text, plan_hashes text[], plan_documents text[],
    ids text[], kinds text[], definition_names text[], definition_versions bigint[], plans text[], deployment_ids text[],
    starters text[], labels text[], inputs text[], contexts text[], priorities bigint[], request_keys text[],
    body_hashes text[], deadlines bigint[], states text[], machines text[], last_writes text[], owners text[],
    wakes bigint[], records text[],
    OUT now_us bigint, OUT added text, OUT head bigint, OUT head_mark bigint)
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
    SELECT c.revision, c.mark INTO head, head_mark FROM change_log c ORDER BY c.revision DESC LIMIT 1;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    VALUES (saga_start.head + 1, log_mark, log_write_id, '', saga_start.now_us, saga_start.changes);
END
$$;
