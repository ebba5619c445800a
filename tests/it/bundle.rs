//! The whole catalogue out of one server and into another, without a network between them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use steadfast_client::{
    Code, Connection,
    api::registry::v1::{GetIconRequest, GetPackageRequest, ListIconsRequest, ListPackagesRequest},
    api::schema::v1::{GetSchemaRequest, ListSchemasRequest},
};
use steadfast_testkit::{NpmServer, Server};

use crate::{
    icons::{png, svg},
    scene::{Engine, PRESENT, Scene, eventually, registry},
};

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

/// All answers about all packages, but for their read states.
async fn answers(connection: &Connection) -> Vec<String> {
    let mut answers = Vec::new();
    let request = ListPackagesRequest {
        include_deprecated: true,
        ..Default::default()
    };
    let listed = connection
        .call(connection.registry().list_packages(request))
        .await;
    let mut listed = listed.expect("lists");
    listed.read_state = None;
    answers.push(format!("{listed:?}"));
    let mut client = connection.schemas();
    let schemas = client.list_schemas(ListSchemasRequest::default());
    let mut schemas = connection.call(schemas).await.expect("lists");
    schemas.read_state = None;
    answers.push(format!("{schemas:?}"));
    let mut client = connection.icons();
    let icons = client.list_icons(ListIconsRequest::default());
    let mut icons = connection.call(icons).await.expect("lists");
    icons.read_state = None;
    answers.push(format!("{icons:?}"));
    for package in &listed.packages {
        let request = GetPackageRequest {
            name: package.name.clone(),
            ..Default::default()
        };
        let found = connection
            .call(connection.registry().get_package(request))
            .await;
        let found = found.expect("is there").package.expect("has one");
        // Maps have no order on the way; here they get one.
        let tags: std::collections::BTreeMap<_, _> = found.dist_tags.clone().into_iter().collect();
        let versions: Vec<String> = found
            .versions
            .iter()
            .map(|version| version.version.clone())
            .collect();
        answers.push(format!(
            "{} {} {tags:?} {:?}",
            found.name, found.etag, found.description
        ));
        for version in &found.versions {
            let dependencies: std::collections::BTreeMap<_, _> =
                version.dependencies.clone().into_iter().collect();
            let mut rest = version.clone();
            rest.dependencies.clear();
            rest.peer_dependencies.clear();
            answers.push(format!("{rest:?} {dependencies:?}"));
        }
        for version in versions.into_iter().chain([String::new()]) {
            let request = GetSchemaRequest {
                package: package.name.clone(),
                version,
                ..Default::default()
            };
            answers.push(
                match connection
                    .call(connection.schemas().get_schema(request))
                    .await
                {
                    Ok(mut found) => {
                        found.read_state = None;
                        format!("{found:?}")
                    }
                    Err(error) => format!("{:?} {} {}", error.code, error.reason, error.message),
                },
            );
        }
        for shape in [1, 2] {
            for format in [0, 1, 2] {
                let request = GetIconRequest {
                    package: package.name.clone(),
                    shape,
                    format,
                    ..Default::default()
                };
                answers.push(
                    match connection.call(connection.icons().get_icon(request)).await {
                        Ok(mut found) => {
                            found.read_state = None;
                            format!("{found:?}")
                        }
                        Err(error) => {
                            format!("{:?} {} {}", error.code, error.reason, error.message)
                        }
                    },
                );
            }
        }
    }
    answers
}

