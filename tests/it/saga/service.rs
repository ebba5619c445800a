//! SagaService's answers to what is wrong, and to what comes twice.

use serde_json::json;
use steadfast_client::{
    Code, Error,
    api::saga::v1::{
        AbandonSagaRequest, BatchStartSagasRequest, CreateSagaDefinitionRequest,
        GetSagaDefinitionRequest, GetSagaRequest, ListSagaStepsRequest, RetryStepRequest, Saga,
        SagaState, SagaVerb, Seen, SkipStepRequest, StartSagaRequest,
        batch_start_sagas_response::result::Result as Item,
    },
};

use super::{
    reach::Place,
    stage::{Stage, inline, named, seen},
};
use crate::scene::Engine;

const NOOP: &str = r#"[{"name":"a","action":{"builtin":{"name":"noop"}},"undo":"none"}]"#;

fn told(error: &Error) -> (Code, &str) {
    (error.code, error.reason.as_str())
}

fn fields(error: &Error) -> Vec<&str> {
    let violations = error.field_violations.iter();
    violations
        .map(|violation| violation.field.as_str())
        .collect()
}

/// The three verbs that name what their author saw, with something else seen.
async fn decide(stage: &Stage, saga: &Saga, seen: Option<Seen>) -> [Error; 3] {
    let (connection, mut client) = (&stage.connection, stage.connection.sagas());
    let id = saga.id.clone();
    let (actor, reason) = ("ann".to_owned(), "to see".to_owned());
    let retry = RetryStepRequest {
        id,
        actor,
        reason,
        seen,
    };
    let skip = SkipStepRequest {
        id: retry.id.clone(),
        actor: retry.actor.clone(),
        reason: retry.reason.clone(),
        seen: retry.seen.clone(),
        output_json: String::new(),
    };
    let abandon = AbandonSagaRequest {
        id: retry.id.clone(),
        actor: retry.actor.clone(),
        reason: retry.reason.clone(),
        seen: retry.seen.clone(),
    };
    [
        connection
            .call(client.retry_step(retry))
            .await
            .expect_err("it is refused"),
        connection
            .call(client.skip_step(skip))
            .await
            .expect_err("it is refused"),
        connection
            .call(client.abandon_saga(abandon))
            .await
            .expect_err("it is refused"),
    ]
}

#[tokio::test]
async fn a_decision_about_something_else_is_refused() {
    const CHANGED: (Code, &str) = (Code::Aborted, "SAGA_CHANGED");
    const NOT_AT_STEP: (Code, &str) = (Code::FailedPrecondition, "NOT_AT_STEP");
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let saga = Place::StuckForward.reach(&stage).await.saga;
        let now = seen(&saga);
        let with = |change: fn(&mut Seen)| {
            let mut other = now.clone();
            change(&mut other);
            Some(other)
        };
        for (other, expected) in [
            (with(|seen| seen.control_version += 1), [CHANGED; 3]),
            (with(|seen| seen.attempt += 1), [CHANGED; 3]),
            // A step that is there and is not the current one: there is nothing to decide about it.
            (
                with(|seen| "first".clone_into(&mut seen.step)),
                [NOT_AT_STEP, NOT_AT_STEP, CHANGED],
            ),
            (
                with(|seen| "nowhere".clone_into(&mut seen.step)),
                [(Code::NotFound, "STEP_NOT_FOUND"); 3],
            ),
            (
                with(|seen| seen.attempt = -1),
                [(Code::InvalidArgument, "INVALID_ARGUMENT"); 3],
            ),
            (None, [(Code::InvalidArgument, "INVALID_ARGUMENT"); 3]),
        ] {
            let errors = decide(&stage, &saga, other.clone()).await;
            assert_eq!(
                errors.each_ref().map(told),
                expected,
                "{engine:?}: {other:?}"
            );
        }
        assert_eq!(stage.get(&saga.id).await, saga);

        // Another verb came in between: the one who did not see it decides about something that is no more.
        stage
            .steer(SagaVerb::Retry, &saga, ("ann", "first"))
            .await
            .expect("it is retried");
        stage.until_state(&saga.id, SagaState::Completed).await;
        let waiting = Place::CompensatingWaiting.reach(&stage).await.saga;
        stage
            .steer(SagaVerb::Cancel, &waiting, ("ann", "nothing"))
            .await
            .expect("it is accepted");
        let errors = decide(&stage, &waiting, Some(seen(&waiting))).await;
        assert_eq!(errors.each_ref().map(told), [CHANGED; 3], "{engine:?}");
    }
}

