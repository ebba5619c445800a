//! A saga that needs a person: it shows within a second wherever anybody looks, and each verb for it frees it.

use std::collections::BTreeMap;

use serde_json::json;
use steadfast_client::api::{
    saga::v1::{
        SagaEventKind, SagaState, SagaVerb, WatchSagaRequest, watch_saga_response::Message,
    },
    watch::v1::{Filter, WatchRequest, watch_response::Event},
};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::stage::{SOON, Stage};
use crate::{
    http,
    scene::{Engine, eventually},
};

/// How many sagas are stuck, as the metric has it.
async fn gauge(stage: &Stage) -> Option<u64> {
    let (_, _, metrics) = http::get(&stage.server, "/metrics").await;
    let line = r#"steadfast_sagas{state="stuck"} "#;
    let value = metrics.lines().find_map(|found| found.strip_prefix(line))?;
    value.parse().ok()
}

/// Whether `saga list --state stuck` has it.
async fn is_listed(stage: &Stage, id: &str) -> bool {
    let arguments = ["saga", "list", "--state", "stuck", "-o", "json"];
    let listed = stage.server.cli(&arguments).await.json();
    let sagas = listed["sagas"].as_array().expect("a list");
    sagas.iter().any(|saga| saga["id"] == id)
}

/// Where a stuck saga has to show.
const PLACES: [&str; 4] = ["the change log", "WatchSaga", "saga list", "/metrics"];

/// Lets a saga become stuck, and returns its id and after how long that showed in each of [`PLACES`].
async fn become_stuck(stage: &Stage, stuck_before: u64) -> (String, [std::time::Duration; 4]) {
    let gate = Uuid::new_v4().to_string();
    let steps = json!([
        { "name": "before", "action": { "builtin": { "name": "noop" } }, "undo": { "builtin": { "name": "noop" } } },
        {
            "name": "refused",
            "action": { "http": { "method": "PUT", "url": stage.gates.url(&gate) } },
            "undo": "none",
            "retry": { "attempts": 1 },
            "on_failure": "stop",
        },
        { "name": "after", "action": { "builtin": { "name": "noop" } }, "undo": "none" },
    ]);
    let id = stage.begin(&steps.to_string()).await.id;
    stage.gates.asked(&gate).await;
    let request = WatchRequest {
        filters: vec![Filter {
            topic: "saga".to_owned(),
            key_prefix: id.clone(),
        }],
        ..WatchRequest::default()
    };
    let log = stage.connection.watches().watch(request).await;
    let mut log = log.expect("the stream opens").into_inner();
    let first = log
        .message()
        .await
        .expect("it goes on")
        .expect("it goes on");
    assert!(matches!(first.event, Some(Event::Opened(_))), "{first:?}");
    let request = WatchSagaRequest {
        id: id.clone(),
        after_seq: 0,
    };
    let saga = stage.connection.sagas().watch_saga(request).await;
    let mut saga = saga.expect("the stream opens").into_inner();

    let began = Instant::now();
    stage.gates.open(&gate, 400);
    let in_log = async {
        loop {
            let message = log
                .message()
                .await
                .expect("it goes on")
                .expect("it goes on");
            if let Some(Event::Batch(batch)) = message.event
                && batch
                    .changes
                    .iter()
                    .any(|change| change.key == id && change.etag.starts_with("stuck/"))
            {
                return began.elapsed();
            }
        }
    };
    let in_saga = async {
        loop {
            let message = saga
                .message()
                .await
                .expect("it goes on")
                .expect("it goes on");
            if let Some(Message::Event(event)) = message.message
                && event.kind() == SagaEventKind::Stuck
            {
                assert!(
                    event.detail_json.contains("step `refused` failed"),
                    "{event:?}"
                );
                return began.elapsed();
            }
        }
    };
    let in_list = async {
        while !is_listed(stage, &id).await {}
        began.elapsed()
    };
    let in_metric = eventually("the metric to tell it", async || {
        (gauge(stage).await == Some(stuck_before + 1)).then(|| began.elapsed())
    });
    let all = async { tokio::join!(in_log, in_saga, in_list, in_metric) };
    let (in_log, in_saga, in_list, in_metric) = timeout(20 * SOON, all).await.expect("it shows");
    (id, [in_log, in_saga, in_list, in_metric])
}

#[tokio::test]
async fn a_stuck_saga_shows_within_a_second_and_each_verb_frees_it() {
    let frees = [
        (SagaVerb::Retry, SagaState::Stuck),
        (SagaVerb::Skip, SagaState::Completed),
        (SagaVerb::Abandon, SagaState::Abandoned),
    ];
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let mut late: BTreeMap<&str, u32> = BTreeMap::new();
        let mut stuck = Vec::new();
        for (before, _) in (0..).zip(frees) {
            let (id, shown) = become_stuck(&stage, before).await;
            println!("{engine:?}: shown after {shown:?}, at {PLACES:?}");
            for (place, after) in PLACES.into_iter().zip(shown) {
                *late.entry(place).or_default() += u32::from(after > SOON);
            }
            stuck.push(id);
        }
        // A machine with more to do than it can may miss one, and not most of them.
        assert!(
            late.values().all(|late| *late <= 1),
            "{engine:?}: late: {late:?}"
        );

        // The answer that it gets has not changed: run again, it is stuck again, after a second attempt.
        for ((verb, then), id) in frees.into_iter().zip(&stuck) {
            let saga = stage.get(id).await;
            assert_eq!(saga.outcome_reason, "step `refused` failed");
            let reason = format!("{} it", verb.as_str_name());
            let told = stage
                .steer(verb, &saga, ("ann", &reason))
                .await
                .expect("it is freed");
            assert_ne!(told.state(), SagaState::Stuck, "{verb:?}");
            let end = stage
                .until(id, "done with that", |saga| {
                    saga.state() == then && (verb != SagaVerb::Retry || saga.current_attempt == 2)
                })
                .await;
            let events = stage.events(id).await;
            let by: Vec<_> = events.iter().filter(|event| event.verb() == verb).collect();
            assert!(!by.is_empty(), "{events:?}");
            for event in by {
                assert_eq!(
                    (event.actor.as_str(), event.reason.as_str()),
                    ("ann", reason.as_str())
                );
            }
            if verb == SagaVerb::Retry {
                // Freed for good, so that the next ones are counted alone.
                let again = stage.steer(SagaVerb::Skip, &end, ("ben", "by hand")).await;
                again.expect("it is freed");
                stage.until_state(id, SagaState::Completed).await;
                let steps = stage.steps(id).await;
                assert_eq!(steps[1].output_json, r#"{"by":"hand"}"#);
            }
            assert!(!is_listed(&stage, id).await);
        }
        eventually("the metric to go down", async || {
            (gauge(&stage).await == Some(0)).then_some(())
        })
        .await;
    }
}
