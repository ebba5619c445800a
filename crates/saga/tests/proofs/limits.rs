//! What is bounded, what is forgotten and when, and what is never written down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use steadfast_saga::{
    Error, OnFailure, Options, SecretError, SecretSource, StartSaga, State, Verb, machine::Seen,
};
use steadfast_store::fault::{Fault, Faults, Point};
use tokio::time::Instant;

use crate::{
    scene::{Scene, Setup},
    steps::{effect, noop, start, step, wait},
};

/// What must be nowhere in the database.
const SECRET: &str = "correct horse \"battery\" staple/7";

struct Known;

impl SecretSource for Known {
    fn secret(&self, name: &str) -> Result<String, SecretError> {
        assert_eq!(name, "TOKEN");
        Ok(SECRET.to_owned())
    }
}

#[tokio::test]
async fn what_a_saga_is_started_with_is_bounded() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let plain = || start(vec![noop("a")]);
        let text = |bytes: usize| json!({ "t": "x".repeat(bytes - 8) });
        let name = |bytes: usize| "n".repeat(bytes);
        let labels = move |count: usize| -> BTreeMap<String, String> {
            (0..count).map(|at| (format!("l{at}"), name(128))).collect()
        };
        let steps = |count: usize| (0..count).map(|at| noop(&format!("s{at}"))).collect();
        type Change = Box<dyn Fn(&mut StartSaga, usize)>;
        let bounds: [(&str, usize, Change); 7] = [
            (
                "inputs",
                64 << 10,
                Box::new(move |saga, size| saga.inputs = text(size)),
            ),
            (
                "context",
                64 << 10,
                Box::new(move |saga, size| saga.context = text(size)),
            ),
            (
                "labels",
                32,
                Box::new(move |saga, size| saga.labels = labels(size)),
            ),
            (
                "kind",
                128,
                Box::new(move |saga, size| saga.kind = name(size)),
            ),
            (
                "deployment",
                128,
                Box::new(move |saga, size| saga.deployment_id = name(size)),
            ),
            (
                "key",
                128,
                Box::new(move |saga, size| saga.concurrency_key = Some(name(size))),
            ),
            (
                "steps",
                100,
                Box::new(move |saga, size| *saga = start(steps(size))),
            ),
        ];
        for (what, most, change) in bounds {
            let mut fits = plain();
            change(&mut fits, most);
            let id = process.start(fits).await;
            assert!(id.is_ok(), "{what}: {id:?}");
            process.until_state(&id.unwrap(), State::Completed).await;
            let mut too_much = plain();
            change(&mut too_much, most + 1);
            let refused = process.start(too_much).await;
            assert!(
                matches!(
                    refused,
                    Err(Error::InvalidArgument { .. } | Error::DefinitionInvalid(_))
                ),
                "{what}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_step_returns_is_bounded() {
    for scene in Scene::both().await {
        let process = scene.boot(Faults::default()).await;
        let id = process
            .start(start(vec![effect("x", "big")]))
            .await
            .unwrap();
        process.until_state(&id, State::Completed).await;
        let events = process.events(&id).await;
        let done = events
            .iter()
            .find(|event| event.kind == "step_done")
            .unwrap();
        let told = done.detail["output"]["dropped"].as_str().unwrap();
        assert!(told.contains("70002 bytes"), "{told}");
        let mut loud = effect("x", "shout");
        loud.on_failure = OnFailure::Stop;
        let id = process.start(start(vec![loud])).await.unwrap();
        let view = process.until_state(&id, State::Stuck).await;
        let (code, message) = view.saga.steps[0].error.clone().unwrap();
        assert!((1..=128).contains(&code.len()), "{} bytes", code.len());
        assert!(
            (1_000..5_000).contains(&message.len()),
            "{} bytes",
            message.len()
        );
        // What a person gives in its place is no exception.
        let seen = Seen {
            control_version: view.saga.control_version,
            step: 0,
            attempt: 1,
        };
        let skip = Verb::Skip {
            seen,
            output: json!("x".repeat(64 << 10)),
        };
        let refused = process.steer(&id, skip).await;
        assert!(
            matches!(refused, Err(Error::InvalidArgument { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_replica_has_only_so_many_sagas_in_hand() {
    for scene in Scene::both().await {
        let mut setup = Setup::default();
        setup.engine = Options {
            running: 3,
            ..setup.engine
        };
        let process = scene.boot(setup).await;
        let gate = scene.world.hold("x");
        let begin = || {
            let mut step = effect("x", "");
            step.timeouts.running_ms = 60_000;
            process.start(start(vec![step]))
        };
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(begin().await.unwrap());
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while scene.world.inside() < 3 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for _ in 0..17 {
            let id = begin().await.unwrap();
            assert_eq!(process.get(&id).await.saga.state, State::Pending);
            ids.push(id);
        }
        for _ in &ids {
            gate.open_once();
        }
        for id in &ids {
            process.until_state(id, State::Completed).await;
        }
        assert_eq!(scene.world.most_inside(), 3);
    }
}

#[tokio::test]
async fn ended_sagas_are_forgotten_by_state_and_stuck_ones_never() {
    for scene in Scene::both().await {
        let process = scene.boot(keeping(3_600, 3_600, Faults::default())).await;
        let stops = || {
            let mut step = effect("s", "fail");
            step.on_failure = OnFailure::Stop;
            start(vec![step])
        };
        let stuck = process.start(stops()).await.unwrap();
        let abandoned = process.start(stops()).await.unwrap();
        let view = process.until_state(&abandoned, State::Stuck).await;
        let seen = Seen {
            control_version: view.saga.control_version,
            step: 0,
            attempt: 1,
        };
        process
            .steer(&abandoned, Verb::Abandon(seen))
            .await
            .unwrap();
        let unwinds = start(vec![effect("a", ""), effect("b", "fail")]);
        let compensated = process.start(unwinds).await.unwrap();
        process.until_state(&compensated, State::Compensated).await;
        process.until_state(&stuck, State::Stuck).await;
        let parked = start(vec![wait("w", 3_600_000)]);
        let parked = process.start(parked).await.unwrap();
        // More than one batch of those that are to be forgotten.
        let started = process
            .run(|engine, _| {
                let many = (0..600).map(|_| start(vec![noop("n")]));
                let many: Vec<_> = many.collect();
                async move {
                    let starts = many.into_iter().map(|saga| engine.start(saga, None));
                    futures::future::join_all(starts).await
                }
            })
            .await;
        for started in started {
            process
                .until_state(&started.unwrap().0.id, State::Completed)
                .await;
        }
        drop(process);

        let batches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&batches);
        let faults = Faults::planned(move |point| {
            if matches!(point, Point::Committed(names) if names.contains(&"saga_prune")) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Fault::None
        });
        let process = scene.boot(keeping(0, 3_600, faults)).await;
        gone(&scene, "completed").await;
        let ids = "SELECT count(*) FROM saga";
        assert_eq!(scene.sql(ids).await, "4", "kept for an hour, and for ever");
        assert_eq!(
            batches.load(Ordering::SeqCst),
            2,
            "600, at most 500 at a time"
        );
        drop(process);

        let process = scene.boot(keeping(3_600, 0, Faults::default())).await;
        gone(&scene, "compensated").await;
        gone(&scene, "abandoned").await;
        assert_eq!(process.get(&stuck).await.saga.state, State::Stuck);
        assert_eq!(process.get(&parked).await.saga.state, State::Running);
        let events = "SELECT count(DISTINCT saga_id) FROM saga_event";
        assert_eq!(
            scene.sql(events).await,
            "2",
            "with everything that happened"
        );
        // A plan goes with the last saga that was started with it.
        let deadline = Instant::now() + Duration::from_secs(30);
        while scene.sql("SELECT count(*) FROM saga_plan").await != "2" {
            assert!(Instant::now() < deadline);
        }
    }
}

/// How many seconds ended sagas are kept: those that completed, and others.
fn keeping(completed: u64, others: u64, faults: Faults) -> Setup {
    let mut setup = Setup::from(faults);
    setup.engine = Options {
        keep_completed: Duration::from_secs(completed),
        keep_others: Duration::from_secs(others),
        retention_interval: Duration::from_millis(50),
        ..setup.engine
    };
    setup
}

async fn gone(scene: &Scene, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let count = format!("SELECT count(*) FROM saga WHERE state = '{state}'");
    while scene.sql(&count).await != "0" {
        assert!(Instant::now() < deadline, "{state} ones are kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn secrets_are_sent_and_never_written_down() {
    for scene in Scene::both().await {
        let setup = || Setup {
            secrets: Arc::new(Known),
            ..Setup::default()
        };
        let process = scene.boot(setup()).await;
        let input = |what: &str| {
            json!({
                "do": what,
                "token": "{{ secret.TOKEN }}",
                "header": "Bearer {{ secret.TOKEN }}",
                "deep": [{ "t": "{{ secret.TOKEN }}" }],
            })
        };
        let echo = |name: &str, what: &str| {
            step(json!({
                "name": name,
                "action": { "builtin": { "name": "effect", "input": input(what) } },
                "undo": { "builtin": { "name": "effect", "input": input("echo") } },
                "retry": { "attempts": 2, "initial_backoff_ms": 1, "max_backoff_ms": 2 },
                "timeouts": { "running_ms": 500 },
            }))
        };
        let mut sagas = Vec::new();
        for last in ["echo", "echo and fail", "echo and lose"] {
            let mut later = effect("later", "");
            later.action = serde_json::from_value(json!({ "builtin": {
                "name": "effect", "input": { "from": "{{ steps.first.output }}" } } }))
            .unwrap();
            let steps = vec![echo("first", "echo"), later, echo("last", last)];
            sagas.push(process.start(start(steps)).await.unwrap());
        }
        let states = [State::Completed, State::Compensated, State::Compensated];
        for (id, state) in sagas.iter().zip(states) {
            let view = process.until_rest(id).await;
            assert_eq!(view.saga.state, state, "{:?}", view.saga);
            let calls = scene.world.calls(id);
            // It was there when it was needed.
            assert_eq!(calls[0].input["token"], SECRET);
            assert_eq!(calls[0].input["header"], format!("Bearer {SECRET}"));
            let events = format!("{:?}", process.events(id).await);
            assert!(events.contains("***"), "nothing was masked: {events}");
        }
        let dump = scene.dump().await;
        assert!(dump.contains(&sagas[0]) && dump.contains("***") && dump.contains("secret.TOKEN"));
        let as_json = Value::from(SECRET).to_string();
        let as_json = as_json.trim_matches('"');
        let twice = Value::from(as_json).to_string();
        for form in [
            SECRET,
            as_json,
            twice.trim_matches('"'),
            "horse",
            "battery",
            "staple",
        ] {
            assert!(!dump.contains(form), "{form} is in the database");
        }
        if let Some(bytes) = scene.files() {
            for word in ["horse", "battery", "staple"] {
                let found = bytes
                    .windows(word.len())
                    .any(|part| part == word.as_bytes());
                assert!(!found, "{word} is in the database's files");
            }
        }
    }
}
