//! `schedule`: listed, run, paused, resumed, and taken by one replica when due.

use serde_json::Value;
use steadfast_testkit::{NpmServer, Server};

use crate::scene::{Engine, Scene, configuration, eventually, registry};

/// Never due by itself while a test runs, not even across a minute's end.
fn once_a_year(npm: &NpmServer) -> String {
    let source = configuration(npm, &["left-pad"]);
    format!(
        "[drift]\nsweep_schedule = \"\"\n[catalog]\nrefresh_schedule = \"0 3 1 7 *\"\nrefresh_time_zone = \"Europe/Vienna\"\n{source}"
    )
}

async fn scene(engine: Engine) -> Scene {
    let scene = Scene::over(engine, registry().await, &once_a_year, |builder| builder).await;
    scene.ended_refresh().await;
    scene
}

async fn schedule(server: &Server) -> Value {
    let list = server.cli(&["schedule", "list", "-o", "json"]).await.json();
    list["schedules"][0].clone()
}

#[tokio::test]
async fn a_schedule_is_run_paused_and_resumed() {
    for engine in Engine::BOTH {
        let scene = scene(engine).await;
        let server = &scene.server;
        let list = server.cli(&["schedule", "list"]).await;
        let text = list.success();
        assert!(text.starts_with("NAME "), "{text}");
        assert!(
            text.contains("refresh  0 3 1 7 *  Europe/Vienna") && text.contains("never"),
            "{text}"
        );
        let before = schedule(server).await;
        assert_eq!(before["overlap_policy"], "queue");
        assert_eq!(before["missed_run_policy"], "once");

        let run = server.cli(&["schedule", "run", "refresh"]).await;
        assert!(run.success().contains("refresh 0"), "{run:?}");
        let refresh = scene.ended_refresh().await;
        assert_eq!(refresh["trigger"], "schedule");
        assert_eq!(refresh["requested_by"], "refresh");
        let id = refresh["id"].as_str().expect("an id");
        let after = schedule(server).await;
        assert_eq!(after["last_result"], format!("refresh {id}"));
        assert!(after["last_run_time"].is_string());

        for _ in 0..2 {
            let paused = server.cli(&["schedule", "pause", "refresh"]).await;
            assert!(paused.success().contains("paused"), "{paused:?}");
        }
        let paused = schedule(server).await;
        assert_eq!(
            (&paused["paused"], &paused["next_run_time"]),
            (&true.into(), &Value::Null)
        );
        // Paused or not, it can be run by hand.
        let _ = server.cli(&["schedule", "run", "refresh"]).await.success();
        let resumed = server.cli(&["schedule", "resume", "refresh"]).await;
        assert!(resumed.success().contains("in "), "{resumed:?}");
        assert!(schedule(server).await["next_run_time"].is_string());
        for verb in ["run", "pause", "resume"] {
            let unknown = server.cli(&["schedule", verb, "nope"]).await;
            let told = unknown.failure(5);
            assert!(
                told.contains("SCHEDULE_NOT_FOUND") && told.contains("schedule list"),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn no_schedule_says_how_to_have_one() {
    let builder = Server::builder().configuration("[drift]\nsweep_schedule = \"\"\n");
    let server = builder.start().await;
    let list = server.cli(&["schedule", "list"]).await;
    assert!(
        list.success().contains("catalog.refresh_schedule"),
        "{list:?}"
    );
}

/// Due while nobody was up, many times over: it is made up for by one run, which one of two replicas does.
#[tokio::test]
async fn a_due_run_is_taken_by_one_replica() {
    let mut scene = scene(Engine::Postgres).await;
    scene.server.stop().await;
    let database = scene.database.as_ref().expect("PostgreSQL");
    database.psql("UPDATE schedule SET next_due_us = 1").await;
    let builder = Server::builder()
        .configuration(once_a_year(&scene.npm))
        .database_url(database.url());
    let (one, other) = tokio::join!(builder.start(), builder.start());
    let by_schedule = async |server: &Server| {
        let list = server.cli(&["refresh", "list", "-o", "json"]).await.json();
        let list = list["refreshes"].as_array().expect("a list").clone();
        let mut list = list.into_iter();
        let ended = list.clone().all(|refresh| !refresh["end_time"].is_null());
        let mine: Vec<_> = list
            .by_ref()
            .filter(|refresh| refresh["trigger"] == "schedule")
            .collect();
        (ended, mine)
    };
    eventually("the due run", async || {
        let (ended, runs) = by_schedule(&one).await;
        (ended && !runs.is_empty()).then_some(())
    })
    .await;
    // What was missed was not made up for twice.
    let (_, runs) = by_schedule(&other).await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    let told = schedule(&other).await;
    assert!(told["next_run_time"].is_string(), "{told}");
}
