//! Plans at twenty thousand nodes and a long log: who registers, reports or gives a sign of life costs what it names, and who counts costs
//! a few look-ups for each node, whatever the log holds.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{EACH, REST, explained};
use crate::{
    engine::Db,
    node,
    test_stores::{postgres, sqlite},
};

/// Nodes, and then a hundred replicas.
const NODES: i64 = 20_000;

/// Revisions.
const REVISIONS: i64 = 100_000;

/// Rows visited for each node by whoever counts all: it, its replica three times, its revision, the next one, its other
/// incarnations.
const EACH_NODE: f64 = 9.0;

/// Statements about what they name.
const NAMED: &[(&str, &str)] = &[
    (
        "node_write",
        r#"'[{"node":"n010000","incarnation":"i","stream":"s10000","sent_store":"x","sent_revision":7,"applied_store":"x","applied_revision":7,"applied_mark":7,"ended":false,"seen":true},
            {"node":"nobody","incarnation":"i","stream":"s","sent_store":"x","sent_revision":7,"applied_store":"","ended":true,"seen":true}]', 1000"#,
    ),
    (
        "node_report",
        r#"'[{"node":"n010000","incarnation":"i","applied_store":"x","applied_revision":7,"applied_mark":7,"error":""}]'"#,
    ),
    ("node_standing", "'n010000', 'i', 7"),
    ("node_known", "'n010000', 'i'"),
    ("node_beat", "'r001', 1000, 7, 7, 'x', 1"),
    ("node_leave", "'r001'"),
    (
        "node_named",
        r#"9223372036854775807, '["n010000","nobody"]'"#,
    ),
    (
        "node_tally_named",
        r#"9223372036854775807, 7, '["n010000","nobody"]'"#,
    ),
];

/// Statements about all nodes: some for a wait, and some at long intervals. The one that registers counts them.
const ALL: &[(&str, &str)] = &[
    ("node_tally", "9223372036854775807, 99000"),
    ("node_live", "9223372036854775807"),
    (
        "node_list",
        "9223372036854775807, 'n010000', 'i', true, 100",
    ),
    ("node_list", "9223372036854775807, '', '', false, 30000"),
    ("node_own", "'r001'"),
    ("node_end_streams", "'r001', 1000"),
    ("node_prune", "0, 1000"),
    (
        "node_register",
        r#"'[{"rank":0,"opened_us":1,"sent_revision":7,"node":"new","incarnation":"i","stream":"s","labels":"{}","sent_store":"x"}]', 1000, 'r001', 30000"#,
    ),
];

/// For the embedded database at its start.
const AT_START: &[&str] = &["node_alone", "node_inherit"];

fn fill() -> Vec<String> {
    let numbers = |through: i64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {through})"
        )
    };
    let columns = "INSERT INTO node (registered_us, opened_us, expires_us, seen_us, sent_revision, applied_revision, applied_mark, \
                   flushes, connected, kind, node, incarnation, stream, replica, labels, sent_store, applied_store, error)";
    let replica = "'r' || substr(CAST(1000 + i % 100 AS TEXT), 2)";
    vec![
        format!(
            "INSERT INTO change_log (revision, mark, write_id, origin, time_us, changes) {} SELECT i, i, 'w' || i, '', i, '[]' FROM n",
            numbers(REVISIONS)
        ),
        format!(
            "{columns} {} SELECT 1, 1, 9000000000000000, 1, 99000, 99000, 99000, 1, true, 'replica', {replica}, {replica}, 's', \
             {replica}, '{{}}', store_id, store_id, '' FROM n, store_meta",
            numbers(100)
        ),
        format!(
            "{columns} {} SELECT 1, 1, 1, 1, 99000, 90000 + i % 10000, 90000 + i % 10000, 0, i % 10 > 0, 'watcher', \
             'n' || substr(CAST(1000000 + i AS TEXT), 2), 'i', 's' || i, {replica}, '{{}}', store_id, store_id, '' FROM n, store_meta",
            numbers(NODES)
        ),
    ]
}

#[test]
fn no_statement_is_left_out() {
    let named = NAMED.iter().chain(ALL).map(|(name, _)| *name);
    let named: BTreeSet<&str> = named.chain(AT_START.iter().copied()).collect();
    let all = node::statements();
    let all: BTreeSet<&str> = all.iter().map(|sql| sql.name).collect();
    assert_eq!(named, all);
}

#[tokio::test]
async fn no_statement_reads_more_than_it_is_about() {
    let fixture = postgres().await;
    let Db::Postgres { connections, .. } = fixture.store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    let mut connection = connections.pool().acquire().await.unwrap();
    for sql in fill() {
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    // As a server finds it that is new, and as one does that is not.
    for analyze in ["SELECT 1", "ANALYZE"] {
        connection.execute(analyze).await.unwrap();
        let mut problems = Vec::new();
        for (calls, bound) in [
            (NAMED, REST),
            (ALL, REST + EACH_NODE * (NODES + 100) as f64),
        ] {
            for (name, arguments) in calls {
                for run in explained(&mut connection, name, arguments).await {
                    let through_log = run.whole.contains("\"change_log\"");
                    if run.visited > bound + EACH * run.returned.min(100.0) || through_log {
                        problems.push(run.told);
                    }
                }
            }
        }
        assert!(problems.is_empty(), "{analyze}\n{}", problems.concat());
    }
}

#[tokio::test]
async fn no_statement_goes_through_the_log_on_sqlite() {
    let fixture = sqlite().await;
    let Db::Sqlite { writer, .. } = fixture.store.db() else {
        panic!("the fixture is SQLite");
    };
    let mut problems = Vec::new();
    for (name, _) in NAMED.iter().chain(ALL) {
        let text = super::statement(name).for_sqlite();
        let explain = format!("EXPLAIN QUERY PLAN {text}");
        let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(writer).await;
        for row in rows.unwrap() {
            let step: String = row.get("detail");
            eprintln!("{name}: {step}");
            let of_nodes = NAMED.iter().any(|(named, _)| named == name);
            let scans = |table: &str| step.starts_with(&format!("SCAN {table}"));
            if scans("change_log") || scans("a") || scans("c") || (of_nodes && scans("n")) {
                problems.push(format!("{name}: {step}\n"));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.concat());
}
