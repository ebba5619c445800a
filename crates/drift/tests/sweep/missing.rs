//! What proves that something is gone: looks that could not both have overlooked it, or the provider's own word.

use crate::scene::Scene;

const THERE: &str = r#"{"a":1}"#;

impl Scene {
    /// A complete inventory, begun before, that saw none of these.
    async fn ends_without(&self, inventory: &str, ids: &[&str]) {
        let missed = self.end(inventory, true).await;
        assert_eq!(missed, i64::try_from(ids.len()).unwrap(), "{ids:?}");
    }

    async fn misses(&self, id: &str) -> i64 {
        self.resource(id).await.misses
    }
}

#[tokio::test]
async fn two_looks_at_once_are_one_proof() {
    for scene in Scene::both().await {
        scene.record("1", THERE).await;
        scene.inventory(&[("1", THERE)]).await;
        // Something else was deleted while both turned their pages: both skip the same row.
        let (first, second) = (scene.begin().await, scene.begin().await);
        scene.ends_without(&first, &["1"]).await;
        scene.ends_without(&second, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1);
        let third = scene.begin().await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, []);
        assert_eq!(scene.verdict("1").await, "not_observed");
        // One that began after the end of the first is the second look.
        scene.ends_without(&third, &["1"]).await;
        assert_eq!(scene.misses("1").await, 2);
        scene.sweep().await;
        assert_eq!(scene.open("1").await[0].1, "gone");
        assert_eq!(
            scene.events("1").await,
            ["recorded", "appeared", "gone", "drift_detected"]
        );
    }
}

#[tokio::test]
async fn one_that_was_under_way_when_another_ended_proves_nothing_more() {
    for scene in Scene::both().await {
        scene.record("1", THERE).await;
        let long = scene.begin().await;
        scene.inventory(&[("1", THERE)]).await;
        scene.ends_without(&scene.begin().await, &["1"]).await;
        let late = scene.begin().await;
        scene.ends_without(&long, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1);
        // Asked for again: what was missed before does not count.
        scene.record("1", THERE).await;
        scene.ends_without(&late, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1, "it began before the apply");
        scene.ends_without(&scene.begin().await, &["1"]).await;
        assert_eq!(scene.misses("1").await, 1, "the first since the apply");
        scene.ends_without(&scene.begin().await, &["1"]).await;
        assert_eq!(scene.misses("1").await, 2);
    }
}
