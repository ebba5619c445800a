//! What is recorded, drifts and is decided about it can be watched by its topic.

use steadfast_client::api::{
    drift::v1::{CreatePolicyRequest, Policy, Severity},
    watch::v1::{Filter, Start, WatchRequest, start::Position, watch_response::Event},
};

use super::stage::{Stage, WHO, resized, spec};
use crate::scene::Engine;

/// The first change of a topic.
async fn first(stage: &Stage, topic: &str) -> (String, String) {
    let request = WatchRequest {
        filters: vec![Filter {
            topic: topic.to_owned(),
            key_prefix: String::new(),
        }],
        start: Some(Start {
            position: Some(Position::Earliest(())),
        }),
        ..WatchRequest::default()
    };
    let answer = stage.connection.watches().watch(request).await;
    let mut stream = answer.expect("the stream opens").into_inner();
    loop {
        let message = stream.message().await.expect("it goes on").expect("more");
        if let Some(Event::Batch(batch)) = message.event {
            let change = batch.changes.into_iter().next().expect("a change");
            return (change.topic, change.key);
        }
    }
}

#[tokio::test]
async fn each_kind_of_change_has_a_topic_that_can_be_watched() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine).await;
        stage.record("1", &spec()).await;
        stage.report("1", &resized()).await;
        stage.detect().await;
        let drift = stage.only().await;
        let policy = Policy {
            name: "calm".to_owned(),
            provider: "do".to_owned(),
            severity: Severity::Info.into(),
            ..Policy::default()
        };
        let request = CreatePolicyRequest {
            policy: Some(policy),
            actor: WHO.0.to_owned(),
        };
        let mut policies = stage.connection.policies();
        let created = stage.connection.call(policies.create_policy(request)).await;
        created.expect("it is created");

        for (topic, key) in [
            ("resource", "do/droplet/1"),
            ("drift", drift.id.as_str()),
            ("policy", "calm"),
        ] {
            let wanted = (topic.to_owned(), key.to_owned());
            assert_eq!(first(&stage, topic).await, wanted);
        }
    }
}
