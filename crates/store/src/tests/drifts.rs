//! What lists of drifts cost, however long the history is.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Row as _};

use crate::{
    DriftFilter,
    engine::{Db, Sql},
    test_stores::{Fixture, both},
};

/// Closed drifts of one resource among many.
const HISTORY: &str = "INSERT INTO drift (id, key, version, spec_version, first_seen_us, changed_us, flips, severity, \
    suppressed_until_us, resolved_us, secret, state, kind, path, suppressed_by, suppressed_policy, expected, actual, actor, reason) \
    SELECT 'c' || s.n, s.n % 1000 + 1, 1, 1, 1, 1, 0, 2, NULL, 2, false, 'stale', 'changed', '/a', '', '', '1', '2', '', '' \
    FROM (WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s) AS s";
const RESOURCES: &str = "INSERT INTO drift_resource (writes, spec_version, recorded_us, applied_us, recorded, provider, type, id, \
    labels, recorded_by, saga_id, last_write, spec) \
    SELECT 1, 1, 1, 1, true, 'cloud', 'vm', 'r' || s.n, CASE WHEN s.n % 2 = 0 THEN '{\"even\":\"yes\"}' ELSE '{}' END, '', '', '', '{}' \
    FROM (WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000) SELECT n FROM s) AS s";
/// Forty open ones, of which those with an even number are hidden.
const OPEN: &str = "INSERT INTO drift (id, key, version, spec_version, first_seen_us, changed_us, flips, severity, \
    suppressed_until_us, resolved_us, secret, state, kind, path, suppressed_by, suppressed_policy, expected, actual, actor, reason) \
    SELECT 'o' || s.n, s.n, 1, 1, 1, 1, 0, 2, NULL, NULL, false, 'open', 'changed', '/a', CASE WHEN s.n % 2 = 0 THEN 'snooze' ELSE '' END, \
    '', '1', '2', '', '' \
    FROM (WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 40) SELECT n FROM s) AS s";

impl Fixture {
    async fn execute(&self, sql: &'static str) {
        match self.store.db() {
            Db::Postgres { connections, .. } => {
                sqlx::query(sql).execute(connections.pool()).await.unwrap();
            }
            Db::Sqlite { writer, .. } => {
                sqlx::query(sql).execute(writer).await.unwrap();
            }
        }
    }

    /// The indexes and tables that a plan reads, and whether it reads a whole one.
    async fn plan(&self, sql: &Sql, arguments: usize) -> (String, BTreeSet<String>) {
        let mut text = String::new();
        match self.store.db() {
            Db::Postgres { connections, .. } => {
                // A plan for any arguments.
                let nulls = vec!["NULL"; arguments].join(", ");
                let mut session = connections.pool().acquire().await.unwrap();
                for statement in [
                    "SET plan_cache_mode = force_generic_plan".to_owned(),
                    format!("PREPARE planned AS {}", sql.for_postgres()),
                ] {
                    sqlx::raw_sql(AssertSqlSafe(statement))
                        .execute(&mut *session)
                        .await
                        .unwrap();
                }
                let explain = format!("EXPLAIN EXECUTE planned ({nulls})");
                let rows = sqlx::raw_sql(AssertSqlSafe(explain))
                    .fetch_all(&mut *session)
                    .await
                    .unwrap();
                for row in rows {
                    text.push_str(row.get::<&str, _>(0));
                    text.push('\n');
                }
                session.close_on_drop();
            }
            Db::Sqlite { writer, .. } => {
                let explain = format!("EXPLAIN QUERY PLAN {}", sql.for_sqlite());
                let rows = sqlx::query(AssertSqlSafe(explain))
                    .fetch_all(writer)
                    .await
                    .unwrap();
                for row in rows {
                    text.push_str(row.get::<&str, _>("detail"));
                    text.push('\n');
                }
            }
        }
        let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let indexes = words
            .filter(|word| word.starts_with("drift"))
            .map(str::to_owned)
            .collect();
        (text, indexes)
    }
}

#[tokio::test]
async fn what_is_hidden_is_counted_without_the_history() {
    for fixture in both().await {
        for sql in [RESOURCES, HISTORY, OPEN, "ANALYZE"] {
            fixture.execute(sql).await;
        }
        let store = &fixture.store;
        let all = DriftFilter::default();
        let count =
            async |filter: &DriftFilter, most| store.hidden_drifts(filter, most).await.unwrap();
        assert_eq!(count(&all, 10_000).await, 20);
        assert_eq!(
            count(&all, 7).await,
            7,
            "no more than so many are looked at"
        );
        let labelled = DriftFilter {
            labels: [("even".to_owned(), "yes".to_owned())].into(),
            ..all.clone()
        };
        assert_eq!(count(&labelled, 10_000).await, 20);
        let of = |id: &str| DriftFilter {
            provider: "cloud".to_owned(),
            resource_kind: "vm".to_owned(),
            resource_id: id.to_owned(),
            ..all.clone()
        };
        assert_eq!(
            (count(&of("r2"), 1).await, count(&of("r3"), 1).await),
            (1, 0)
        );
        let closed = |filter: DriftFilter| DriftFilter {
            states: vec!["stale".to_owned()],
            ..filter
        };
        assert_eq!(count(&closed(all.clone()), 10_000).await, 0);
        // The lists themselves.
        assert_eq!(store.drifts(&all, "", 1_000).await.unwrap().len(), 20);
        let listed = |filter| async move { store.drifts(&filter, "", 1_000).await.unwrap() };
        assert_eq!(listed(of("r3")).await.len(), 1);
        assert_eq!(listed(of("r2")).await.len(), 0, "it is hidden");
        assert_eq!(listed(closed(of("r2"))).await.len(), 20);

        for (sql, arguments, wanted) in super::super::drift::listing() {
            let (plan, indexes) = fixture.plan(sql, arguments).await;
            let used = wanted.iter().all(|index| indexes.contains(*index));
            assert!(used, "{}: {plan}", sql.name);
            // What SQLite reads from end to end, but for what it made itself.
            let whole = plan.lines().filter_map(|line| line.strip_prefix("SCAN "));
            let mut whole = whole.filter(|table| {
                let made = plan.contains(&format!("CO-ROUTINE {table}"));
                !made && !table.contains("INDEX")
            });
            assert_eq!(whole.next(), None, "{}: {plan}", sql.name);
            assert!(!plan.contains("Seq Scan"), "{}: {plan}", sql.name);
        }
    }
}
