//! What becomes secret: nothing of it stays, wherever it was kept.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use steadfast_drift::{Comparator, HashKey, Rules};
use steadfast_store::{
    ReportOutcome,
    fault::{Fault, Point},
};

use crate::{
    hiding::{create, policy},
    scene::{PATIENCE, Scene, declaration, rules_of},
};

/// All that is secret in these tests begins so.
const CLEAR: &str = "in-clear-";

/// What is declared at first: nothing of it is secret.
fn before() -> Rules {
    rules_of(&[], &["cloud/vm"])
}

fn after() -> Rules {
    rules_of(
        &[
            declaration("/token", Comparator::Secret),
            declaration("/user/pin", Comparator::Secret),
        ],
        &["cloud/vm"],
    )
}

impl Scene {
    /// Everything that can be read in the database, or is anywhere in its files.
    async fn everything(&self) -> String {
        if self.database.is_some() {
            return self.sql("SELECT database_to_xml(true, false, '')").await;
        }
        let mut all = String::new();
        for name in ["steadfast.db", "steadfast.db-wal"] {
            let bytes = std::fs::read(self.file(name)).unwrap();
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
        all
    }

    /// How often anything secret is there.
    async fn clear(&self) -> usize {
        self.everything().await.matches(CLEAR).count()
    }

    /// Drifts of every kind, open and closed, with values at paths that are to become secret.
    async fn fill(&self) {
        let spec = r#"{"a":1,"token":"in-clear-1","user":{"name":"ann","pin":"in-clear-2"}}"#;
        self.record("1", spec).await;
        let live =
            r#"{"a":1,"token":"in-clear-3","attrs":{"user":{"name":"bob","pin":"in-clear-4"}}}"#;
        self.report("1", Some(live)).await;
        // A value that holds a secret one.
        self.record("2", r#"{"user":5}"#).await;
        self.report("2", Some(r#"{"user":{"pin":"in-clear-5","name":"cid"}}"#))
            .await;
        // Nobody asks for it.
        self.report("3", Some(r#"{"token":"in-clear-6","b":1}"#))
            .await;
        self.sweep().await;
        // History: a drift that is closed, one that is accepted, one that changed.
        self.record("4", r#"{"token":"in-clear-7","b":1}"#).await;
        self.report("4", Some(r#"{"token":"in-clear-8","b":1}"#))
            .await;
        self.sweep().await;
        self.report("4", Some(r#"{"token":"in-clear-9","b":1}"#))
            .await;
        self.sweep().await;
        self.report("4", Some(r#"{"token":"in-clear-7","b":1}"#))
            .await;
        self.sweep().await;
        self.record("5", r#"{"token":"in-clear-10"}"#).await;
        self.report("5", Some(r#"{"token":"in-clear-11"}"#)).await;
        self.sweep().await;
        let drift = self.drifts("5", &["open"]).await.remove(0);
        self.accept(&drift).await.unwrap();
        self.sweep().await;
    }
}

#[tokio::test]
async fn nothing_stays_of_what_was_kept_before_it_was_secret() {
    for mut scene in Scene::both().await {
        scene.redeclare(before()).await;
        scene.fill().await;
        assert!(scene.clear().await >= 20, "it was kept in clear");
        let open = scene.drifts("1", &["open"]).await;
        assert_eq!(open.len(), 3);
        let revision = scene.revision().await;
        scene.redeclare(after()).await;
        assert_eq!(scene.clear().await, 0, "{}", scene.everything().await);
        // Nobody is shown anything else.
        assert_eq!(scene.revision().await, revision);
        let now = scene.drifts("1", &["open"]).await;
        let kept: Vec<_> = now
            .iter()
            .map(|row| (&row.id, row.version, row.secret))
            .collect();
        let secret = |path: &str| path != "/user/name";
        let wanted: Vec<_> = open
            .iter()
            .map(|row| (&row.id, row.version, secret(&row.path)))
            .collect();
        assert_eq!(kept, wanted);
        // What it says otherwise is as it was.
        let all = scene.everything().await;
        for other in ["ann", "bob", "cid", "$hash"] {
            assert!(all.contains(other), "{other}");
        }
        // The hashes are compared as the values were: the same still differ, and a report that repeats them says nothing new.
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.changed, tally.closed), (0, 0, 0));
        for (id, reported) in [
            (
                "1",
                r#"{"a":1,"token":"in-clear-3","attrs":{"user":{"name":"bob","pin":"in-clear-4"}}}"#,
            ),
            ("5", r#"{"token":"in-clear-11"}"#),
        ] {
            let redacted = scene.rules.of("cloud", "vm").redact(reported).unwrap();
            assert_eq!(
                scene.report(id, Some(&redacted)).await,
                ReportOutcome::Unchanged
            );
        }
        scene.assert_quiet().await;
        assert_eq!(scene.clear().await, 0);
    }
}

/// It is interrupted between two batches, and goes on from there.
#[tokio::test]
async fn hiding_goes_on_where_it_was_interrupted() {
    const RESOURCES: usize = 600;
    for mut scene in Scene::both().await {
        scene.redeclare(before()).await;
        let ids: Vec<String> = (0..RESOURCES).map(|id| format!("{id:04}")).collect();
        let specs: Vec<String> = (0..RESOURCES)
            .map(|id| format!(r#"{{"token":"in-clear-{id}"}}"#))
            .collect();
        let records = ids
            .iter()
            .zip(&specs)
            .map(|(id, spec)| scene.record(id, spec));
        futures::future::join_all(records).await;
        let observed = ids
            .iter()
            .map(|id| scene.observed(id, Some(r#"{"token":"in-clear-x"}"#)));
        scene.report_all(None, observed.collect()).await;
        scene.sweep().await;
        let batches = Arc::new(AtomicUsize::new(0));
        let reached = Arc::new(tokio::sync::Notify::new());
        let (count, signal) = (Arc::clone(&batches), Arc::clone(&reached));
        // Three batches of documents and three of drifts, and then the events.
        scene.ledger.plan(move |point| {
            if let Point::Committing(names) = point
                && names.contains(&"drift_redact_set_standing")
                && count.fetch_add(1, Ordering::SeqCst) == 5
            {
                signal.notify_one();
                return Fault::Stop;
            }
            Fault::None
        });
        scene.kill();
        let adopting = {
            let wakeups = scene.wakeups.clone();
            let manners = steadfast_drift::SweepOptions::new(steadfast_types::ReplicaId::random());
            let rules = Arc::new(after());
            let sweeper =
                steadfast_drift::Sweeper::new(scene.store.clone(), wakeups, rules, manners);
            tokio::spawn(async move { sweeper.adopt_rules().await })
        };
        tokio::time::timeout(PATIENCE, reached.notified())
            .await
            .unwrap();
        adopting.abort();
        assert!(adopting.await.is_err());
        let left: usize = scene
            .sql("SELECT count(*) FROM drift WHERE actual LIKE '%in-clear-%'")
            .await
            .parse()
            .unwrap();
        assert!((1..RESOURCES).contains(&left), "{left}");
        let left = scene
            .sql("SELECT count(*) FROM drift_resource WHERE spec LIKE '%in-clear-%'")
            .await;
        assert_eq!(left, "0");
        scene.ledger.plan(|_| Fault::None);
        scene.ledger.take();
        scene.redeclare(after()).await;
        let names = scene.ledger.take().concat();
        assert!(
            !names.contains(&"drift_redact_write_specs"),
            "that was done"
        );
        assert!(names.contains(&"drift_redact_write_drifts"));
        assert_eq!(scene.clear().await, 0);
        // Once is enough.
        scene.ledger.take();
        scene.redeclare(after()).await;
        assert_eq!(scene.ledger.take().concat(), [""; 0]);
    }
}

/// A replica that has not started again yet keeps what it is told as it always did.
#[tokio::test]
async fn what_an_older_replica_keeps_in_clear_is_hidden_by_the_next_sweep() {
    let mut one = Scene::postgres().await;
    one.redeclare(before()).await;
    let mut other = one.replica().await;
    other.redeclare(after()).await;
    one.record("1", r#"{"token":"in-clear-1"}"#).await;
    one.report("1", Some(r#"{"token":"in-clear-2"}"#)).await;
    // Not compared at all: pending, and asked for by nobody.
    one.record_as("2", r#"{"token":"in-clear-3"}"#, true).await;
    one.report("3", Some(r#"{"attrs":{"token":"in-clear-4"}}"#))
        .await;
    assert_eq!(one.clear().await, 4);
    other.sweep().await;
    assert_eq!(one.clear().await, 0, "{}", one.everything().await);
    assert_eq!(other.drifts("1", &["open"]).await.len(), 1);
    other.sweep().await;
    other.assert_quiet().await;
}

/// It was not secret for a while, and is again.
#[tokio::test]
async fn what_was_kept_while_it_was_not_secret_is_hidden_when_it_is_again() {
    for mut scene in Scene::both().await {
        let none = || {
            Rules::new(
                &[],
                &Default::default(),
                HashKey::new("0123456789abcdef0123456789abcdef"),
            )
            .unwrap()
        };
        for rules in [after(), none()] {
            scene.redeclare(rules).await;
        }
        create(
            &scene,
            &policy("other", None, r#"{"path":"/b","severity":"info"}"#),
        )
        .await;
        scene.record("1", r#"{"token":"in-clear-1"}"#).await;
        scene.report("1", Some(r#"{"token":"in-clear-2"}"#)).await;
        scene.sweep().await;
        assert!(scene.clear().await > 0);
        scene.redeclare(after()).await;
        assert_eq!(scene.clear().await, 0);
    }
}

/// The same rules with another key.
fn keyed(key: &str) -> Rules {
    let secret = declaration("/password", Comparator::Secret);
    let unmanaged = ["cloud/vm".to_owned()].into();
    Rules::new(&[secret], &unmanaged, HashKey::new(key)).unwrap()
}

impl Scene {
    async fn record_clear(&self, id: &str, spec: &str) {
        let kept = self.rules.of("cloud", "vm").normal(spec).unwrap();
        self.record(id, &kept).await;
    }

    async fn report_clear(&self, id: &str, attributes: &str) {
        let kept = self.rules.of("cloud", "vm").redact(attributes).unwrap();
        self.report(id, Some(&kept)).await;
    }

    async fn verdicts(&self) -> Vec<String> {
        let mut verdicts = Vec::new();
        for id in ["1", "2"] {
            verdicts.push(self.verdict(id).await);
        }
        verdicts
    }
}

/// What is hashed with one key says nothing about what is hashed with another.
#[tokio::test]
async fn another_key_closes_no_drift_and_opens_none() {
    for mut scene in Scene::both().await {
        scene.redeclare(keyed("the first of the keys")).await;
        let spec = r#"{"a":1,"password":"one"}"#;
        let (other, same) = (r#"{"a":1,"password":"two"}"#, r#"{"a":1,"password":"one"}"#);
        for id in ["1", "2"] {
            scene.record_clear(id, spec).await;
        }
        scene.report_clear("1", other).await;
        scene.report_clear("2", same).await;
        scene.report_clear("3", other).await;
        scene.sweep().await;
        assert_eq!(scene.verdicts().await, ["drifted", "in_sync"]);
        let drift = scene.drifts("1", &["open"]).await.remove(0);
        let unmanaged = scene.drifts("3", &["open"]).await.remove(0);
        assert!(drift.secret && unmanaged.kind == "unmanaged");

        scene.redeclare(keyed("the second of the keys")).await;
        // Nobody has looked yet: both sides are of one key still.
        let tally = scene.sweep().await;
        assert_eq!(
            (tally.compared, tally.opened, tally.changed, tally.closed),
            (3, 0, 0, 0)
        );
        assert_eq!(scene.verdicts().await, ["drifted", "in_sync"]);
        // The next look is of the new key, and what was asked for is not.
        scene.report_clear("1", other).await;
        scene.report_clear("2", same).await;
        scene.report_clear("3", other).await;
        let tally = scene.sweep().await;
        assert_eq!(
            (tally.compared, tally.opened, tally.changed, tally.closed),
            (3, 0, 0, 0)
        );
        assert_eq!(scene.verdicts().await, ["unreadable", "unreadable"]);
        let still = scene.drifts("1", &["open"]).await.remove(0);
        assert_eq!(
            (&still.id, still.version, still.flips),
            (&drift.id, drift.version, 0)
        );
        let still = scene.drifts("3", &["open"]).await.remove(0);
        assert_eq!(
            (&still.id, still.version, still.flips),
            (&unmanaged.id, unmanaged.version, 0)
        );
        scene.assert_quiet().await;
        // The rest is compared as ever.
        scene.report_clear("2", r#"{"a":2,"password":"one"}"#).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.closed), (1, 0));
        assert_eq!(scene.verdicts().await, ["unreadable", "drifted"]);
        scene.report_clear("2", same).await;
        assert_eq!(scene.sweep().await.closed, 1);

        // It is recorded again, and then seen: both are of the new key.
        for id in ["1", "2"] {
            scene.record_clear(id, spec).await;
        }
        scene.sweep().await;
        assert_eq!(scene.verdicts().await, ["not_observed", "not_observed"]);
        scene.report_clear("1", other).await;
        scene.report_clear("2", same).await;
        let tally = scene.sweep().await;
        assert_eq!((tally.opened, tally.changed, tally.closed), (0, 0, 0));
        assert_eq!(scene.verdicts().await, ["drifted", "in_sync"]);
        let now = scene.drifts("1", &["open"]).await.remove(0);
        assert_eq!(
            (&now.id, now.version, now.flips),
            (&drift.id, drift.version, 0)
        );
        assert_ne!(now.actual, drift.actual);
        scene.assert_quiet().await;
        // Another value is noticed by the new hash.
        scene
            .report_clear("1", r#"{"a":1,"password":"three"}"#)
            .await;
        scene
            .report_clear("3", r#"{"a":1,"password":"three"}"#)
            .await;
        assert_eq!(scene.sweep().await.changed, 2);
        scene.report_clear("1", same).await;
        assert_eq!(scene.sweep().await.closed, 1);
        assert_eq!(scene.verdicts().await, ["in_sync", "in_sync"]);
    }
}
