//! Sagas that hold resources.

use steadfast_store::{
    NewSaga, RESOURCE_KEY_PREFIX, ResourceName, SagaFirst, SagaPlanRow, SagaRow, SteerWrite,
    Steered,
};

use crate::scene::Scene;

/// Starts a saga that holds a resource, and returns its id.
pub(crate) async fn hold(scene: &Scene, name: &ResourceName) -> String {
    let id = uuid::Uuid::now_v7().to_string();
    let first = |state: &str| SagaFirst {
        owner: "somebody".to_owned(),
        wake_us: None,
        state: state.to_owned(),
        machine: "{}".to_owned(),
        records: "[]".to_owned(),
    };
    let row = SagaRow {
        id: id.clone(),
        kind: "test".to_owned(),
        definition_name: String::new(),
        definition_version: 0,
        plan_hash: "plan".to_owned(),
        deployment_id: String::new(),
        triggered_by: "tests".to_owned(),
        labels: "{}".to_owned(),
        inputs: "{}".to_owned(),
        context: "{}".to_owned(),
        priority: 0,
        concurrency_key: Some(format!("{RESOURCE_KEY_PREFIX}{name}")),
        request_key: None,
        body_hash: String::new(),
        deadline_us: None,
        state: String::new(),
        machine: String::new(),
        version: 0,
        last_write: String::new(),
        owner: String::new(),
        wake_us: None,
        crashes: 0,
        created_us: 0,
        started_us: None,
        ended_us: None,
    };
    let plan = SagaPlanRow {
        hash: "plan".to_owned(),
        document: "[]".to_owned(),
    };
    let new = NewSaga {
        plan,
        row,
        free: first("running"),
        waiting: first("pending"),
    };
    let started = scene.store.start_saga(new).await.unwrap();
    assert!(!started.waits);
    id
}

/// Ends it.
pub(crate) async fn release(scene: &Scene, id: &str) {
    let steered = scene.store.steer_saga::<()>(id, |row| {
        Ok(SteerWrite {
            owner: String::new(),
            wake_us: None,
            state: "completed".to_owned(),
            machine: row.machine.clone(),
            records: "[]".to_owned(),
            ended: true,
            release: true,
            begin: false,
            deadline_done: false,
            crashes: 0,
            actor: String::new(),
            reason: String::new(),
        })
    });
    assert!(matches!(steered.await.unwrap(), Steered::Moved(_)));
}
