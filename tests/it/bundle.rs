//! The whole catalogue out of one server and into another, without a network between them.

mod altered;
mod catalogue;
mod killed;
mod pair;
mod questions;
mod removed;
mod same;
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use steadfast_client::Code;
use steadfast_testkit::{NpmServer, Server};

use crate::{
    icons::{png, svg},
    scene::{Engine, PRESENT, Scene, eventually, registry},
};
use wire::{Standing, assert_same};

const HTTP: &str = "@openfn/language-http";
const PLAIN: &str = "left-pad";

fn configuration(npm: &NpmServer, names: &[&str]) -> String {
    let (url, names) = (npm.url(), serde_json::json!(names));
    format!(
        r#"
[upstream]
timeout_ms = 2000
attempts = 1

[[catalog.source]]
name = "test"
type = "npm"
registry = "{url}"
names = {names}
icon_url = "{url}/-icons/{{short}}/{{shape}}.{{ext}}"
"#
    )
}

/// A server that has packages, schemas and icons.
async fn source(engine: Engine, names: &'static [&'static str]) -> Scene {
    let npm = registry().await;
    for name in PRESENT {
        let short = name.rsplit('/').next().expect("a name");
        npm.put_file(&format!("/-icons/{short}/square.png"), &png(name));
    }
    npm.put_file("/-icons/language-http/rectangle.svg", &svg("http"));
    let scene = Scene::over(
        engine,
        npm,
        &|npm: &NpmServer| configuration(npm, names),
        |builder| builder,
    )
    .await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}");
    let revision = scene.head().await.revision;
    level(&scene.server, revision).await;
    scene
}

/// Another server, that has fewer packages of the same registry.
async fn of_same_registry(npm: &NpmServer, names: &[&str]) -> Server {
    let server = Server::builder()
        .configuration(configuration(npm, names))
        .start()
        .await;
    eventually("it has read them", async || {
        let list = server.cli(&["icon", "list", "-o", "json"]).await.json();
        (list["total_size"] == 3).then_some(())
    })
    .await;
    server
}

/// Waits until a server's memory is at a revision.
async fn level(server: &Server, revision: i64) {
    eventually("memory is level", async || {
        let list = server.cli(&["package", "list", "-o", "json"]).await.json();
        (list["read_state"]["revision"].as_i64()? >= revision).then_some(())
    })
    .await;
}

/// A server without any source.
async fn alone() -> Server {
    Server::builder().start().await
}

async fn export(server: &Server, name: &str) -> PathBuf {
    let file = server.directory().join(name);
    let told = server.cli(&["export", text(&file)]).await;
    assert!(told.success().contains("wrote"), "{told:?}");
    file
}

