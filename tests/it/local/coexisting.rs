//! Folders and registries side by side: the first source that has a package has all of it.

use steadfast_testkit::{NpmServer, PackageSpec};

use super::{
    monorepo::{Monorepo, manifest, name},
    stage::{Stage, listed},
};
use crate::scene::{Engine, configuration, eventually};

async fn latest(stage: &Stage, name: &str) -> String {
    let got = stage.server.cli(&["package", "resolve", name]).await;
    got.stdout
}

/// A registry that has `shared` and `published`, and a folder that has `shared` and `mine`.
async fn both(local_first: bool, engine: Engine) -> (NpmServer, Monorepo, Stage) {
    let npm = NpmServer::start().await;
    let repo = Monorepo::empty();
    for short in ["shared", "published"] {
        npm.put(PackageSpec::new(name(short)).version("7.2.0"));
    }
    for short in ["shared", "mine"] {
        repo.manifest(short, &manifest(short));
    }
    let local = Monorepo::source("dev", &[&repo], 500);
    let names = [name("shared"), name("published")];
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let registry = configuration(&npm, &names);
    let (upstream, source) = registry.split_once("[[").expect("a source");
    let source = format!("[[{source}");
    let text = if local_first {
        format!("{upstream}{local}{source}")
    } else {
        format!("{upstream}{source}{local}")
    };
    let stage = Stage::start(engine, &text).await;
    listed(&stage.server, 3).await;
    (npm, repo, stage)
}

#[tokio::test]
async fn rule_4_npm_and_local_sources_coexist_and_the_first_one_wins() {
    for engine in Engine::BOTH {
        for local_first in [true, false] {
            let (_npm, repo, stage) = both(local_first, engine).await;
            let (winner, loser) = if local_first {
                ("local", "7.2.0")
            } else {
                ("7.2.0", "local")
            };
            eventually("the first source to win", async || {
                let resolved = latest(&stage, &name("shared")).await;
                resolved.contains(winner).then_some(())
            })
            .await;
            // Nothing turns it back: neither a refresh nor a rescan.
            for _ in 0..2 {
                let refresh = stage.server.cli(&["refresh", "-o", "json"]).await;
                assert!(refresh.success().contains("SHADOWED"), "{refresh:?}");
                let resolved = latest(&stage, &name("shared")).await;
                assert!(resolved.contains(winner), "{local_first}: {resolved}");
            }
            let refused = stage
                .server
                .cli(&["package", "resolve", &format!("{}@{loser}", name("shared"))])
                .await;
            assert!(refused.failure(5).contains("VERSION_NOT_FOUND"));
            assert!(latest(&stage, &name("published")).await.contains("7.2.0"));
            assert!(latest(&stage, &name("mine")).await.contains("local"));

            // What leaves the folder is the registry's, with the next refresh.
            repo.remove("shared");
            eventually("the folder's package to be gone", async || {
                let _ = stage.server.cli(&["refresh"]).await;
                let resolved = latest(&stage, &name("shared")).await;
                resolved.contains("7.2.0").then_some(())
            })
            .await;
        }
    }
}