#[tokio::test]
async fn verbs_say_which_argument_is_wrong() {
    let stage = Stage::start(Engine::Sqlite).await;
    let saga = Place::RunningWaiting.reach(&stage).await.saga;
    let nobody = Saga {
        id: "nobody".to_owned(),
        ..saga.clone()
    };
    let long = "x".repeat(1_025);
    for verb in [
        SagaVerb::Cancel,
        SagaVerb::Pause,
        SagaVerb::Resume,
        SagaVerb::Retry,
        SagaVerb::Skip,
        SagaVerb::Abandon,
    ] {
        let missing = stage.steer(verb, &nobody, ("ann", "why")).await;
        assert_eq!(
            told(&missing.expect_err("nobody is there")),
            (Code::NotFound, "SAGA_NOT_FOUND")
        );
        for (actor, reason, field) in [
            ("", "why", "actor"),
            (&long[..129], "why", "actor"),
            ("ann", "", "reason"),
            ("ann", &long, "reason"),
            ("a\0", "why", "actor"),
        ] {
            let wrong = stage.steer(verb, &saga, (actor, reason)).await;
            let error = wrong.expect_err("it is refused");
            assert_eq!(
                (error.code, fields(&error)),
                (Code::InvalidArgument, vec![field]),
                "{verb:?}"
            );
        }
    }
    assert_eq!(stage.get(&saga.id).await, saga);
    let mut client = stage.connection.sagas();
    let request = ListSagaStepsRequest {
        id: "nobody".to_owned(),
        ..ListSagaStepsRequest::default()
    };
    let missing = stage.connection.call(client.list_saga_steps(request)).await;
    assert_eq!(
        told(&missing.expect_err("nobody is there")),
        (Code::NotFound, "SAGA_NOT_FOUND")
    );
    let request = GetSagaRequest { id: String::new() };
    let empty = stage.connection.call(client.get_saga(request)).await;
    assert_eq!(fields(&empty.expect_err("it is refused")), ["id"]);
}

#[tokio::test]
async fn a_request_id_replays_its_start_and_no_other() {
    for engine in Engine::BOTH {
        let mut stage = Stage::start(engine).await;
        let mut request = inline(NOOP);
        request.request_id = "once".to_owned();
        request.labels = (0..8).map(|n| (n.to_string(), "x".to_owned())).collect();
        let (connection, mut client) = (&stage.connection, stage.connection.sagas());
        let first = connection
            .call(client.start_saga(request.clone()))
            .await
            .expect("it starts");
        assert!(!first.replayed);
        let id = first.saga.expect("a saga").id;
        stage.until_state(&id, SagaState::Completed).await;
        stage.restart().await;
        let (connection, mut client) = (&stage.connection, stage.connection.sagas());
        for _ in 0..3 {
            let again = connection
                .call(client.start_saga(request.clone()))
                .await
                .expect("it is replayed");
            let saga = again.saga.expect("a saga");
            assert_eq!(
                (again.replayed, saga.id.as_str(), saga.state()),
                (true, id.as_str(), SagaState::Completed)
            );
        }
        let changes: [fn(&mut StartSagaRequest); 5] = [
            |request| request.priority = 1,
            |request| request.inputs_json = r#"{"a":1}"#.to_owned(),
            |request| request.plan = inline(&NOOP.replace('a', "b")).plan,
            |request| request.plan = inline(&NOOP.replace("\"a\"", "\"b\"")).plan,
            |request| drop(request.labels.remove("3")),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut other = request.clone();
            change(&mut other);
            let refused = connection
                .call(client.start_saga(other))
                .await
                .expect_err("it is refused");
            // The third is no plan at all, which is told first.
            let expected = if n == 2 {
                (Code::InvalidArgument, "DEFINITION_INVALID")
            } else {
                (Code::AlreadyExists, "REQUEST_ID_REUSED")
            };
            assert_eq!(told(&refused), expected, "{engine:?}: {n}");
        }
    }
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let with_id = |id: &str, priority| StartSagaRequest {
            request_id: id.to_owned(),
            priority,
            ..inline(NOOP)
        };
        let requests = vec![
            inline(NOOP),
            named("nobody", 0),
            inline(r#"[{"name":"a","action":{"builtin":{"name":"nop"}},"undo":"none"}]"#),
            with_id("batch", 0),
            StartSagaRequest {
                kind: "k".repeat(129),
                ..inline(NOOP)
            },
            with_id("batch", 0),
            with_id("batch", 7),
            inline(NOOP),
        ];
        let (connection, mut client) = (&stage.connection, stage.connection.sagas());
        let batch = BatchStartSagasRequest { requests };
        let answer = connection
            .call(client.batch_start_sagas(batch.clone()))
            .await
            .expect("it is answered");
        let results: Vec<_> = answer
            .results
            .into_iter()
            .map(|result| result.result.expect("an answer"))
            .collect();
        let errors: Vec<_> = results
            .iter()
            .map(|result| match result {
                Item::Started(_) => "",
                Item::Error(error) => error.reason.as_str(),
            })
            .collect();
        let reused = "REQUEST_ID_REUSED";
        let expected = [
            "",
            "DEFINITION_NOT_FOUND",
            "DEFINITION_INVALID",
            "",
            "INVALID_ARGUMENT",
            "",
            reused,
            "",
        ];
        assert_eq!(errors, expected, "{engine:?}");
        let started: Vec<_> = results
            .iter()
            .filter_map(|result| match result {
                Item::Started(started) => {
                    Some((started.saga.clone().expect("a saga").id, started.replayed))
                }
                Item::Error(_) => None,
            })
            .collect();
        // One of the two with the same id and the same body started it, the other found it.
        assert_eq!(started[1].0, started[2].0);
        assert_eq!(
            u32::from(started[1].1) + u32::from(started[2].1),
            1,
            "{engine:?}"
        );
        for (id, _) in &started {
            stage.until_state(id, SagaState::Completed).await;
        }
        for count in [0, 101] {
            let requests = vec![inline(NOOP); count];
            let refused = connection
                .call(client.batch_start_sagas(BatchStartSagasRequest { requests }))
                .await;
            assert_eq!(fields(&refused.expect_err("it is refused")), ["requests"]);
        }
    }
}

