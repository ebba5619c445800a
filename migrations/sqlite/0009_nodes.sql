-- Who watches, and how far each is: one row per incarnation of a node, and one per replica of the server.

-- `key` orders incarnations: the higher one of a node is newer. `stream` is drawn by each stream that is opened; what another stream
-- wants to write is refused by it. `opened_us` is when that stream was opened. While `connected`, the lease is that of the replica that
-- serves the stream, whose own row has the same node and incarnation; afterwards it is `expires_us`. `sent_…` is how far the stream was
-- sent, as of the last time that its replica wrote it down; `flushes` counts, in a replica's row, how often it did. `applied_…` is what
-- the node has proven to have applied; empty and NULL if it never did.
CREATE TABLE node (
    key INTEGER PRIMARY KEY,
    registered_us INTEGER NOT NULL,
    opened_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL,
    sent_revision INTEGER NOT NULL,
    applied_revision INTEGER,
    applied_mark INTEGER,
    flushes INTEGER NOT NULL,
    connected INTEGER NOT NULL,
    kind TEXT NOT NULL,
    node TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    stream TEXT NOT NULL,
    replica TEXT NOT NULL,
    labels TEXT NOT NULL,
    sent_store TEXT NOT NULL,
    applied_store TEXT NOT NULL,
    error TEXT NOT NULL,
    UNIQUE (node, incarnation)
) STRICT;
