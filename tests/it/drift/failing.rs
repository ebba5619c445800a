//! A resource whose row cannot be read: the sweep goes on without it, and says so.

use serde_json::Value;

use super::stage::{Stage, resized, spec};
use crate::scene::Engine;

#[tokio::test]
async fn what_cannot_be_compared_is_named_to_whoever_asks() {
    let stage = Stage::start(Engine::Postgres).await;
    for id in ["1", "2", "3"] {
        stage.record(id, &spec()).await;
        stage.report(id, &resized()).await;
    }
    // A NULL where there never is one.
    let poison = "ALTER TABLE drift_resource ALTER labels DROP NOT NULL; UPDATE drift_resource SET labels = NULL WHERE id = '2'";
    stage.psql(poison).await;
    let sweep = stage.detect().await;
    assert_eq!((sweep.compared, sweep.drifts_opened), (2, 2));
    assert_eq!((sweep.failed.len(), sweep.failed_count), (1, 1));
    let failed = &sweep.failed[0];
    assert_eq!(failed.key, super::stage::key("droplet", "2"));
    assert_eq!(failed.reason, "the database refused the data");
    assert_eq!(stage.open().await.len(), 2);

    let told = stage.server.cli(&["drift", "sweep", &sweep.id]).await;
    let line = "1 resource could not be compared:\n  do/droplet/2: the database refused the data";
    assert!(told.stdout.contains(line), "{told:?}");
    let told = stage
        .server
        .cli(&["drift", "sweep", &sweep.id, "-o", "json"])
        .await;
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(told["failed_count"], 1);
    assert_eq!(told["failed"][0]["key"]["id"], "2");
    // The next sweeps are not held up by it.
    let sweep = stage.detect().await;
    assert_eq!((sweep.compared, sweep.failed_count), (0, 0));
}
