//! `refresh --dry-run|--force|watch|cancel` and `package remove`, as an operator uses them.

use serde_json::{Value, json};
use steadfast_client::{RefreshWatch, RefreshWatchEvent};
use steadfast_testkit::{Fault, PackageSpec, Server, TestDatabase, Times};

use crate::{
    http,
    scene::{Engine, Scene, connection, eventually, registry},
};

fn organization(npm: &steadfast_testkit::NpmServer) -> String {
    format!(
        "[upstream]\ntimeout_ms = 5000\nattempts = 2\n\n[[catalog.source]]\nname = \"test\"\ntype = \"npm\"\nregistry = \"{}\"\n\
         organization = \"openfn\"\nexclude = [\"*-common\"]\n",
        npm.url()
    )
}

async fn scene(engine: Engine) -> Scene {
    let scene = Scene::over(engine, registry().await, &organization, |builder| builder).await;
    let refresh = scene.ended_refresh().await;
    assert_eq!(refresh["state"], "succeeded", "{refresh}");
    scene
}

#[tokio::test]
async fn rule_6_a_dry_run_prints_what_would_change() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let server = &scene.server;
        scene.npm.add_version("@openfn/language-fhir", "6.0.0");
        let head = scene.head().await;
        let shown = server.cli(&["refresh", "--dry-run"]).await;
        let shown = shown.success();
        for part in [
            "WOULD CHANGE",
            "6.0.0 published; latest from 5.0.15 to 6.0.0",
            "@openfn/language-fhir@6.0.0",
            "nothing is stored",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(scene.head().await, head);
        let list = server.cli(&["refresh", "list"]).await;
        assert!(list.success().contains("dry run"), "{list:?}");
        let asked = [
            "refresh",
            "--dry-run",
            "--package",
            "@openfn/language-http",
            "-o",
            "json",
        ];
        let one = server.cli(&asked).await.json();
        assert_eq!(
            (&one["refresh"]["dry_run"], &one["refresh"]["package"]),
            (&json!(true), &json!("@openfn/language-http"))
        );
        assert_eq!(one["refresh"]["counts"][0]["unchanged"], 1);
        let real = scene.refresh(0).await;
        let changed: i64 = real["refresh"]["counts"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|counts| counts["changed"].as_i64())
            .sum();
        assert_eq!(changed, 2);
    }
}

