-- Who watches, and how far each is: one row per incarnation of a node, and one per replica of the server.

-- `key` orders incarnations: the higher one of a node is newer. `stream` is drawn by each stream that is opened; what another stream
-- wants to write is refused by it. `opened_us` is when that stream was opened. While `connected`, the lease is that of the replica that
-- serves the stream, whose own row has the same node and incarnation; afterwards it is `expires_us`. `sent_…` is how far the stream was
-- sent, as of the last time that its replica wrote it down; `flushes` counts, in a replica's row, how often it did. `applied_…` is what
-- the node has proven to have applied; empty and NULL if it never did.
CREATE TABLE node (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    registered_us bigint NOT NULL,
    opened_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    seen_us bigint NOT NULL,
    sent_revision bigint NOT NULL,
    applied_revision bigint,
    applied_mark bigint,
    flushes bigint NOT NULL,
    connected boolean NOT NULL,
    kind text NOT NULL,
    node text COLLATE "C" NOT NULL,
    incarnation text COLLATE "C" NOT NULL,
    stream text NOT NULL,
    replica text COLLATE "C" NOT NULL,
    labels text NOT NULL,
    sent_store text NOT NULL,
    applied_store text NOT NULL,
    error text NOT NULL,
    UNIQUE (node, incarnation)
) WITH (fillfactor = 50);
