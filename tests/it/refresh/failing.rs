//! Registries fail in every way; what was there before stays, and each failure is named.

use serde_json::{Value, json};
use steadfast_testkit::{
    Fault, NpmServer, PackageSpec, Server, Times, VersionSpec, npm::Integrity,
};

use crate::{
    http,
    scene::{Engine, Scene, configuration, configuration_of_dozen, eventually, registry},
};

/// A package, what is wrong with it, and the reason that must be told.
fn faults() -> [(&'static str, Option<Fault>, &'static str); 10] {
    let page = Fault::Body("<!doctype html>".to_owned());
    [
        ("bad-json", Some(page), "MALFORMED_ANSWER"),
        (
            "disconnects",
            Some(Fault::Disconnect),
            "UPSTREAM_UNAVAILABLE",
        ),
        ("drips", Some(Fault::Dripping), "UPSTREAM_TIMEOUT"),
        ("fails", Some(Fault::status(500)), "UPSTREAM_UNAVAILABLE"),
        ("floods", Some(Fault::Flood), "BODY_TOO_LARGE"),
        ("forbids", Some(Fault::status(403)), "UPSTREAM_FORBIDDEN"),
        ("gone", None, "UPSTREAM_NOT_FOUND"),
        (
            "hurried",
            Some(Fault::too_many_requests(3_600)),
            "RATE_LIMITED",
        ),
        ("lies", None, "INTEGRITY_MISMATCH"),
        ("truncates", Some(Fault::Truncated), "TRUNCATED_ANSWER"),
    ]
}

const FINE: &str = "fine";

fn configured(npm: &NpmServer) -> String {
    let mut names: Vec<_> = faults().iter().map(|(name, ..)| *name).collect();
    names.push(FINE);
    let text = configuration(npm, &names);
    text.replace("[upstream]", "[upstream]\npackument_max_bytes = 1048576")
}

fn schema(marker: &str) -> Value {
    json!({ "type": "object", "title": marker })
}

