//! A server that is killed half way, and what the next one fetches.

use std::collections::BTreeSet;

use serde_json::Value;
use steadfast_testkit::{NpmServer, Server, npm::GeneratedPackages};

use crate::scene::{Engine, eventually};

const PACKAGES: usize = 60;

/// The newest refresh with its items.
async fn newest(server: &Server) -> (Value, Vec<Value>) {
    let list = server.cli(&["refresh", "list", "-o", "json"]).await.json();
    let id = list["refreshes"][0]["id"].as_str().expect("one").to_owned();
    let mut found = server
        .cli(&["refresh", "get", &id, "-o", "json"])
        .await
        .json();
    let items = found["items"].take();
    let items = items.as_array().expect("a list").clone();
    (found["refresh"].take(), items)
}

fn packages(items: &[Value]) -> BTreeSet<String> {
    let packages = items
        .iter()
        .map(|item| item["package"].as_str().expect("a name").to_owned());
    packages.filter(|name| !name.is_empty()).collect()
}

#[tokio::test]
async fn rule_6_a_server_killed_half_way_is_followed_by_one_that_fetches_only_what_is_missing() {
    for engine in Engine::BOTH {
        let npm = NpmServer::start().await;
        npm.generate(GeneratedPackages {
            prefix: "@bench/p-".to_owned(),
            count: PACKAGES,
            versions: 1,
        });
        // The second half waits.
        let gates = [3, 4, 5].map(|tens| npm.hold(&format!("/@bench/p-000{tens}*")));
        let database = engine.database().await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut builder = Server::builder()
            .directory(folder.path())
            .variable("STEADFAST_LEASE__DURATION_MS", "1000")
            .variable("STEADFAST_CATALOG__REFRESH_CONCURRENCY", "4")
            .configuration(format!(
                "[[catalog.source]]\nname = \"bench\"\ntype = \"npm\"\nregistry = \"{}\"\norganization = \"bench\"\n",
                npm.url()
            ));
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        let mut server = builder.start().await;
        let (running, before) = eventually("the first half to land", async || {
            let (refresh, items) = newest(&server).await;
            (packages(&items).len() == 30).then_some((refresh, items))
        })
        .await;
        assert_eq!(running["state"], "running");
        server.kill().await;
        npm.reset_requests();
        for gate in &gates {
            gate.release();
        }

        let server = builder.start().await;
        let (ended, after) = eventually("the refresh to end", async || {
            let (refresh, items) = newest(&server).await;
            (!refresh["end_time"].is_null()).then_some((refresh, items))
        })
        .await;
        assert_eq!(ended["id"], running["id"]);
        assert_eq!(
            (&ended["state"], &ended["attempts"]),
            (&"succeeded".into(), &2.into())
        );
        assert_eq!(packages(&after).len(), PACKAGES);
        assert_eq!(
            after[..before.len()],
            before[..],
            "what had landed stayed as it was"
        );
        // Neither the listing nor anything that had landed was asked for again, and the rest was once.
        let requests = npm.requests();
        assert_eq!(requests.count("/-/org/*"), 0);
        for name in packages(&before) {
            assert_eq!(requests.count(&format!("/{name}*")), 0, "{name}");
        }
        let per_path = requests.per_path();
        assert_eq!(per_path.len(), 2 * (PACKAGES - 30), "{per_path:?}");
        assert!(per_path.values().all(|count| *count == 1), "{per_path:?}");
    }
}
