//! Whatever runs at once takes its locks in one order, so that nobody waits in a circle.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use steadfast_store::{
    DriftFilter, DriftRetention, InventoryEnd, NewRecord, NewReports, NewSweep, Observed,
    PolicyWrite, PolicyWritten, Reported, ResourceName, SnoozeWrite,
};
use steadfast_testkit::postgres::TestDatabase;
use tokio::time::Instant;

use crate::scene::{PATIENCE, Scene, name, rules};

const RESOURCES: usize = 80;
const PROVIDERS: [&str; 2] = ["cloud", "other"];

/// Numbers rise while names fall, and the providers take turns: whoever goes by one order does not go by the other.
fn names() -> Vec<ResourceName> {
    let one = |index: usize| ResourceName {
        provider: PROVIDERS[index % 2].to_owned(),
        ..name(&format!("{:03}", RESOURCES - index))
    };
    (0..RESOURCES).map(one).collect()
}

/// How often each of the actors did what it does.
#[derive(Default)]
struct Counts([AtomicUsize; 7]);

struct Play {
    scene: Scene,
    names: Vec<ResourceName>,
    until: Instant,
    /// The last inventory that ended here.
    ended: Mutex<Option<String>>,
}

impl Play {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Some of them, in any order.
    fn some(&self, rng: &mut StdRng) -> Vec<ResourceName> {
        let mut names = self.names.clone();
        names.shuffle(rng);
        names.truncate(rng.random_range(1..=RESOURCES));
        names
    }

    fn observed(&self, name: &ResourceName, rng: &mut StdRng, gone: f64) -> Observed {
        let there = format!("{{\"a\":{}}}", rng.random_range(0..3));
        let gone = rng.random_bool(gone);
        Observed {
            name: name.clone(),
            ..self.scene.observed("", (!gone).then_some(&*there))
        }
    }

    async fn record(&self, name: &ResourceName) {
        let record = NewRecord {
            name: name.clone(),
            spec: r#"{"a":1}"#.to_owned(),
            labels: "{}".to_owned(),
            recorded_by: "ann".to_owned(),
            saga_id: String::new(),
            pending: false,
            expected_version: None,
        };
        self.scene.store.record_resource(record).await.unwrap();
    }

    /// Direct reports: news, and what has to be touched because it is applied again or an inventory is under way. With one that comes
    /// too late for its inventory, in the same transaction.
    async fn report(&self, rng: &mut StdRng) {
        let observed = self.some(rng);
        let observed = observed.iter().map(|name| self.observed(name, rng, 0.1));
        let mut reports = NewReports {
            inventory: None,
            observed: observed.collect(),
        };
        let direct = self.scene.store.report_resources(reports.clone());
        reports.inventory = self.ended.lock().unwrap().clone();
        let late = self.scene.store.report_resources(reports);
        let (direct, late) = tokio::join!(direct, late);
        assert!(matches!(direct, Ok(Reported::Done(_))), "{direct:?}");
        late.unwrap();
    }

    /// An inventory that sees some, and ends in one way or the other.
    async fn look(&self, rng: &mut StdRng) {
        let provider = PROVIDERS[rng.random_range(0..2)];
        let begun = self.scene.store.begin_inventory(provider, &[], "tests");
        let id = begun.await.unwrap().id;
        for _ in 0..rng.random_range(0..3) {
            let mut seen = self.some(rng);
            seen.retain(|name| name.provider == provider);
            let observed = seen.iter().map(|name| self.observed(name, rng, 0.1));
            let reports = NewReports {
                inventory: Some(id.clone()),
                observed: observed.collect(),
            };
            self.scene.store.report_resources(reports).await.unwrap();
        }
        let end = InventoryEnd {
            complete: rng.random_bool(0.7),
            error: String::new(),
        };
        self.scene.store.end_inventory(&id, &end).await.unwrap();
        *self.ended.lock().unwrap() = Some(id);
    }

    /// Sweeps of everything, of what is due, and of one.
    async fn sweep(&self, rng: &mut StdRng) {
        let one = &self.names[rng.random_range(0..RESOURCES)];
        let key = self.scene.store.resource_key(one).await.unwrap();
        let new = NewSweep {
            forced: rng.random_bool(0.3),
            only_key: key.filter(|_| rng.random_bool(0.5)),
            triggered_by: "tests".to_owned(),
            ..NewSweep::default()
        };
        self.scene.sweeper.ask(&new).await.unwrap();
    }