async fn newest(server: &Server, name: &str) -> String {
    let got = server.cli(&["package", "get", name, "-o", "json"]).await;
    let newest = &got.json()["package"]["versions"][0]["version"];
    newest.as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn yesterdays_data_stays_and_each_failure_is_named() {
    for engine in Engine::BOTH {
        let npm = NpmServer::start().await;
        for name in faults().iter().map(|(name, ..)| *name).chain([FINE]) {
            let first = VersionSpec::new("1.0.0").schema(&schema("yesterday"));
            npm.put(PackageSpec::new(name).version(first));
        }
        let scene = Scene::over(engine, npm, &configured, |builder| builder).await;
        let refresh = scene.ended_refresh().await;
        assert_eq!(refresh["state"], "succeeded", "{refresh}");

        // Everything has a new version today, and nearly everything is wrong.
        for (name, fault, _) in faults() {
            let mut today = VersionSpec::new("2.0.0").schema(&schema("today"));
            if name == "lies" {
                today = today.integrity(Integrity::Stated(format!("sha512-{}==", "A".repeat(86))));
            }
            scene.npm.add_version(name, today);
            if name == "gone" {
                scene.npm.remove(name);
            }
            if let Some(fault) = fault {
                scene.npm.fault(&format!("/{name}"), fault, Times::Forever);
            }
        }
        let today = VersionSpec::new("2.0.0").schema(&schema("today"));
        scene.npm.add_version(FINE, today);
        let output = scene.server.cli(&["refresh"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        for (name, _, reason) in faults() {
            let line = output.stdout.lines().find(|line| {
                let first = line.split_whitespace().next().unwrap_or_default();
                first == name || first == format!("{name}@2.0.0")
            });
            let line = line.unwrap_or_else(|| panic!("{name} is not named in {output:?}"));
            assert!(line.contains(reason), "{line}");
        }
        let last = output.stdout.lines().last().expect("a summary");
        assert!(
            last.contains("ended partially") && last.contains("10 failed"),
            "{last}"
        );

        for (name, ..) in faults() {
            let expected = if name == "lies" { "2.0.0" } else { "1.0.0" };
            assert_eq!(newest(&scene.server, name).await, expected, "{name}");
        }
        assert_eq!(newest(&scene.server, FINE).await, "2.0.0");
        // The packument was true; the tarball was not, and its schema is not there.
        let lying = scene.server.cli(&["schema", "get", "lies@2.0.0"]).await;
        assert!(lying.failure(5).contains("SCHEMA_NOT_FETCHED"));
        let before = scene.server.cli(&["schema", "get", "lies@1.0.0"]).await;
        assert!(before.success().contains("yesterday"));

        // All is well again tomorrow.
        scene.npm.clear_faults();
        scene.npm.put(PackageSpec::new("gone").version("3.0.0"));
        scene.npm.change("lies", |package| {
            let last = package.versions.last_mut().expect("two versions");
            last.integrity = Integrity::Sha512;
        });
        let output = scene.server.cli(&["refresh"]).await;
        assert!(output.success().contains("succeeded"), "{output:?}");
        assert_eq!(newest(&scene.server, "gone").await, "3.0.0");
        assert_eq!(newest(&scene.server, "drips").await, "2.0.0");
        let honest = scene.server.cli(&["schema", "get", "lies@2.0.0"]).await;
        assert!(honest.success().contains("today"));
    }
}

#[tokio::test]
async fn rule_5_a_registry_that_is_down_changes_nothing_and_is_left_alone_for_a_while() {
    let scene = Scene::over(
        Engine::Postgres,
        registry().await,
        &configuration_of_dozen,
        |builder| builder.variable("STEADFAST_UPSTREAM__BREAKER_PAUSE_MS", "600"),
    )
    .await;
    scene.ended_refresh().await;
    let head = scene.head().await;
    scene.npm.set_down(true);
    let output = scene.server.cli(&["refresh"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let last = output.stdout.lines().last().expect("a summary");
    assert!(
        last.contains(" failed after ") && last.ends_with("all data is as it was before"),
        "{last}"
    );
    assert_eq!(scene.head().await, head);
    let resolved = scene
        .server
        .cli(&["package", "resolve", "@openfn/language-http@^7"])
        .await;
    assert_eq!(resolved.success(), "@openfn/language-http@7.2.0\n");
    // The age tells that it was not asked with success.
    let checked = async || {
        let list = scene.server.cli(&["package", "list", "-o", "json"]).await;
        list.json()["read_state"]["checked_time"].clone()
    };
    let before = checked().await;
    scene.refresh(1).await;
    assert_eq!(checked().await, before);
    let (_, _, metrics) = http::get(&scene.server, "/metrics").await;
    let opened = "steadfast_upstream_circuit_opened_total";
    assert!(
        metrics.lines().any(|line| line.starts_with(opened)),
        "{metrics}"
    );
    scene.npm.set_down(false);
    // Once the pause is over, one request decides and the others follow at once.
    eventually("the registry to be asked again", async || {
        let output = scene.server.cli(&["refresh"]).await;
        (output.status.code() == Some(3)).then_some(())
    })
    .await;
}

/// A wait that is short enough is kept, and the package lands.
#[tokio::test]
async fn a_short_retry_after_is_kept() {
    let scene = Scene::filled(Engine::Sqlite).await;
    scene.npm.add_version("left-pad", "1.4.0");
    scene.npm.reset_requests();
    scene
        .npm
        .fault("/left-pad", Fault::too_many_requests(1), Times::N(1));
    let output = scene
        .server
        .cli(&["refresh", "--package", "left-pad"])
        .await;
    assert!(output.success().contains("succeeded"), "{output:?}");
    assert_eq!(newest(&scene.server, "left-pad").await, "1.4.0");
    let requests = scene.npm.requests();
    let times: Vec<_> = requests
        .matching("/left-pad")
        .map(|request| request.since_start)
        .collect();
    assert_eq!(times.len(), 2, "{}", scene.npm.counts());
    assert!((times[1] - times[0]).as_millis() >= 1_000, "{times:?}");
}