#[tokio::test]
async fn rule_8_a_listing_that_shrank_is_refused_until_it_is_forced() {
    let scene = scene(Engine::Sqlite).await;
    let server = &scene.server;
    let head = scene.head().await;
    let listing = json!({ "@openfn/language-http": "read" }).to_string();
    scene
        .npm
        .fault("/-/org/*", Fault::Body(listing), Times::Forever);
    let refused = server.cli(&["refresh"]).await;
    assert!(!refused.status.success(), "{refused:?}");
    for part in [
        "listing of test",
        "LISTING_SHRUNKEN",
        "refresh once with force",
    ] {
        assert!(refused.stdout.contains(part), "{part}: {refused:?}");
    }
    assert_eq!(scene.head().await, head);
    let forced = server.cli(&["refresh", "--force"]).await;
    assert!(forced.success().contains("succeeded"), "{forced:?}");
    let names = async |arguments: &[&str]| -> Vec<String> {
        let list = server
            .cli(
                &[
                    &["package", "list", "--deprecated", "-o", "json"],
                    arguments,
                ]
                .concat(),
            )
            .await;
        let list = list.json();
        let packages = list["packages"].as_array().expect("a list").iter();
        packages
            .map(|package| package["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&[]).await, ["@openfn/language-http"]);
    assert_eq!(names(&["--unlisted"]).await.len(), 3);
    let shown = server
        .cli(&["package", "get", "@openfn/language-fhir"])
        .await;
    assert!(
        shown.success().contains("no longer listed there"),
        "{shown:?}"
    );
    let resolved = server
        .cli(&["package", "resolve", "@openfn/language-fhir"])
        .await;
    assert_eq!(resolved.success(), "@openfn/language-fhir@5.0.15\n");

    let listed = server
        .cli(&["package", "remove", "@openfn/language-http"])
        .await;
    assert!(
        !listed.status.success() && listed.stderr.contains("still lists"),
        "{listed:?}"
    );
    let removed = server
        .cli(&["package", "remove", "@openfn/language-fhir", "-o", "json"])
        .await
        .json();
    assert_eq!(removed["revision"], scene.head().await.revision);
    eventually("it to be gone", async || {
        (names(&["--unlisted"]).await.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rule_9_a_watch_ends_with_its_replica_and_goes_on_at_the_next_one() {
    let database = TestDatabase::create().await;
    let npm = registry().await;
    let gate = npm.hold("/@openfn/language-http");
    let builder = Server::builder()
        .configuration(organization(&npm))
        .database_url(database.url());
    let mut first = builder.start().await;
    gate.arrived(1).await;
    let other = builder.start().await;
    let list = first.cli(&["refresh", "list", "-o", "json"]).await.json();
    let id = list["refreshes"][0]["id"].as_str().expect("one").to_owned();
    let connection = connection(&first).await;
    let mut watch = RefreshWatch::new(&connection, id.as_str());
    let opened = watch.next().await.expect("tells").expect("goes on");
    assert!(
        matches!(opened, RefreshWatchEvent::Moved { .. }),
        "{opened:?}"
    );
    // The replica that serves the stream, and runs the refresh, is stopped in order.
    let (lost, status) = tokio::join!(
        async {
            loop {
                match watch.next().await.expect("tells").expect("goes on") {
                    RefreshWatchEvent::Moved { .. } => {}
                    RefreshWatchEvent::Disconnected { error, .. } => break error,
                }
            }
        },
        first.stop()
    );
    assert_eq!(lost.reason, "SERVER_DRAINING", "{lost}");
    assert!(lost.retry_after.is_some() && status.success(), "{status}");
    gate.release();
    // The other one has taken the run, and tells it whole.
    let watched = other.cli(&["refresh", "watch", &id, "-o", "json"]).await;
    let told = watched.json();
    assert_eq!(told["refresh"]["state"], "succeeded", "{told}");
    assert_eq!(told["refresh"]["attempts"], 2);
    assert_eq!(told["refresh"]["owner"], other.replica());
}

#[tokio::test]
async fn rule_9_a_refresh_is_watched_and_cancelled_from_another_terminal() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let server = &scene.server;
        scene
            .npm
            .put(PackageSpec::new("@openfn/language-new").version("1.0.0"));
        let gate = scene.npm.hold("/@openfn/language-new");
        let started = server
            .cli(&["refresh", "--no-wait", "-o", "json"])
            .await
            .json();
        let id = started["refresh"]["id"].as_str().expect("an id").to_owned();
        gate.arrived(1).await;
        let watch = ["refresh", "watch", id.as_str(), "-o", "json"];
        let (watched, cancelled) = tokio::join!(server.cli(&watch), async {
            eventually("the others to be read", async || {
                let got = server
                    .cli(&["refresh", "get", &id, "-o", "json"])
                    .await
                    .json();
                (got["refresh"]["counts"][0]["unchanged"] == 3).then_some(())
            })
            .await;
            server.cli(&["refresh", "cancel", &id]).await
        });
        assert!(
            cancelled.success().contains("was cancelled"),
            "{cancelled:?}"
        );
        let told: Value = serde_json::from_str(&watched.stdout).expect("JSON");
        assert_eq!(told["refresh"]["state"], "cancelled", "{told}");
        assert_eq!(told["refresh"]["error"], "cancelled by anonymous");
        assert!(
            told["items"].as_array().expect("a list").len() >= 4,
            "{told}"
        );
        assert!(!watched.status.success());
        gate.release();
        let again = server
            .cli(&[
                "refresh",
                "cancel",
                started["refresh"]["id"].as_str().expect("an id"),
            ])
            .await;
        assert!(again.success().contains("was cancelled"), "{again:?}");
        let found = server
            .cli(&["package", "get", "@openfn/language-new"])
            .await;
        assert!(!found.status.success(), "{found:?}");
        let next = scene.refresh(0).await;
        let ended = next["refresh"]["id"].as_str().expect("an id");
        let late = server.cli(&["refresh", "cancel", ended]).await;
        assert!(late.stderr.contains("has ended"), "{late:?}");
        let found = server
            .cli(&["package", "get", "@openfn/language-new"])
            .await;
        assert!(found.success().contains("1.0.0"), "{found:?}");
    }
}

#[tokio::test]
async fn rule_9_a_cancelled_refresh_is_counted_once_whether_it_ran_or_waited() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let server = &scene.server;
        let cancelled = async || {
            let (_, _, metrics) = http::get(server, "/metrics").await;
            let line = "steadfast_refreshes_total{state=\"cancelled\"} ";
            let count = metrics.lines().find_map(|found| found.strip_prefix(line));
            count.map(|count| count.parse::<u32>().expect("a count"))
        };
        assert_eq!(cancelled().await, None);
        let gate = scene.npm.hold("/@openfn/language-http");
        let start = async || {
            let started = ["refresh", "--no-wait", "-o", "json"];
            let started = server.cli(&started).await.json();
            started["refresh"]["id"].as_str().expect("an id").to_owned()
        };
        let running = start().await;
        gate.arrived(1).await;
        let waiting = start().await;
        assert_ne!(waiting, running);
        for (id, counted) in [(&waiting, 1), (&waiting, 1), (&running, 2), (&running, 2)] {
            let _ = server.cli(&["refresh", "cancel", id]).await.success();
            assert_eq!(cancelled().await, Some(counted));
        }
        gate.release();
        scene.npm.clear_faults();
        // The replica that ran it has noticed once it has done the next one.
        scene.refresh(0).await;
        assert_eq!(cancelled().await, Some(2));
    }
}
