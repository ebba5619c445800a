//! WatchSaga across restarts: every event once, in order, whatever happens to the server.

use serde_json::json;
use steadfast_client::{
    Code, Error,
    api::saga::v1::{
        Saga, SagaEvent, SagaEventKind, SagaState, SagaVerb, WatchSagaRequest,
        watch_saga_response::Message,
    },
};
use uuid::Uuid;

use super::stage::Stage;
use crate::scene::Engine;

/// Reads a stream until it ends or is lost, and keeps its events. Says how the saga ended, if it did.
async fn follow(
    stage: &Stage,
    id: &str,
    events: &mut Vec<SagaEvent>,
    until: usize,
) -> Option<Saga> {
    let after_seq = events.last().map_or(0, |event| event.seq);
    let request = WatchSagaRequest {
        id: id.to_owned(),
        after_seq,
    };
    let stream = stage.connection.sagas().watch_saga(request).await;
    let mut stream = stream.expect("the stream opens").into_inner();
    let first = stream
        .message()
        .await
        .expect("it goes on")
        .expect("it goes on");
    assert!(matches!(first.message, Some(Message::Opened(saga)) if saga.id == id));
    while events.len() < until {
        match stream.message().await {
            Ok(Some(message)) => match message.message.expect("a message") {
                Message::Event(event) => events.push(event),
                Message::Ended(saga) => {
                    assert_eq!(stream.message().await.expect("an orderly end"), None);
                    return Some(saga);
                }
                Message::Opened(_) => panic!("it was opened before"),
            },
            Ok(None) => panic!("a stream ends with the saga, or with an error"),
            Err(_) => return None,
        }
    }
    None
}

#[tokio::test]
async fn a_follower_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    for engine in Engine::BOTH {
        let mut stage = Stage::start(engine).await;
        let gates: Vec<String> = (0..3).map(|_| Uuid::new_v4().to_string()).collect();
        let steps: Vec<_> = gates
            .iter()
            .zip(["a", "b", "c"])
            .map(|(gate, name)| {
                json!({
                    "name": name,
                    "action": { "http": { "method": "PUT", "url": stage.gates.url(gate) } },
                    "undo": "none",
                    "on_unknown": "retry",
                    "retry": { "initial_backoff_ms": 50, "max_backoff_ms": 100 },
                })
            })
            .collect();
        let id = stage.begin(&json!(steps).to_string()).await.id;
        let mut events = Vec::new();
        for gate in &gates {
            stage.gates.asked(gate).await;
            // What is there already: the attempt is told before it is sent.
            let known = stage.events(&id).await.len();
            assert_eq!(follow(&stage, &id, &mut events, known).await, None);
            assert_eq!(
                events.last().expect("an event").kind(),
                SagaEventKind::StepStarted
            );
            stage.restart().await;
            stage.gates.open(gate, 200);
        }
        let ended = follow(&stage, &id, &mut events, usize::MAX).await;
        let ended = ended.expect("it ends");
        assert_eq!(ended.state(), SagaState::Completed, "{ended:?}");
        assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert_eq!(events, stage.events(&id).await);
        let count = |kind| events.iter().filter(|event| event.kind() == kind).count();
        assert_eq!(
            (
                count(SagaEventKind::Created),
                count(SagaEventKind::StepDone),
                count(SagaEventKind::Ended)
            ),
            (1, 3, 1)
        );
        // Each server that was lost left an attempt of which nobody knows.
        assert_eq!(count(SagaEventKind::StepUnknown), 3, "{events:?}");

        // From the middle, and from the end.
        for (after, left) in [(4, events.len() - 5), (events.len() - 1, 0)] {
            let mut rest = vec![events[after].clone()];
            let end = follow(&stage, &id, &mut rest, usize::MAX).await;
            assert_eq!(end.expect("it has ended"), ended);
            assert_eq!(rest[1..], events[after + 1..]);
            assert_eq!(rest.len() - 1, left);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let stage = Stage::start(Engine::Sqlite).await;
    for (id, after_seq, expected) in [
        ("nobody", 0, (Code::NotFound, "SAGA_NOT_FOUND")),
        ("", 0, (Code::InvalidArgument, "INVALID_ARGUMENT")),
        ("nobody", -1, (Code::InvalidArgument, "INVALID_ARGUMENT")),
    ] {
        let id = id.to_owned();
        let request = WatchSagaRequest { id, after_seq };
        let refused = stage.connection.sagas().watch_saga(request).await;
        let error = Error::from(refused.expect_err("it is refused"));
        assert_eq!((error.code, error.reason.as_str()), expected);
    }
    // It goes on while nothing happens, and ends with the saga.
    let steps = json!([{ "name": "a", "action": { "wait": { "duration_ms": 3_600_000 } }, "undo": "none" }]);
    let saga = stage.begin(&steps.to_string()).await;
    let mut events = Vec::new();
    let known = stage.events(&saga.id).await.len();
    let following = async {
        assert_eq!(follow(&stage, &saga.id, &mut events, known).await, None);
        follow(&stage, &saga.id, &mut events, usize::MAX).await
    };
    let steering = async {
        let paused = stage.steer(SagaVerb::Pause, &saga, ("ann", "look")).await;
        let paused = paused.expect("it can be paused");
        stage
            .steer(SagaVerb::Abandon, &paused, ("ann", "enough"))
            .await
            .expect("it can be given up")
    };
    let (ended, given_up) = tokio::join!(following, steering);
    assert_eq!(ended.expect("it ends").state(), SagaState::Abandoned);
    assert_eq!(given_up.state(), SagaState::Abandoned);
}
