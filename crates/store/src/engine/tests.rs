//! Every statement is prepared on both engines, and both have the same tables.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqlSafeStr as _};

use super::Db;
use crate::{
    all_statements,
    own::TailRow,
    test_stores::{Fixture, postgres, sqlite},
};

#[tokio::test]
async fn every_statement_prepares_on_sqlite() {
    let fixture = sqlite().await;
    let Db::Sqlite { writer, .. } = fixture.store.db() else {
        panic!("the fixture is SQLite");
    };
    for sql in all_statements() {
        if let Some(text) = sql.sqlite {
            let prepared = writer.prepare(text.into_sql_str()).await;
            assert!(
                prepared.is_ok(),
                "{}: {:?}\n{text}",
                sql.name,
                prepared.err()
            );
        }
    }
}

#[tokio::test]
async fn every_statement_prepares_on_postgres() {
    let fixture = postgres().await;
    let Db::Postgres { connections, .. } = fixture.store.db() else {
        panic!("the fixture is PostgreSQL");
    };
    for sql in all_statements() {
        if let Some(text) = sql.postgres {
            let prepared = connections.pool().prepare(text.into_sql_str()).await;
            assert!(
                prepared.is_ok(),
                "{}: {:?}\n{text}",
                sql.name,
                prepared.err()
            );
        }
    }
}

/// A future is moved several times before it is first polled, and into that of its caller: room in it for what happens rarely costs
/// every statement.
#[tokio::test]
async fn a_statement_has_no_room_for_what_happens_rarely() {
    let fixture = sqlite().await;
    let statement = fixture.store.db().read(all_statements()[0]);
    let bytes = size_of_val(&statement.one::<TailRow>());
    assert!(bytes <= 2_048, "{bytes} bytes");
}

#[test]
fn statement_names_are_unique_and_each_statement_runs_somewhere() {
    let mut names = BTreeSet::new();
    for sql in all_statements() {
        assert!(names.insert(sql.name), "{} is there twice", sql.name);
        assert!(
            sql.postgres.is_some() || sql.sqlite.is_some(),
            "{}",
            sql.name
        );
    }
}

#[tokio::test]
async fn both_engines_have_the_same_tables_and_columns() {
    let (lite, server) = (sqlite().await, postgres().await);
    let (lite, server) = (tables(&lite).await, tables(&server).await);
    assert!(lite.contains_key("change_log"));
    assert_eq!(lite, server);
}

/// Table to column names.
async fn tables(fixture: &Fixture) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables = BTreeMap::<String, BTreeSet<String>>::new();
    let pairs: Vec<(String, String)> = match fixture.store.db() {
        Db::Postgres { connections, .. } => sqlx::query(
            "SELECT table_name::text, column_name::text FROM information_schema.columns \
             WHERE table_schema = current_schema()",
        )
        .fetch_all(connections.pool())
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect(),
        Db::Sqlite { writer, .. } => {
            let names = sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'table'")
                .fetch_all(writer)
                .await
                .unwrap();
            let mut pairs = Vec::new();
            for name in names.iter().map(|row| row.get::<String, _>(0)) {
                let sql = format!("SELECT name FROM pragma_table_info('{name}')");
                let columns = sqlx::query(AssertSqlSafe(sql))
                    .fetch_all(writer)
                    .await
                    .unwrap();
                pairs.extend(columns.iter().map(|row| (name.clone(), row.get(0))));
            }
            pairs
        }
    };
    for (table, column) in pairs {
        if !table.starts_with('_') && !table.starts_with("sqlite_") {
            tables.entry(table).or_default().insert(column);
        }
    }
    tables
}
