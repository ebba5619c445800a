//! What stays as it is writes nothing.

use std::time::Duration;

use steadfast_store::{PolicyWrite, PolicyWritten};

use crate::scene::{Scene, changed};

/// What a sweep may write that finds nothing new: its own row and its lease. Notifications of what came before it may be late.
const OWN: &[&str] = &[
    "notify",
    "lease_claim",
    "lease_guard",
    "lease_renew",
    "lease_release",
    "drift_gate",
    "drift_generation_keep",
    "drift_sweep_running",
    "drift_sweep_add",
    "drift_sweep_get",
    "drift_sweep_take",
    "drift_sweep_again",
    "drift_sweep_end",
    "drift_sweep_prune",
    "drift_apply_progress",
];

impl Scene {
    /// Sweeps all there is again, and proves that nothing else was written.
    pub(crate) async fn assert_quiet(&self) {
        let revision = self.revision().await;
        let before = self.row_versions().await;
        self.ledger.take();
        let tally = self.sweep_as(true).await;
        let foreign: Vec<&str> = self
            .ledger
            .take()
            .concat()
            .into_iter()
            .filter(|name| !OWN.contains(name))
            .collect();
        assert_eq!(foreign, [""; 0], "{tally:?}");
        assert_eq!((tally.opened, tally.changed, tally.closed), (0, 0, 0));
        assert_eq!(self.revision().await, revision);
        assert_eq!(self.row_versions().await, before);
    }

    /// The versions of all rows that are not the sweeps' own, on PostgreSQL.
    async fn row_versions(&self) -> Vec<String> {
        let Some(database) = &self.database else {
            return Vec::new();
        };
        let tables = [
            "drift_resource",
            "drift_live",
            "drift_inventory",
            "drift_seen",
            "drift_seen_block",
            "drift_due",
            "drift_verdict",
            "drift",
            "drift_event",
            "change_log",
        ];
        // A row that was locked has another `xmax`, and one that was written another place.
        let of_each = tables.map(|table| {
            format!(
                "SELECT '{table}', count(*), md5(string_agg(ctid::text || ' ' || xmin || ' ' || xmax, ',' ORDER BY ctid)) FROM {table}"
            )
        });
        let versions = database.psql(&of_each.join(" UNION ALL ")).await;
        let versions: Vec<String> = versions.lines().map(str::to_owned).collect();
        assert_eq!(versions.len(), tables.len(), "{versions:?}");
        versions
    }
}

#[tokio::test]
async fn a_second_sweep_over_the_same_writes_nothing() {
    for scene in Scene::both().await {
        let ids: Vec<String> = (0..40).map(|id| id.to_string()).collect();
        for (index, id) in ids.iter().enumerate() {
            scene
                .record_as(id, r#"{"a":1,"b":[1,2],"c":{"d":true}}"#, index % 10 == 9)
                .await;
        }
        let live = |index: usize| match index % 4 {
            0 => r#"{"a":2,"b":[2,1]}"#,
            1 => r#"{"attrs":{"a":"1","b":["2",1,1],"c":{"d":"true"}},"more":1}"#,
            2 => r#"{"a":1,"b":[2],"c":{"d":true}}"#,
            _ => r#"{"a":1.0,"b":[1,2],"c":{"d":true}}"#,
        };
        let there: Vec<(&str, &str)> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| (id.as_str(), live(index)))
            .collect();
        scene.inventory(&there).await;
        let tally = scene.sweep().await;
        assert_eq!(tally.compared, 40);
        // Every tenth is pending: 9, 19, 29 and 39, all of the kind that agrees.
        assert_eq!((tally.drifted, tally.in_sync, tally.pending), (20, 16, 4));
        assert_eq!(tally.opened, 10 * 2 + 10);
        scene.assert_quiet().await;

        // With what waits for a time, too.
        let open = scene.drifts("0", &["open"]).await;
        scene.snooze(&open[0].id, Duration::from_secs(3_600)).await;
        let ignore = PolicyWrite {
            name: "later".to_owned(),
            expire_us: Some(scene.store.database_time().await.unwrap() + 3_600_000_000),
            provider: "cloud".to_owned(),
            actor: "ann".to_owned(),
            document: r#"{"path":"/b","handling":"ignore","reason":"known"}"#.to_owned(),
        };
        let written = scene.store.create_drift_policy(&ignore, 10).await.unwrap();
        assert!(matches!(written, PolicyWritten::Done(_)));
        scene.sweep().await;
        let hidden = scene.drifts("2", &["open"]).await;
        assert_eq!(
            (
                hidden[0].suppressed_by.as_str(),
                hidden[0].suppressed_policy.as_str()
            ),
            ("policy", "later")
        );
        scene.assert_quiet().await;

        // An inventory in which nothing is new writes who was seen, and nothing of the resources.
        scene.ledger.take();
        let before = scene.row_versions().await;
        let revision = scene.revision().await;
        scene.inventory(&there).await;
        let wrote = scene.ledger.take().concat();
        for name in ["drift_report_write", "drift_due_mark", "log_append"] {
            assert!(!wrote.contains(&name), "{name} in {wrote:?}");
        }
        assert_eq!(scene.revision().await, revision);
        let kept = |versions: Vec<String>| -> Vec<String> {
            let of_looks = |line: &String| line.contains("seen") || line.contains("inventory");
            versions
                .into_iter()
                .filter(|line| !of_looks(line))
                .collect()
        };
        assert_eq!(kept(scene.row_versions().await), kept(before));
        scene.assert_quiet().await;
    }
}

#[tokio::test]
async fn a_thousand_drifts_open_in_five_commits() {
    for scene in Scene::both().await {
        let ids: Vec<String> = (0..1_000).map(|id| format!("{id:04}")).collect();
        let records = ids.iter().map(|id| scene.record(id, r#"{"a":1,"b":2}"#));
        futures::future::join_all(records).await;
        let observed = ids
            .iter()
            .map(|id| scene.observed(id, Some(r#"{"a":2,"b":2}"#)));
        let inventory = scene.begin().await;
        scene.report_all(Some(&inventory), observed.collect()).await;
        scene.end(&inventory, true).await;
        scene.ledger.take();
        let revision = scene.revision().await;
        let tally = scene.sweep().await;
        assert_eq!((tally.compared, tally.opened), (1_000, 1_000));
        let commits = scene.ledger.take();
        let commits = commits
            .iter()
            .filter(|names| names.contains(&"drift_apply_open"));
        let commits = commits.count();
        assert!((1..=5).contains(&commits), "{commits}");
        assert!(scene.revision().await - revision <= 5);
        assert_eq!(scene.open("0999").await, [changed("/a", "1", "2")]);
        scene.assert_quiet().await;
    }
}