#[tokio::test]
async fn definitions_are_checked_whole_and_never_change() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        let (connection, mut client) = (&stage.connection, stage.connection.sagas());
        let good = json!({ "name": "site", "version": 3, "steps": [
            { "name": "a", "action": { "builtin": { "name": "noop", "input": { "b": 1, "a": 2 } } }, "undo": "none" },
        ] });
        let only = CreateSagaDefinitionRequest {
            definition_json: good.to_string(),
            validate_only: true,
        };
        let checked = connection
            .call(client.create_saga_definition(only))
            .await
            .expect("it is valid");
        let checked = checked.definition.expect("a definition");
        assert_eq!((checked.create_time, checked.steps.len()), (None, 1));
        let get = |version| GetSagaDefinitionRequest {
            name: "site".to_owned(),
            version,
        };
        let missing = connection.call(client.get_saga_definition(get(0))).await;
        assert_eq!(
            told(&missing.expect_err("it was only checked")),
            (Code::NotFound, "DEFINITION_NOT_FOUND")
        );

        let stored = stage.define(&good).await.expect("it is stored");
        assert_eq!(stored.hash, checked.hash);
        // The same again, however it is written.
        let again = CreateSagaDefinitionRequest {
            definition_json: format!("{good:#}\n"),
            validate_only: false,
        };
        let again = connection
            .call(client.create_saga_definition(again))
            .await
            .expect("it is a no-op");
        assert_eq!(again.definition.as_ref(), Some(&stored));
        let mut other = good.clone();
        other["steps"][0]["optional"] = json!(true);
        let refused = stage.define(&other).await.expect_err("it is taken");
        assert_eq!(told(&refused), (Code::AlreadyExists, "DEFINITION_EXISTS"));
        other["version"] = json!(4);
        stage.define(&other).await.expect("another version is free");
        for (asked, version) in [(0, 4), (3, 3), (4, 4)] {
            let found = connection
                .call(client.get_saga_definition(get(asked)))
                .await
                .expect("it is there");
            assert_eq!(found.definition.expect("a definition").version, version);
        }

        let all_wrong = json!({ "name": "no good", "version": 0, "steps": [
            { "name": "a", "action": { "builtin": { "name": "nop" } }, "undo": "none", "extra": 1 },
            { "name": "a", "action": { "wait": { "duration_ms": 0 } } },
            { "name": "c", "action": { "http": { "method": "POST", "url": "https://x/{{ steps.d.output }}" } }, "undo": "none" },
            { "name": "d", "action": { "builtin": { "name": "publish" } }, "undo": "none", "on_unknown": "reconcile" },
        ] });
        let refused = stage.define(&all_wrong).await.expect_err("it is refused");
        assert_eq!(
            told(&refused),
            (Code::InvalidArgument, "DEFINITION_INVALID")
        );
        let found = fields(&refused);
        for field in [
            "definition_json.name",
            "definition_json.version",
            "definition_json.steps[0].extra",
            "definition_json.steps[0].action.builtin.name",
            "definition_json.steps[1].name",
            "definition_json.steps[1].undo",
            "definition_json.steps[1].action.wait.duration_ms",
            "definition_json.steps[2].on_unknown",
            "definition_json.steps[2].action.http.url",
            // `publish` cannot be asked what became of an attempt.
            "definition_json.steps[3].on_unknown",
        ] {
            assert!(
                found.contains(&field),
                "{engine:?}: {field} is not told: {found:?}"
            );
        }
        let steps = r#"[{"name":"a","action":{"builtin":{"name":"nop"}},"undo":"none"},1]"#;
        let refused = stage
            .start_saga(inline(steps))
            .await
            .expect_err("it is refused");
        let mut found = fields(&refused);
        found.sort_unstable();
        assert_eq!(
            found,
            ["steps_json[0].action.builtin.name", "steps_json[1]"],
            "{refused:?}"
        );
    }
}
