//! A server over monorepos, and what is asked of it.

use std::time::Duration;

use serde_json::Value;
use steadfast_testkit::{Server, TestDatabase, process::RunningCommand};
use tokio::time::Instant;

use crate::scene::{Engine, eventually};

/// An edit is told of within this.
const SECOND: Duration = Duration::from_secs(1);

/// An edit is made so often at most until it is told of in time: the machine may be busy with something else.
const ATTEMPTS: usize = 3;

/// A server, and the database below, which goes last.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) server: Server,
    _database: Option<TestDatabase>,
}

// === impl Stage ===

impl Stage {
    pub(crate) async fn start(engine: Engine, configuration: &str) -> Self {
        let database = engine.database().await;
        let mut builder = Server::builder().configuration(configuration);
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        Self {
            server: builder.start().await,
            _database: database,
        }
    }
}

/// What a package list says, by name, once it has this many.
pub(crate) async fn listed(server: &Server, count: usize) -> Vec<Value> {
    eventually(&format!("{count} packages to be served"), async || {
        let arguments = ["package", "list", "--limit", "1000", "-o", "json"];
        let list = server.cli(&arguments).await.json();
        let packages = list["packages"].as_array().expect("a list").clone();
        (packages.len() == count).then_some(packages)
    })
    .await
}

/// The schema of a local version.
pub(crate) async fn schema_of(server: &Server, name: &str) -> Value {
    let output = server.cli(&["schema", "get", name]).await;
    serde_json::from_str(output.success()).expect("JSON")
}

/// The head's revision.
pub(crate) async fn revision(server: &Server) -> i64 {
    let head = server.cli(&["head", "-o", "json"]).await.json();
    let cursor = head["cursor"].as_str().expect("a cursor");
    let revision = cursor.split(':').nth(1).and_then(|part| part.parse().ok());
    revision.unwrap_or_else(|| panic!("no revision in {cursor}"))
}

/// A watch of everything that happens from now on.
pub(crate) async fn watch(server: &Server) -> RunningCommand {
    let head = server.cli(&["head", "-o", "json"]).await.json();
    let cursor = head["cursor"].as_str().expect("a cursor");
    let mut watch = server.cli_running(&["watch", "--after", cursor, "-o", "json"]);
    // It is open once something came through it.
    let _ = server.cli(&["publish", "app/open", "x"]).await.success();
    told(&mut watch, "upsert app/open x").await;
    watch
}

/// Reads a watch up to a change, written as `op topic key`.
pub(crate) async fn told(watch: &mut RunningCommand, expected: &str) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let line = watch.next_line().await.expect("the watch goes on");
        let change: Value = serde_json::from_str(&line).expect("JSON");
        let part = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        let change = format!("{} {} {}", part("op"), part("topic"), part("key"));
        if change == expected {
            return before;
        }
        before.push(change);
    }
}

/// Makes an edit, each time another, until it is told of within a second.
pub(crate) async fn within_a_second(
    watch: &mut RunningCommand,
    expected: &str,
    mut edit: impl FnMut(usize),
) {
    let mut took = Vec::new();
    for attempt in 0..ATTEMPTS {
        let began = Instant::now();
        edit(attempt);
        told(watch, expected).await;
        took.push(began.elapsed());
        if began.elapsed() < SECOND {
            println!("{expected}: {took:?}");
            return;
        }
    }
    panic!("{expected}: each time later than {SECOND:?}: {took:?}");
}
