//! What the history of a resource says of the specs that were recorded.

use crate::scene::Scene;

#[tokio::test]
async fn the_history_tells_what_was_recorded_and_what_was_applied() {
    for scene in Scene::both().await {
        for (spec, pending) in [
            (r#"{"a":1}"#, true),
            // Nothing is new, and it is pending already.
            (r#"{"a":1}"#, true),
            (r#"{"a":1}"#, false),
            (r#"{"a":1}"#, false),
            (r#"{"a":1}"#, true),
            (r#"{"a":2}"#, false),
        ] {
            scene.record_as("1", spec, pending).await;
        }
        let key = scene.resource("1").await.key;
        let events = scene.store.resource_events(key, 0, 100).await.unwrap();
        let told: Vec<(&str, &str)> = events
            .iter()
            .map(|event| (event.kind.as_str(), event.detail.as_str()))
            .collect();
        let wanted = [
            ("recorded", r#"{"version":1,"pending":true}"#),
            ("applied", ""),
            ("applied", ""),
            ("applied", r#"{"pending":true}"#),
            ("recorded", r#"{"version":2}"#),
        ];
        assert_eq!(told, wanted);
    }
}
