//! Resources that a saga holds.

use serde_json::json;
use steadfast_client::api::{
    drift::v1::Verdict,
    saga::v1::{
        CancelSagaRequest, GetSagaRequest, SagaState, StartSagaRequest, start_saga_request::Plan,
    },
};

use super::stage::{Stage, WHO, resized, spec};
use crate::scene::{Engine, eventually};

#[tokio::test]
async fn what_a_saga_holds_is_compared_afterwards() {
    let steps = json!([{ "name": "approve", "action": { "wait": { "duration_ms": 60_000 } }, "undo": "none" }]);
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        let mut sagas = stage.connection.sagas();
        let request = StartSagaRequest {
            plan: Some(Plan::StepsJson(steps.to_string())),
            concurrency_key: "resource/do/droplet/1".to_owned(),
            ..StartSagaRequest::default()
        };
        let started = stage.connection.call(sagas.start_saga(request)).await;
        let saga = started.expect("it starts").saga.expect("a saga");
        eventually("the saga to hold its key", async || {
            let request = GetSagaRequest {
                id: saga.id.clone(),
            };
            let mut sagas = stage.connection.sagas();
            let saga = stage.connection.call(sagas.get_saga(request)).await;
            let saga = saga.expect("it is there").saga.expect("a saga");
            (saga.state() == SagaState::Running).then_some(())
        })
        .await;
        stage.report("1", &resized()).await;
        stage.detect().await;
        assert_eq!(stage.get("1").await.verdict(), Verdict::Busy);
        assert_eq!(stage.open().await, []);
        let cancel = CancelSagaRequest {
            id: saga.id.clone(),
            actor: WHO.0.to_owned(),
            reason: WHO.1.to_owned(),
        };
        stage
            .connection
            .call(sagas.cancel_saga(cancel))
            .await
            .expect("it is cancelled");
        eventually(
            "the drift to be found once the saga has ended",
            async || {
                stage.detect().await;
                stage.open().await.pop()
            },
        )
        .await;
    }
}
