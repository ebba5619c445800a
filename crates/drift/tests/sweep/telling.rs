//! What is told of a resource's coming and going: once, and only by a look that is to be believed.

use steadfast_store::{DriftRetention, ReportOutcome};

use crate::scene::{Scene, changed};

const THERE: &str = r#"{"a":1}"#;
const OTHER: &str = r#"{"a":2}"#;

impl Scene {
    /// An inventory that says of each what is there, or that it is gone, and ends as told.
    async fn look(&self, said: &[(&str, Option<&str>)], complete: bool) -> String {
        let inventory = self.begin().await;
        let observed = said.iter().map(|(id, live)| self.observed(id, *live));
        self.report_all(Some(&inventory), observed.collect()).await;
        self.end(&inventory, complete).await;
        inventory
    }
}

#[tokio::test]
async fn a_look_that_failed_tells_nothing() {
    for scene in Scene::both().await {
        for id in ["new", "gone", "back"] {
            scene.record(id, THERE).await;
        }
        scene.report("gone", Some(THERE)).await;
        scene.report("back", None).await;
        scene.sweep().await;
        let opposite = [("new", Some(THERE)), ("gone", None), ("back", Some(THERE))];
        let before = [
            ("new", vec!["recorded"]),
            ("gone", vec!["recorded", "appeared"]),
            ("back", vec!["recorded", "gone", "drift_detected"]),
        ];
        let told = async |wanted: &[(&str, Vec<&str>)], what: &str| {
            for (id, wanted) in wanted {
                assert_eq!(&scene.events(id).await, wanted, "{what}: {id}");
            }
        };
        // Twice: the second finds what the first one wrote.
        for _ in 0..2 {
            scene.look(&opposite, false).await;
            scene.sweep().await;
            told(&before, "failed").await;
            for id in ["new", "gone", "back"] {
                assert_eq!(scene.verdict(id).await, "unreadable", "{id}");
            }
            assert_eq!(scene.open("gone").await, []);
            assert_eq!(scene.open("back").await[0].1, "gone");
        }
        // While it is under way it is not known what becomes of it.
        let inventory = scene.begin().await;
        let observed = opposite
            .iter()
            .map(|(id, live)| scene.observed(id, *live))
            .collect();
        let said = scene.report_all(Some(&inventory), observed).await;
        assert_eq!(said, [ReportOutcome::Unchanged; 3]);
        told(&before, "under way").await;
        scene.end(&inventory, true).await;
        let after = [
            ("new", vec!["recorded", "appeared"]),
            ("gone", vec!["recorded", "appeared", "gone"]),
            (
                "back",
                vec!["recorded", "gone", "drift_detected", "appeared"],
            ),
        ];
        told(&after, "complete").await;
        // What is known is not told again, whoever says it.
        scene.look(&opposite, true).await;
        scene.look(&opposite, false).await;
        for (id, live) in opposite {
            scene.report(id, live).await;
        }
        told(&after, "again").await;
        scene.sweep().await;
        scene.assert_quiet().await;
    }
}

#[tokio::test]
async fn what_a_report_says_after_a_look_that_failed_is_told() {
    for scene in Scene::both().await {
        scene.report("gone", Some(THERE)).await;
        let failed = [("new", Some(THERE)), ("gone", None)];
        scene.look(&failed, false).await;
        // The same is said by somebody who is to be believed.
        let said = scene.report("new", Some(THERE)).await;
        assert_eq!(said, ReportOutcome::Unchanged);
        assert_eq!(scene.report("gone", None).await, ReportOutcome::Unchanged);
        assert_eq!(scene.events("new").await, ["appeared"]);
        assert_eq!(scene.events("gone").await, ["appeared", "gone"]);
        // What contradicts it is no news.
        scene.look(&[("new", None)], false).await;
        assert_eq!(
            scene.report("new", Some(THERE)).await,
            ReportOutcome::Changed
        );
        assert_eq!(scene.events("new").await, ["appeared"]);
        // Two looks at once that find the same tell it once, in whichever order they end.
        let (first, second) = (scene.begin().await, scene.begin().await);
        for inventory in [&first, &second] {
            let seen = vec![scene.observed("late", Some(THERE))];
            scene.report_all(Some(inventory), seen).await;
        }
        scene.end(&second, true).await;
        scene.end(&first, true).await;
        assert_eq!(scene.events("late").await, ["appeared"]);
    }
}

/// What a failed look brought stays unreadable also when nobody knows of the look any more.
#[tokio::test]
async fn what_a_forgotten_failure_brought_is_not_compared() {
    for scene in Scene::both().await {
        for id in ["1", "2", "3"] {
            scene.record(id, THERE).await;
        }
        scene.report("2", Some(OTHER)).await;
        scene.report("3", Some(THERE)).await;
        scene.sweep().await;
        let failed = [("1", Some(OTHER)), ("2", Some(OTHER)), ("3", Some(OTHER))];
        let failed = scene.look(&failed, false).await;
        scene.report("3", Some(OTHER)).await;
        scene.sweep().await;
        let keep = DriftRetention {
            drifts: std::time::Duration::ZERO,
            events: std::time::Duration::from_secs(3_600),
            inventories: 0,
        };
        while scene.store.prune_drift(&keep).await.unwrap() > 0 {}
        assert_eq!(scene.store.inventory(&failed).await.unwrap(), None);
        // Compared again, whether it is due or not.
        let tally = scene.sweep_as(true).await;
        assert_eq!((tally.compared, tally.unreadable, tally.drifted), (3, 1, 2));
        assert_eq!(scene.verdict("1").await, "unreadable");
        for id in ["2", "3"] {
            assert_eq!(scene.open(id).await, [changed("/a", "1", "2")], "{id}");
        }
        scene.look(&[("1", Some(OTHER))], true).await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/a", "1", "2")]);
        assert_eq!(scene.events("1").await[1], "appeared");
        // What was missed by none but is not reported by this one is missed once.
        assert_eq!(scene.resource("2").await.misses, 1);
        assert_eq!(scene.verdict("2").await, "not_observed");
    }
}
