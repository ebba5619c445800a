-- The store's own tables: identity, change log, idempotency, leases, schedules.
-- Times are microseconds since 1970-01-01T00:00:00Z, by the database's clock.

CREATE FUNCTION steadfast_now_us() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- One row. `store_id` names the history; it is set by the program after the migration.
CREATE TABLE store_meta (
    id smallint PRIMARY KEY CHECK (id = 1),
    store_id text NOT NULL,
    created_us bigint NOT NULL,
    compacted_revision bigint NOT NULL,
    compacted_mark bigint NOT NULL
);

-- One row, never updated: its row lock orders the log. Updating it instead would leave dead versions that an open old snapshot
-- keeps from being pruned, and every reader would walk over them.
CREATE TABLE log_lock (
    id smallint PRIMARY KEY CHECK (id = 1)
);
INSERT INTO log_lock VALUES (1);

-- One row per logical write. `changes` is a JSON array of {t: topic, k: key, o: "u"|"d", e: etag, p: payload in base64}.
CREATE TABLE change_log (
    revision bigint PRIMARY KEY,
    mark bigint NOT NULL,
    write_id text COLLATE "C" NOT NULL UNIQUE,
    origin text NOT NULL,
    time_us bigint NOT NULL,
    changes text NOT NULL
);
INSERT INTO change_log VALUES
    (0, ('x' || md5(random()::text || clock_timestamp()::text))::bit(64)::bigint, 'migration', '', steadfast_now_us(), '[]');

-- Outcomes of calls that carried a request id.
CREATE TABLE request_outcome (
    identity text NOT NULL,
    rpc text NOT NULL,
    request_id text NOT NULL,
    body_hash text NOT NULL,
    write_id text COLLATE "C" NOT NULL,
    created_us bigint NOT NULL,
    revision bigint,
    mark bigint,
    outcome text,
    PRIMARY KEY (identity, rpc, request_id)
);
CREATE UNIQUE INDEX request_outcome_write_id ON request_outcome (write_id);
CREATE INDEX request_outcome_created ON request_outcome (created_us);

CREATE TABLE lease (
    name text PRIMARY KEY,
    owner text NOT NULL,
    fence bigint NOT NULL,
    expires_us bigint NOT NULL
);

CREATE TABLE schedule (
    name text PRIMARY KEY,
    cron text NOT NULL,
    time_zone text NOT NULL,
    paused boolean NOT NULL,
    next_due_us bigint,
    last_run_us bigint,
    last_result text NOT NULL
);

-- Gives each entry the next revision. The lock and the insert must be two statements: the second takes its snapshot after the
-- lock was granted and so sees every revision committed before. It is the last lock of its transaction. An entry whose
-- `write_id` is in the log already is left out.
--
-- Plans are kept for as long as a session lives, and some are made while the tables are empty. So rows are looked up by
-- correlated subqueries and arrays, for which a plan has no choice but the index: a join planned for ten rows would read all of
-- a log that has grown to a million.
CREATE FUNCTION log_append(entries json) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM 1 FROM log_lock WHERE id = 1 FOR UPDATE;
    INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes)
    SELECT (SELECT max(c.revision) FROM change_log c) + row_number() OVER (ORDER BY e.ord),
           e.mark, e.write_id, e.origin, steadfast_now_us(), e.changes
    FROM json_to_recordset(entries)
        AS e(ord integer, mark bigint, write_id text, origin text, changes text)
    WHERE (SELECT c.revision FROM change_log c WHERE c.write_id = e.write_id COLLATE "C") IS NULL;
END
$$;

-- A batch of publishes in one call, which is one transaction when it is run by itself. Entries that carry a request id are
-- recorded first, under its unique key: a call that was begun elsewhere and has not ended is waited for there.
CREATE FUNCTION publish_batch(entries json, with_requests boolean)
    RETURNS TABLE (ord integer, revision bigint, mark bigint, body_hash text, replayed boolean)
    LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    IF NOT with_requests THEN
        PERFORM log_append(entries);
        RETURN QUERY
            SELECT e.ord, c.revision, c.mark, NULL::text, false
            FROM json_to_recordset(entries) AS e(ord integer, write_id text)
            CROSS JOIN LATERAL (SELECT c.revision, c.mark FROM change_log c
                                WHERE c.write_id = e.write_id COLLATE "C" LIMIT 1) c;
        RETURN;
    END IF;
    INSERT INTO request_outcome (identity, rpc, request_id, body_hash, write_id, created_us)
    SELECT e.identity, 'Publish', e.request_id, e.body_hash, e.write_id, steadfast_now_us()
    FROM json_to_recordset(entries)
        AS e(identity text, request_id text, body_hash text, write_id text)
    WHERE e.request_id IS NOT NULL
    ORDER BY e.identity, e.request_id
    ON CONFLICT (identity, rpc, request_id) DO NOTHING;
    PERFORM log_append((
        SELECT coalesce(json_agg(e), '[]'::json)
        FROM json_to_recordset(entries) AS e(ord integer, mark bigint, write_id text, origin text,
                                             changes text, request_id text)
        WHERE e.request_id IS NULL
           OR (SELECT o.revision IS NULL FROM request_outcome o
               WHERE o.write_id = e.write_id COLLATE "C")
    ));
    UPDATE request_outcome o SET (revision, mark) =
        (SELECT c.revision, c.mark FROM change_log c WHERE c.write_id = o.write_id)
    WHERE o.revision IS NULL AND o.write_id = ANY (ARRAY(
        SELECT e.write_id COLLATE "C" FROM json_to_recordset(entries) AS e(write_id text)));
    RETURN QUERY
        SELECT e.ord, coalesce(o.revision, c.revision), coalesce(o.mark, c.mark), o.body_hash,
               o.write_id IS NOT NULL AND o.write_id <> e.write_id COLLATE "C"
        FROM json_to_recordset(entries)
            AS e(ord integer, write_id text, identity text, request_id text)
        LEFT JOIN LATERAL (SELECT c.revision, c.mark FROM change_log c
                           WHERE c.write_id = e.write_id COLLATE "C" LIMIT 1) c ON true
        LEFT JOIN LATERAL (SELECT o.write_id, o.revision, o.mark, o.body_hash FROM request_outcome o
                           WHERE o.identity = e.identity AND o.rpc = 'Publish'
                               AND o.request_id = e.request_id LIMIT 1) o ON true;
END
$$;