    /// A policy that hides what differs, for a while, now of one provider and now of the other.
    async fn steer(&self, rng: &mut StdRng) {
        let row = self.scene.store.drift_policy("p").await.unwrap().unwrap();
        let now_us = self.scene.store.database_time().await.unwrap();
        let expire_us = now_us + rng.random_range(100_000..10_000_000);
        let write = policy(["", "cloud", "other"][rng.random_range(0..3)], expire_us);
        let etag = row.etag();
        let updated = self.scene.store.update_drift_policy(&write, &etag);
        let updated = updated.await.unwrap();
        assert!(
            matches!(updated, PolicyWritten::Done(_) | PolicyWritten::Changed),
            "{updated:?}"
        );
    }

    /// Asks for some again, forgets the spec of one, and hides drifts.
    async fn decide(&self, rng: &mut StdRng) {
        let some = self.some(rng);
        futures::future::join_all(some.iter().take(20).map(|name| self.record(name))).await;
        let one = &self.names[rng.random_range(0..RESOURCES)];
        let store = &self.scene.store;
        let deleted = store.delete_resource::<()>(one, "ann", "a test", |_| Ok(()));
        deleted.await.unwrap().unwrap();
        let filter = DriftFilter::default();
        let open = store.drifts(&filter, "", 10).await.unwrap();
        for drift in open {
            let until = rng.random_range(0..3_000_000);
            let snoozed = store.snooze_drift::<()>(&drift.id, move |_, now_us| {
                Ok(SnoozeWrite {
                    until_us: Some(now_us + until),
                    actor: "ann".to_owned(),
                    reason: "later".to_owned(),
                })
            });
            snoozed.await.unwrap();
        }
    }