async fn import(server: &Server, file: &Path, more: &[&str]) -> Value {
    let arguments = [&["import", text(file), "-o", "json"], more].concat();
    let imported = server.cli(&arguments).await.json();
    if let Some(cursor) = imported["cursor"].as_str().filter(|text| !text.is_empty()) {
        let revision = cursor.split(':').nth(1).and_then(|text| text.parse().ok());
        level(server, revision.expect("a revision")).await;
    }
    imported
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

fn counts(imported: &Value, kind: &str) -> [i64; 4] {
    ["added", "changed", "unchanged", "removed"]
        .map(|count| imported[kind][count].as_i64().expect("a number"))
}

async fn head(server: &Server) -> i64 {
    let head = server.cli(&["head", "-o", "json"]).await.json();
    head["head"].as_i64().unwrap_or_else(|| panic!("{head}"))
}

/// Asks two servers everything that there is to see on the second, and returns how many answers were the same: all.
async fn alike(here: &Server, there: &Server) -> usize {
    let (here, there) = (Standing::of(here).await, Standing::of(there).await);
    let questions = questions::seen(&there).await.questions;
    let (found, expected) = (
        here.ask_all(&questions).await,
        there.ask_all(&questions).await,
    );
    assert_same(&found, &expected, |at| questions[at].what.clone());
    questions.len()
}

#[tokio::test]
async fn rule_15_what_vanished_is_announced_to_watchers() {
    for engine in Engine::BOTH {
        let source = source(Engine::Sqlite, &PRESENT).await;
        let whole = export(&source.server, "whole.bundle").await;
        let fewer = of_same_registry(&source.npm, &[HTTP, "json.patch"]).await;
        let part = export(&fewer, "part.bundle").await;
        let target = crate::scene::NoRegistry::start(engine).await;
        let server = &target.server;
        import(server, &whole, &[]).await;
        let before = head(server).await;

        // Nothing is written by a trial, and merging removes nothing.
        let trial = import(server, &part, &["--replace", "--dry-run"]).await;
        assert_eq!(counts(&trial, "packages"), [0, 0, 2, 4], "{trial}");
        assert_eq!(trial["dry_run"], true);
        let merged = import(server, &part, &["--merge"]).await;
        assert_eq!(counts(&merged, "packages"), [0, 0, 2, 0], "{merged}");
        assert_eq!(head(server).await, before);

        let cursor = server.cli(&["head", "-o", "json"]).await.json();
        let after = cursor["cursor"].as_str().expect("a cursor");
        let topics = [
            "--topic", "registry", "--topic", "schema", "--topic", "icon",
        ];
        let watch = [&["watch", "--after", after, "-o", "json"][..], &topics].concat();
        let mut watching = server.cli_running(&watch);
        let replaced = import(server, &part, &["--replace"]).await;
        assert_eq!(counts(&replaced, "packages"), [0, 0, 2, 4], "{replaced}");
        assert_eq!(counts(&replaced, "schemas"), [0, 0, 3, 1], "{replaced}");
        assert_eq!(counts(&replaced, "icons"), [0, 0, 3, 4], "{replaced}");
        let removed = [
            "@openfn/language-common",
            "@openfn/language-fhir",
            "@openfn/language-openmrs",
            PLAIN,
        ];
        assert_eq!(replaced["removed_packages"], serde_json::json!(removed));
        for name in removed {
            let line = watching.line_with(&format!("\"key\":\"{name}\"")).await;
            assert!(
                line.contains("\"op\":\"delete\"") && line.contains("registry"),
                "{line}"
            );
            let line = watching
                .line_with(&format!("\"key\":\"{name}/square.png\""))
                .await;
            assert!(line.contains("\"op\":\"delete\""), "{line}");
        }
        watching.kill().await;
        assert_eq!(head(server).await, before + 4, "a revision for each");
        for name in removed {
            let gone = server.cli(&["package", "get", name]).await;
            assert!(gone.failure(5).contains("PACKAGE_NOT_FOUND"), "{gone:?}");
        }
        assert!(alike(server, &fewer).await > 10);
    }
}

#[tokio::test]
async fn an_import_waits_for_nobody_and_disturbs_no_refresh() {
    for engine in Engine::BOTH {
        let scene = source(engine, &[HTTP, PLAIN]).await;
        let file = export(&scene.server, "a.bundle").await;
        let gate = scene.npm.hold("/left-pad");
        let started = scene.server.cli(&["refresh", "--no-wait"]).await;
        let _ = started.success();
        gate.arrived(1).await;
        let busy = scene.server.cli(&["import", text(&file)]).await;
        assert!(busy.failure(4).contains("CATALOGUE_BUSY"), "{busy:?}");
        gate.release();
        let ended = scene.ended_refresh().await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let taken = eventually("the lease is free", async || {
            let taken = scene
                .server
                .cli(&["import", text(&file), "-o", "json"])
                .await;
            taken.status.success().then(|| taken.json())
        })
        .await;
        assert_eq!(counts(&taken, "packages"), [0, 0, 2, 0], "{taken}");
    }
}

#[tokio::test]
async fn an_export_that_fails_leaves_the_file_from_before() {
    let mut server = alone().await;
    let file = server.directory().join("kept.bundle");
    fs::write(&file, "from before").expect("writes");
    server.kill().await;
    let failed = server.cli(&["export", text(&file)]).await;
    let _ = failed.failure(4);
    assert_eq!(fs::read_to_string(&file).expect("is there"), "from before");
    let left: Vec<_> = fs::read_dir(server.directory())
        .expect("lists")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let unknown = server.cli(&["import", "/nowhere/x"]).await;
    assert!(unknown.failure(1).contains("/nowhere/x"), "{unknown:?}");
}

#[tokio::test]
async fn a_transfer_has_an_order() {
    use futures::stream;
    use steadfast_client::api::registry::v1::{
        BundleTrailer, ImportCatalogRequest, ImportOptions,
        bundle_service_client::BundleServiceClient, import_catalog_request::Part,
    };
    let server = alone().await;
    let channel = tonic::transport::Endpoint::from_shared(server.grpc_endpoint())
        .expect("an address")
        .connect()
        .await
        .expect("connects");
    let client = BundleServiceClient::new(channel);
    let options = |mode| {
        Part::Options(ImportOptions {
            mode,
            dry_run: false,
        })
    };
    let trailer = |size| {
        Part::Trailer(BundleTrailer {
            sha256: String::new(),
            size,
        })
    };
    let long = Part::Chunk(vec![0; (1 << 20) + 1].into());
    for (parts, message) in [
        (vec![], "part"),
        (vec![trailer(0)], "part"),
        (vec![options(0)], "options.mode"),
        (vec![options(1), options(1)], "part"),
        (vec![options(1), long], "chunk"),
        (vec![options(1)], "cut short"),
        (vec![options(1), trailer(7)], "cut short"),
        (vec![options(1), trailer(0)], "altered"),
    ] {
        let requests = parts
            .into_iter()
            .map(|part| ImportCatalogRequest { part: Some(part) });
        let refused = client
            .clone()
            .import_catalog(stream::iter(requests.collect::<Vec<_>>()))
            .await;
        let status = refused.expect_err("is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(message), "{message}: {status:?}");
    }
}
