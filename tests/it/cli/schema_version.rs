//! The database's schema: brought up to date, left alone, and too new.

use steadfast_testkit::{Server, TestDatabase, foreign::python, steadfast};

/// What a newer program leaves behind: its migration's number. The rest of the row is that of the newest one known here.
const NEWER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
    SELECT version + 1, 'later', success, checksum, execution_time FROM _sqlx_migrations ORDER BY version DESC LIMIT 1";

const PYTHON: &str = "
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute(sys.argv[2])
";

/// The newest schema that the program knows.
async fn known() -> u32 {
    let output = steadfast(&std::env::temp_dir(), &[], &["--version"]).await;
    let line = output
        .success()
        .lines()
        .find(|line| line.starts_with("schema:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[tokio::test]
async fn a_schema_is_migrated_by_hand_where_serve_must_not() {
    let known = known().await;
    let database = TestDatabase::create_empty().await;
    for url in [None, Some(database.url())] {
        let mut builder = Server::builder().argument("--no-migrate");
        if let Some(url) = &url {
            builder = builder.database_url(url);
        }
        let folder = tempfile::TempDir::new().expect("a folder");
        let builder = builder.directory(folder.path());
        let failure = builder.try_start().await.expect_err("it must not migrate");
        assert_eq!(failure.status.and_then(|status| status.code()), Some(1));
        for part in [
            "schema 0",
            &format!("needs {known}"),
            "steadfast migrate",
            "--no-migrate",
        ] {
            assert!(failure.output.contains(part), "{part} in {failure}");
        }
        let variables: Vec<_> = url
            .iter()
            .map(|url| ("STEADFAST_DATABASE__URL", url.as_str()))
            .collect();
        let migrate = async || steadfast(folder.path(), &variables, &["migrate"]).await;
        assert_eq!(
            migrate().await.success(),
            format!("migrated the schema from 0 to {known}\n")
        );
        assert_eq!(
            migrate().await.success(),
            format!("the schema is up to date, at {known}\n")
        );
        let server = builder.start().await;
        let _ = server.cli(&["head"]).await.success();
    }
}

#[tokio::test]
async fn a_schema_of_a_newer_program_is_refused_with_both_numbers() {
    let known = known().await;
    let both = [format!("schema {}", known + 1), format!("up to {known}")];

    let database = TestDatabase::create().await;
    database.psql(NEWER).await;
    let builder = Server::builder().database_url(database.url());
    let failure = builder.try_start().await.expect_err("it is too new");
    for part in &both {
        assert!(failure.output.contains(part), "{part} in {failure}");
    }

    let mut server = Server::builder().start().await;
    server.stop().await;
    let file = server.directory().join(".steadfast/steadfast.db");
    let file = file.to_str().expect("a path that is text");
    let _ = python(PYTHON, &[file, NEWER]).await.success();
    for arguments in [&["migrate"][..], &["serve", "--no-migrate"], &["serve"]] {
        let output = steadfast(server.directory(), &[], arguments).await;
        let told = output.failure(1);
        for part in &both {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