    /// Forgets everything that may be forgotten.
    async fn prune(&self) {
        let keep = DriftRetention {
            drifts: Duration::ZERO,
            events: Duration::ZERO,
            inventories: 0,
        };
        self.scene.store.prune_drift(&keep).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn act(&self, which: usize, seed: u64, counts: &Counts) {
        let mut rng = StdRng::seed_from_u64(seed);
        while self.goes_on() {
            match which {
                0 | 1 => self.report(&mut rng).await,
                2 => self.look(&mut rng).await,
                3 => self.sweep(&mut rng).await,
                4 => self.steer(&mut rng).await,
                5 => self.decide(&mut rng).await,
                _ => self.prune().await,
            }
            counts.0[which].fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn policy(provider: &str, expire_us: i64) -> PolicyWrite {
    PolicyWrite {
        name: "p".to_owned(),
        expire_us: Some(expire_us),
        provider: provider.to_owned(),
        actor: "ann".to_owned(),
        document: r#"{"handling":"ignore","reason":"known"}"#.to_owned(),
    }
}

#[tokio::test]
async fn what_runs_at_once_never_waits_in_a_circle() {
    let long = std::env::var("STEADFAST_LONG").is_ok_and(|value| value == "1");
    let seed = match std::env::var("STEADFAST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("seed {seed}");
    let mut scene = Scene::postgres().await;
    scene.redeclare(rules(&["cloud/vm"])).await;
    let database = scene.database.clone().unwrap();
    let settings = format!(
        "ALTER DATABASE {} SET deadlock_timeout = '100ms'",
        database.name()
    );
    database.psql(&settings).await;
    let other = scene.replica().await;
    let written = scene
        .store
        .create_drift_policy(&policy("", i64::MAX), 10)
        .await;
    assert!(matches!(written.unwrap(), PolicyWritten::Done(_)));
    let until = Instant::now() + Duration::from_secs(if long { 120 } else { 8 });
    let play = |scene| Play {
        scene,
        names: names(),
        until,
        ended: Mutex::default(),
    };
    let plays = [play(scene), play(other)];
    for name in names() {
        plays[0].record(&name).await;
    }
    let counts = Counts::default();
    let acts = plays.iter().enumerate().flat_map(|(place, play)| {
        let seeds = seed.wrapping_add(100 * place as u64);
        let counts = &counts;
        (0..7).map(move |which| play.act(which, seeds + which as u64, counts))
    });
    futures::future::join_all(acts).await;
    let counts = counts.0.map(AtomicUsize::into_inner);
    eprintln!("reports, reports, looks, sweeps, policies, decisions, prunes: {counts:?}");
    assert!(counts.iter().all(|&count| count >= 5), "{counts:?}");
    drop(plays);
    // What a connection has counted is told when it ends.
    while database.terminate_backends().await > 0 {}
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.psql(deadlocks).await, "0", "seed {seed}");
    // Nothing was left behind of what was forgotten.
    for table in ["drift_live", "drift_verdict"] {
        let orphans = format!(
            "SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM drift_resource r WHERE r.key = t.key)"
        );
        assert_eq!(database.psql(&orphans).await, "0", "{table}, seed {seed}");
    }
}

/// Waits until somebody waits for a lock.
pub(crate) async fn until_blocked(database: &TestDatabase) {
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + PATIENCE;
    while database.psql(blocked).await == "0" {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A page of a sweep takes some of what is due away and puts the rest off: not one after the other, but by their numbers.
#[tokio::test]
async fn a_page_locks_what_is_due_by_the_numbers() {
    let scene = Scene::postgres().await;
    let there = |a: u8, x: u8| format!("{{\"a\":{a},\"x\":{x}}}");
    for id in ["1", "2", "3"] {
        scene.record(id, r#"{"a":1}"#).await;
        scene
            .report(id, Some(&there(1 + u8::from(id == "2"), 0)))
            .await;
    }
    scene.sweep().await;
    let drift = scene.drifts("2", &["open"]).await.remove(0);
    scene.snooze(&drift.id, Duration::from_secs(3_600)).await;
    for id in ["1", "2", "3"] {
        scene
            .report(id, Some(&there(1 + u8::from(id == "2"), 1)))
            .await;
    }
    let due = async |id| {
        let key = scene.resource(id).await.key;
        format!("SELECT key FROM drift_due WHERE key = {key} FOR UPDATE NOWAIT;")
    };
    let database = scene.database.clone().unwrap();
    let mut other = database.session().await;
    other.run("BEGIN;").await.unwrap();
    other.run(&due("2").await).await.unwrap();
    let (tally, ()) = tokio::join!(scene.sweep(), async {
        until_blocked(&database).await;
        // Whoever has the second gets the third.
        let third = other.run(&due("3").await).await;
        other.run("COMMIT;").await.unwrap();
        third.unwrap();
    });
    assert_eq!((tally.compared, tally.in_sync, tally.drifted), (3, 2, 1));
    assert!(scene.resource("2").await.due_us > scene.store.database_time().await.unwrap());
    let left = "SELECT count(*), min(generation) > 0 FROM drift_due";
    assert_eq!(database.psql(left).await, "1|t");
    scene.assert_quiet().await;
}

/// Who forgets an inventory holds it before what it saw, as those do who report within it.
#[tokio::test]
async fn an_inventory_is_locked_before_what_it_saw() {
    let scene = Scene::postgres().await;
    let failed = scene.begin().await;
    let seen = vec![scene.observed("1", Some("{}"))];
    scene.report_all(Some(&failed), seen).await;
    scene.end(&failed, false).await;
    let database = scene.database.clone().unwrap();
    let mut other = database.session().await;
    other.run("BEGIN;").await.unwrap();
    let hold = "SELECT key FROM drift_inventory FOR SHARE NOWAIT;";
    other.run(hold).await.unwrap();
    let keep = DriftRetention {
        drifts: Duration::ZERO,
        events: Duration::ZERO,
        inventories: 0,
    };
    let (pruned, ()) = tokio::join!(scene.store.prune_drift(&keep), async {
        until_blocked(&database).await;
        let live = "SELECT key FROM drift_live FOR UPDATE NOWAIT;";
        let live = other.run(live).await;
        other.run("COMMIT;").await.unwrap();
        live.unwrap();
    });
    assert!(pruned.unwrap() >= 1);
    while scene.store.prune_drift(&keep).await.unwrap() > 0 {}
    assert_eq!(scene.store.inventory(&failed).await.unwrap(), None);
    assert_eq!(scene.resource("1").await.inventory, "");
    scene.sweep().await;
    assert_eq!(scene.verdict("1").await, "");
}
