-- The functions for one saga, in fewer statements, and without settings of their own: what a function sets is put back at its end.
-- That is a quarter of what the database computes for a step. What they promise is as before.

-- Commits the transition of one saga that releases no key: the common case without sets. It writes nothing, and returns NULLs, if
-- the lease is lost or the saga is not as it was read; `saga_commit` then says which. The lock of the log and the look at its end
-- must be two statements: see `log_append`.
CREATE OR REPLACE FUNCTION saga_commit_one(
    lease_name text, lease_fence bigint, lease_owner text, log_mark bigint, log_write_id text, changes text,
    saga_id text, expected bigint, held_by text, next_owner text, wake bigint, next_state text, next_machine text,
    write text, remembered text, has_ended boolean, progressed boolean,
    OUT now_us bigint, OUT head bigint, OUT head_mark bigint)
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    now_us := steadfast_now_us();
    WITH held AS MATERIALIZED (
        SELECT 1 FROM lease l WHERE l.name = lease_name AND l.fence = lease_fence AND l.owner = lease_owner FOR SHARE
    ), moved AS (
        UPDATE saga s SET state = next_state, machine = next_machine, version = s.version + 1,
            last_write = write, owner = next_owner, wake_us = wake,
            crashes = CASE WHEN progressed THEN 0 ELSE s.crashes END,
            started_us = coalesce(s.started_us, saga_commit_one.now_us),
            ended_us = CASE WHEN has_ended THEN saga_commit_one.now_us END
        FROM held
        WHERE s.id = saga_commit_one.saga_id COLLATE "C" AND s.version = expected AND s.owner = held_by
        RETURNING s.version
    )
    INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
    SELECT saga_commit_one.saga_id, m.version, saga_commit_one.now_us, '', '', remembered FROM moved m;
    IF NOT FOUND THEN
        now_us := NULL;
        RETURN;
    END IF;
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    WITH newest AS MATERIALIZED (
        SELECT c.revision, c.mark FROM change_log c ORDER BY c.revision DESC LIMIT 1
    ), appended AS (
        INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
        SELECT n.revision + 1, log_mark, log_write_id, '', saga_commit_one.now_us, saga_commit_one.changes FROM newest n
    )
    SELECT n.revision, n.mark INTO head, head_mark FROM newest n;
END
$$;

-- Starts one saga that has no concurrency key: the common case without sets. It writes no saga, and returns NULLs, if the id or the
-- request is there already; `saga_commit` then says which.
CREATE OR REPLACE FUNCTION saga_start_one(
    log_mark bigint, log_write_id text, changes text, hash text, document text,
    new_id text, kind text, definition_name text, definition_version bigint, deployment_id text,
    starter text, labels text, inputs text, context text, priority bigint, request_key text,
    body_hash text, deadline bigint, state text, machine text, last_write text, owner text,
    wake bigint, remembered text,
    OUT now_us bigint, OUT head bigint, OUT head_mark bigint)
    LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
BEGIN
    now_us := steadfast_now_us();
    WITH planned AS (
        INSERT INTO saga_plan (hash, document) VALUES (hash, document) ON CONFLICT DO NOTHING
    ), added AS (
        INSERT INTO saga (id, kind, definition_name, definition_version, plan_hash, deployment_id, triggered_by, labels,
            inputs, context, priority, request_key, body_hash, deadline_us, state, machine, version, last_write,
            owner, wake_us, crashes, created_us, started_us)
        VALUES (new_id, kind, definition_name, definition_version, hash, deployment_id, starter, labels,
            inputs, context, priority, request_key, body_hash, deadline, state, machine, 1, last_write,
            owner, wake, 0, now_us, CASE WHEN state <> 'pending' THEN now_us END)
        ON CONFLICT DO NOTHING
        RETURNING saga.id
    )
    INSERT INTO saga_event (saga_id, version, time_us, actor, reason, records)
    SELECT a.id, 1, now_us, starter, '', remembered FROM added a;
    IF NOT FOUND THEN
        now_us := NULL;
        RETURN;
    END IF;
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    WITH newest AS MATERIALIZED (
        SELECT c.revision, c.mark FROM change_log c ORDER BY c.revision DESC LIMIT 1
    ), appended AS (
        INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
        SELECT n.revision + 1, log_mark, log_write_id, '', now_us, changes FROM newest n
    )
    SELECT n.revision, n.mark INTO head, head_mark FROM newest n;
END
$$;
