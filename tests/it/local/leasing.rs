//! Two replicas, one database: each root is read by one of them, and by the other when that one is killed.

use std::time::Duration;

use serde_json::json;
use steadfast_testkit::{Server, TestDatabase};
use tokio::time::Instant;

use super::{
    monorepo::{Monorepo, manifest, name, schema},
    stage::{listed, revision, schema_of},
};
use crate::{http::get, scene::eventually};

/// How long a lease lasts.
const LEASE_MS: u64 = 2_000;

async fn replica(database: &TestDatabase, configuration: &str) -> Server {
    let configuration = format!("[lease]\nduration_ms = {LEASE_MS}\n{configuration}");
    let builder = Server::builder().configuration(configuration);
    builder.database_url(database.url()).start().await
}

/// Whether a replica reads a root: it counts the packages of no other.
async fn reads(server: &Server) -> bool {
    let (_, _, metrics) = get(server, "/metrics").await;
    let mut lines = metrics
        .lines()
        .filter(|line| line.starts_with("steadfast_local_packages"));
    lines.any(|line| !line.ends_with(" 0"))
}

#[tokio::test]
async fn rule_4_each_root_is_read_by_one_replica_and_by_another_within_the_lease() {
    let database = TestDatabase::create().await;
    let repo = Monorepo::of(6);
    let configuration = Monorepo::source("dev", &[&repo], 30_000);
    let mut servers = vec![
        replica(&database, &configuration).await,
        replica(&database, &configuration).await,
    ];
    for server in &servers {
        listed(server, 6).await;
    }
    assert_eq!(
        revision(&servers[0]).await,
        6,
        "each package was written once"
    );
    let (first, second) = (reads(&servers[0]).await, reads(&servers[1]).await);
    assert!(
        first != second,
        "exactly one of them reads: {first}, {second}"
    );
    // Whoever is asked for a refresh has the other one look, if need be.
    for server in &servers {
        let refresh = server.cli(&["refresh", "-o", "json"]).await;
        assert!(
            refresh.success().contains("\"listed\":6") || refresh.stdout.contains("\"listed\": 6"),
            "{refresh:?}"
        );
    }
    assert_eq!(revision(&servers[0]).await, 6);

    let mut holder = servers.remove(usize::from(second));
    let other = servers.remove(0);
    holder.kill().await;
    let killed = Instant::now();
    let mut edited = schema("adaptor-003");
    edited["title"] = json!("after the kill");
    repo.schema("adaptor-003", &edited);
    eventually("the other replica to go on", async || {
        let now = schema_of(&other, &name("adaptor-003")).await;
        (now["title"] == "after the kill").then_some(())
    })
    .await;
    let took = killed.elapsed();
    // The lease, the wait for it, a look, and some time for a busy machine.
    assert!(
        took < Duration::from_millis(LEASE_MS) + Duration::from_secs(4),
        "{took:?}"
    );
    assert!(reads(&other).await);
    assert_eq!(revision(&other).await, 7);
}

#[tokio::test]
async fn rule_4_a_replica_without_a_root_removes_nothing_of_it() {
    let database = TestDatabase::create().await;
    let (mine, theirs) = (Monorepo::of(2), Monorepo::empty());
    theirs.manifest("theirs", &manifest("theirs"));
    // A package that both have, under the same source's name.
    theirs.manifest("both", &manifest("adaptor-000"));
    let one = replica(&database, &Monorepo::source("dev", &[&mine], 500)).await;
    listed(&one, 2).await;
    let two = replica(&database, &Monorepo::source("dev", &[&theirs], 500)).await;
    listed(&two, 3).await;
    let three = replica(&database, "").await;
    let head = revision(&one).await;
    assert_eq!(head, 3, "nobody took or removed what the other one has");
    let refresh = two.cli(&["refresh", "-o", "json"]).await;
    assert!(refresh.success().contains("SHADOWED"), "{refresh:?}");
    listed(&three, 3).await;
    theirs.remove("theirs");
    listed(&three, 2).await;
    assert_eq!(revision(&three).await, head + 1);
    // A root that is no longer served at all is not emptied by those who never had it.
    drop(one);
    theirs.manifest("later", &manifest("later"));
    listed(&two, 3).await;
    let kept = two.cli(&["package", "get", &name("adaptor-001")]).await;
    let _ = kept.success();
}
