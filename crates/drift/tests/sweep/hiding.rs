//! What hides a drift, and what comes back by itself; and resources that are left alone for a while.

use std::time::Duration;

use steadfast_store::{PolicyWrite, PolicyWritten};

use crate::{
    saga::{hold, release},
    scene::{Scene, changed, name},
};

pub(crate) fn policy(name: &str, expire_us: Option<i64>, document: &str) -> PolicyWrite {
    PolicyWrite {
        name: name.to_owned(),
        expire_us,
        provider: "cloud".to_owned(),
        actor: "ann".to_owned(),
        document: document.to_owned(),
    }
}

pub(crate) async fn create(scene: &Scene, policy: &PolicyWrite) {
    let written = scene.store.create_drift_policy(policy, 100).await.unwrap();
    assert!(matches!(written, PolicyWritten::Done(_)), "{written:?}");
}

/// Creates a policy, or replaces the one of its name.
async fn write(scene: &Scene, policy: &PolicyWrite) {
    match scene.store.drift_policy(&policy.name).await.unwrap() {
        None => create(scene, policy).await,
        Some(row) => {
            let written = scene.store.update_drift_policy(policy, &row.etag()).await;
            assert!(matches!(written.unwrap(), PolicyWritten::Done(_)));
        }
    }
}

/// Lets something last for a time in microseconds, longer and longer, until a sweep has ended before that does. Returns when it ends,
/// which may have passed.
async fn swept_before(scene: &Scene, mut last: impl AsyncFnMut(i64) -> i64) -> i64 {
    let mut micros = 300_000;
    loop {
        let until = last(micros).await;
        scene.sweep().await;
        if scene.store.database_time().await.unwrap() < until {
            return until;
        }
        micros *= 2;
        assert!(micros < 60_000_000, "no sweep is as fast as that");
    }
}