#[tokio::test]
async fn rule_15_a_site_without_a_network_answers_as_the_one_that_exported() {
    let source = source(Engine::Postgres, &PRESENT).await;
    let file = export(&source.server, "whole.bundle").await;
    let expected = answers(&source.connect().await).await;
    assert!(
        expected
            .iter()
            .filter(|answer| answer.contains("schema_json"))
            .count()
            >= 5
    );
    assert!(
        expected
            .iter()
            .filter(|answer| answer.contains("PNG"))
            .count()
            >= 6
    );
    // The same is the same file, and nothing but the bundle is left behind.
    let again = export(&source.server, "again.bundle").await;
    assert!(fs::read(&file).expect("reads") == fs::read(&again).expect("reads"));

    let target = alone().await;
    let imported = import(&target, &file, &["--replace"]).await;
    assert_eq!(counts(&imported, "packages"), [6, 0, 0, 0], "{imported}");
    assert_eq!(counts(&imported, "schemas"), [4, 0, 0, 0], "{imported}");
    assert_eq!(counts(&imported, "icons"), [7, 0, 0, 0], "{imported}");
    let connection = crate::scene::connection(&target).await;
    let found = answers(&connection).await;
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    for arguments in [
        vec!["package", "get", HTTP, "-o", "json"],
        vec!["schema", "get", HTTP],
        vec!["icon", "get", HTTP, "--shape", "rectangle"],
    ] {
        let strip = |output: String| match serde_json::from_str::<Value>(&output) {
            Ok(mut value) => {
                value["read_state"] = Value::Null;
                value.to_string()
            }
            Err(_) => output,
        };
        let there = source.server.cli(&arguments).await.success().to_owned();
        let here = target.cli(&arguments).await.success().to_owned();
        assert_eq!(strip(here), strip(there), "{arguments:?}");
    }

    // Once more changes nothing, and takes no revision.
    let before = head(&target).await;
    for mode in ["--replace", "--merge"] {
        let again = import(&target, &file, &[mode]).await;
        assert_eq!(counts(&again, "packages"), [0, 0, 6, 0], "{again}");
        assert_eq!(counts(&again, "schemas"), [0, 0, 4, 0], "{again}");
        assert_eq!(counts(&again, "icons"), [0, 0, 7, 0], "{again}");
        assert_eq!(again["cursor"], "");
    }
    assert_eq!(head(&target).await, before);
    // A restart has it from its own database.
    let exported = export(&target, "second.bundle").await;
    let third = Server::builder().start().await;
    import(&third, &exported, &[]).await;
    let found = answers(&crate::scene::connection(&third).await).await;
    assert_eq!(found, expected, "a bundle of a bundle is as good");
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
        let expected = answers(&crate::scene::connection(&fewer).await).await;
        assert_eq!(
            answers(&crate::scene::connection(server).await).await,
            expected
        );
    }
}

#[tokio::test]
async fn rule_15_a_truncated_or_altered_bundle_is_refused_whole() {
    let source = source(Engine::Sqlite, &PRESENT).await;
    let whole = fs::read(export(&source.server, "whole.bundle").await).expect("reads");
    for engine in Engine::BOTH {
        let target = crate::scene::NoRegistry::start(engine).await;
        let server = &target.server;
        let before = head(server).await;
        let file = server.directory().join("bad.bundle");
        let refused = async |bytes: &[u8], reason: &str| {
            fs::write(&file, bytes).expect("writes");
            let told = server.cli(&["import", text(&file), "--replace"]).await;
            let told = told.failure(1).to_owned();
            assert!(told.contains(reason), "{reason}: {told}");
        };
        let step = whole.len() / 12;
        for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
            let mut altered = whole.clone();
            altered[at] ^= 0x01;
            let reason = match at {
                0 => "BUNDLE_INVALID",
                _ if at == whole.len() - 1 => "BUNDLE_TRUNCATED",
                _ => "BUNDLE_ALTERED",
            };
            refused(&altered, reason).await;
        }
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            refused(&whole[..length], "BUNDLE_TRUNCATED").await;
        }
        refused(b"PK\x03\x04 something else altogether", "BUNDLE_INVALID").await;
        assert_eq!(head(server).await, before);
        let none = server.cli(&["package", "list", "-o", "json"]).await.json();
        assert_eq!(none["total_size"], 0);
        // And whole it is taken.
        fs::write(&file, &whole).expect("writes");
        let imported = import(server, &file, &["--replace"]).await;
        assert_eq!(counts(&imported, "packages"), [6, 0, 0, 0]);
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
