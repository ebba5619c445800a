//! Folders: moved and replaced while they are watched, and beside registries.

use std::{fs, path::Path, time::Duration};

use serde_json::json;
use steadfast_api::registry::v1::GetPackageResponse;
use steadfast_catalog::{LocalSource, Options, Source, SourceKind};
use steadfast_types::ReplicaId;

use crate::fixture::{Database, HTTP, Replica, counts, eventually, options, registry};

fn write_package(root: &Path, description: &str) {
    let folder = root.join("packages/a");
    fs::create_dir_all(folder.join("assets")).expect("a folder");
    let manifest = json!({"name": "in-a-folder", "description": description}).to_string();
    fs::write(folder.join("package.json"), manifest).expect("a file");
}

async fn is_described(replica: &Replica, description: &str) {
    eventually(description, async || {
        let answer = replica.catalog.lookup_package("in-a-folder", "").ok()?;
        let answer: GetPackageResponse = answer.decode().expect("decodes");
        (answer.package?.description == description).then_some(())
    })
    .await;
}

fn local(root: &Path) -> Source {
    Source {
        name: "local".into(),
        kind: SourceKind::Local(LocalSource {
            roots: vec![root.to_str().expect("plain").to_owned()],
            // Nothing is found by looking again.
            rescan_interval: Duration::from_secs(3_600),
        }),
    }
}

/// Packages that lie in folders do not make it look as if the registries beside them had been read.
#[tokio::test]
async fn rule_6_a_registry_beside_folders_that_were_read_first_is_read_at_the_start() {
    for database in Database::both().await {
        let temporary = tempfile::tempdir().expect("a folder");
        write_package(temporary.path(), "first");
        let alone = Options {
            sources: vec![local(temporary.path())],
            ..Options::new(ReplicaId::random())
        };
        let replica = database.replica(alone).await;
        is_described(&replica, "first").await;
        replica.stop().await;

        let npm = registry().await;
        let mut beside = options(&npm, &[HTTP]);
        beside.sources.push(local(temporary.path()));
        let replica = database.replica(beside.clone()).await;
        assert_eq!(counts(&replica.filled().await)[0], [2, 1, 1, 0]);
        replica.stop().await;
        // It is filled now.
        let replica = database.replica(beside).await;
        let asked = replica.catalog.refreshes().list(&Default::default()).await;
        assert_eq!(asked.expect("lists").refreshes.len(), 1);
        replica.stop().await;
    }
}

#[tokio::test]
async fn rule_4_what_takes_the_place_of_a_watched_folder_is_watched_with_all_below_it() {
    for place in ["", "packages", "packages/a"] {
        let database = Database::sqlite().await;
        let temporary = tempfile::tempdir().expect("a folder");
        let (root, other) = (
            temporary.path().join("root"),
            temporary.path().join("other"),
        );
        write_package(&root, "first");
        write_package(&other, "second");
        let options = Options {
            sources: vec![local(&root)],
            ..Options::new(ReplicaId::random())
        };
        let replica = database.replica(options).await;
        is_described(&replica, "first").await;
        fs::rename(root.join(place), temporary.path().join("former")).expect("moves");
        fs::rename(other.join(place), root.join(place)).expect("moves");
        is_described(&replica, "second").await;
        write_package(&root, &format!("third, in {place:?}"));
        is_described(&replica, &format!("third, in {place:?}")).await;
        replica.stop().await;
    }
}