async fn drifted(scene: &Scene) {
    scene.record("1", r#"{"a":1,"b":1}"#).await;
    scene.report("1", Some(r#"{"a":2,"b":2}"#)).await;
    scene.sweep().await;
    assert_eq!(scene.open("1").await.len(), 2);
}

#[tokio::test]
async fn a_snooze_hides_a_drift_until_it_ends_or_the_value_changes() {
    for scene in Scene::both().await {
        drifted(&scene).await;
        let open = scene.drifts("1", &["open"]).await;
        scene.snooze(&open[1].id, Duration::from_secs(3_600)).await;
        let until = swept_before(&scene, async |micros| {
            scene.snooze_until(&open[0].id, Some(micros)).await.unwrap()
        })
        .await;
        // Nothing happened before its time.
        let hidden = scene.drifts("1", &["open"]).await;
        assert!(
            hidden
                .iter()
                .all(|row| row.suppressed_by == "snooze" && row.state == "open")
        );
        let row = scene.resource("1").await;
        assert_eq!((row.open_drifts, row.suppressed_drifts), (2, 2));
        assert_eq!(hidden[0].suppressed_until_us, Some(until));
        scene.pass(until).await;
        scene.sweep().await;
        let now = scene.drifts("1", &["open"]).await;
        assert_eq!(now[0].suppressed_by, "", "its time has come");
        assert_eq!(now[1].suppressed_by, "snooze");
        scene.assert_quiet().await;
        // Another value than the one that was hidden.
        scene.report("1", Some(r#"{"a":2,"b":3}"#)).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.changed), (0, 1));
        let now = scene.drifts("1", &["open"]).await;
        assert_eq!(now[1].suppressed_by, "");
        assert_eq!(now[1].actual.as_deref(), Some("3"));
    }
}

#[tokio::test]
async fn a_policy_hides_until_it_expires_is_changed_or_is_deleted() {
    for scene in Scene::both().await {
        drifted(&scene).await;
        let ignore = r#"{"path":"/a","handling":"ignore","reason":"known"}"#;
        let worse = r#"{"path":"/b","severity":"critical"}"#;
        create(&scene, &policy("worse", None, worse)).await;
        let until = swept_before(&scene, async |micros| {
            let until = scene.store.database_time().await.unwrap() + micros;
            write(&scene, &policy("short", Some(until), ignore)).await;
            until
        })
        .await;
        let open = scene.drifts("1", &["open"]).await;
        assert_eq!(open[0].suppressed_policy, "short");
        assert_eq!(open[1].severity, 3);
        scene.pass(until).await;
        scene.sweep().await;
        let open = scene.drifts("1", &["open"]).await;
        assert_eq!(
            (open[0].suppressed_by.as_str(), open[0].state.as_str()),
            ("", "open")
        );
        scene.assert_quiet().await;
        let row = scene.store.drift_policy("worse").await.unwrap().unwrap();
        let better = policy("worse", None, r#"{"path":"/b","severity":"info"}"#);
        let stale = scene.store.update_drift_policy(&better, "7").await.unwrap();
        assert_eq!(stale, PolicyWritten::Changed);
        let updated = scene
            .store
            .update_drift_policy(&better, &row.etag())
            .await
            .unwrap();
        assert!(matches!(&updated, PolicyWritten::Done(row) if row.version == 2));
        scene.sweep().await;
        assert_eq!(scene.drifts("1", &["open"]).await[1].severity, 1);
        let deleted = scene.store.delete_drift_policy("worse", "2").await.unwrap();
        assert!(matches!(deleted, PolicyWritten::Done(_)));
        scene.sweep().await;
        assert_eq!(scene.drifts("1", &["open"]).await[1].severity, 2);
        // Hidden at once.
        let later = Some(until + 3_600_000_000);
        create(
            &scene,
            &policy(
                "all",
                later,
                r#"{"path":"/c","handling":"ignore","reason":"known"}"#,
            ),
        )
        .await;
        scene.record("2", r#"{"c":1}"#).await;
        scene.report("2", Some(r#"{"c":2}"#)).await;
        scene.sweep().await;
        assert_eq!(
            scene.drifts("2", &["open"]).await[0].suppressed_policy,
            "all"
        );
        assert_eq!(scene.verdict("2").await, "drifted");
    }
}

#[tokio::test]
async fn a_policy_accepts_what_it_covers_and_nothing_that_flaps() {
    for scene in Scene::both().await {
        create(
            &scene,
            &policy("auto", None, r#"{"path":"/a","handling":"accept"}"#),
        )
        .await;
        scene.record("1", r#"{"a":1,"b":1}"#).await;
        scene.report("1", Some(r#"{"a":2,"b":2}"#)).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.accepted), (2, 1));
        assert_eq!(scene.resource("1").await.spec, r#"{"a":2,"b":1}"#);
        let accepted = scene.drifts("1", &["accepted"]).await.remove(0);
        assert_eq!(accepted.actor, "policy:auto");
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/b", "1", "2")]);
        // It comes and goes: after the third time nothing is done by itself.
        for round in 3..9 {
            scene
                .report("1", Some(&format!(r#"{{"a":{round},"b":2}}"#)))
                .await;
            scene.sweep().await;
            scene.sweep().await;
        }
        let flapping = scene.drifts("1", &["open"]).await;
        let flapping = flapping.iter().find(|row| row.path == "/a").unwrap();
        assert!(flapping.flips >= 3, "{flapping:?}");
        assert_eq!(flapping.actual.as_deref(), Some("8"));
    }
}

#[tokio::test]
async fn what_a_saga_holds_or_the_provider_changes_is_left_alone() {
    for scene in Scene::both().await {
        drifted(&scene).await;
        let saga = hold(&scene, &name("1")).await;
        scene.report("1", Some(r#"{"a":1,"b":3}"#)).await;
        let tally = scene.sweep().await;
        assert_eq!(
            (tally.busy, tally.opened, tally.changed, tally.closed),
            (1, 0, 0, 0)
        );
        assert_eq!(scene.verdict("1").await, "busy");
        assert_eq!(scene.open("1").await.len(), 2);
        // It stays due, and that costs no writes.
        assert_eq!(scene.store.due_resources().await.unwrap(), 1);
        scene.assert_quiet().await;
        release(&scene, &saga).await;
        scene.sweep().await;
        assert_eq!(scene.open("1").await, [changed("/b", "1", "3")]);
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        // The provider says that it is at it.
        let mut resizing = scene.observed("1", Some(r#"{"a":9,"b":9}"#));
        "resizing".clone_into(&mut resizing.transition);
        scene.report_all(None, vec![resizing]).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "busy");
        assert_eq!(scene.open("1").await, [changed("/b", "1", "3")]);
        scene.report("1", Some(r#"{"a":1,"b":1}"#)).await;
        scene.sweep().await;
        assert_eq!(
            (
                scene.verdict("1").await.as_str(),
                scene.open("1").await.len()
            ),
            ("in_sync", 0)
        );
    }
}

/// Whatever made a sweep look at it: nothing but the end of the saga clears the verdict, and nothing tells of that end.
#[tokio::test]
async fn what_a_saga_held_is_compared_afterwards_although_it_was_not_due() {
    for scene in Scene::both().await {
        scene.record("1", r#"{"a":1}"#).await;
        scene.report("1", Some(r#"{"a":1}"#)).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
        let saga = hold(&scene, &name("1")).await;
        scene.sweep_as(true).await;
        assert_eq!(scene.verdict("1").await, "busy");
        release(&scene, &saga).await;
        scene.sweep().await;
        assert_eq!(scene.verdict("1").await, "in_sync");
        assert_eq!(scene.store.due_resources().await.unwrap(), 0);
    }
}
