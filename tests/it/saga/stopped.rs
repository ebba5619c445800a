//! A replica that is stopped for longer than its lease with sagas in hand, and then wakes up sure that they are still its own.

use std::{collections::BTreeSet, time::Duration};

use steadfast_client::api::saga::v1::SagaState;
use steadfast_testkit::{
    EffectServer, Signal, TestDatabase,
    effects::{Answer, Call, HeldStep, Way, What},
};

use super::{
    judge::judge,
    load::{Fate, Replicas, STEPS, Told, define, definition, server, settled, start, tell},
};
use crate::{history::watching::Endpoints, scene::eventually};

const LEASE: Duration = Duration::from_secs(2);
/// For the calls that are held, and no longer than a replica sleeps.
const RUNNING: Duration = Duration::from_secs(4);
const SAGAS: u64 = 24;
/// The step that is under way when the replica is stopped.
const HELD: usize = 2;

/// Every third one fails at its last step.
fn fate(number: u64) -> Fate {
    match number % 3 {
        0 => Fate::RefusedAt(4),
        _ => Fate::Completes,
    }
}

fn decide(call: &Call) -> (Duration, Answer) {
    let number = call.body["number"].as_u64().expect("each body has it");
    let refused = call.way == Way::Do && call.step == STEPS[4] && fate(number) != Fate::Completes;
    let answer = if refused { Answer::Never } else { Answer::Done };
    (Duration::ZERO, answer)
}

struct Scene {
    database: TestDatabase,
    effects: EffectServer,
    /// The first one is stopped, the second one takes over.
    replicas: Replicas,
    ids: Vec<String>,
    /// The life of the first one that is stopped.
    stopped_life: String,
}

// === impl Scene ===

impl Scene {
    /// All sagas are in the first replica's hand, and their calls of one step have come and are not answered.
    async fn set() -> (Self, HeldStep) {
        let database = TestDatabase::create().await;
        let effects = EffectServer::blocking_late(decide).await;
        let builder = server(LEASE).database_url(database.url());
        let replicas = Replicas::start(builder, 2).await;
        let connection = replicas.connect(0).await;
        define(&connection, &definition(&effects, RUNNING, true)).await;
        let held = effects.hold(STEPS[HELD]);
        let (mut ids, mut owners) = (Vec::new(), BTreeSet::new());
        for number in 0..SAGAS {
            let saga = start(&connection, number).await.expect("it can be started");
            ids.push(saga.id);
            owners.insert(saga.owner);
        }
        held.arrived(SAGAS as usize).await;
        let scene = Self {
            database,
            effects,
            replicas,
            ids,
            stopped_life: owners.pop_first().expect("somebody has them"),
        };
        assert!(owners.is_empty() && !scene.stopped_life.is_empty());
        let all = scene.tell().await;
        let mine = |told: &Told| told.saga.owner == scene.stopped_life;
        assert!(all.iter().all(mine), "all are in the first one's hand");
        (scene, held)
    }

    async fn tell(&self) -> Vec<Told> {
        tell(&self.replicas.connect(1).await, &self.ids).await
    }

    fn stop(&self) {
        self.replicas.servers[0].signal(Signal::SIGSTOP);
    }

    /// The other one brings all to their ends, while the first one sleeps.
    async fn is_taken_over(&self) {
        let heir = Endpoints::new([self.replicas.servers[1].grpc_endpoint()]);
        settled(&heir, Duration::from_secs(40)).await;
    }

    /// Wakes the first one up, and checks that nothing it still wanted to do came through and that it goes on.
    async fn wakes_in_vain(&self) {
        let (told, rows, entries) = (self.tell().await, self.rows().await, self.effects.len());
        self.replicas.servers[0].signal(Signal::SIGCONT);
        eventually("it notices that it lost its lease", async || {
            let log = self.replicas.servers[0].log();
            log.contains("lost its lease; what it had in hand is taken over")
                .then_some(())
        })
        .await;
        // It has another life, and carries on what it is given.
        let woken = self.replicas.connect(0).await;
        let heir = self.replicas.connect(1).await;
        let again = eventually("it takes sagas in hand again", async || {
            let number = 1_000 + self.effects.len() as u64;
            let saga = start(&woken, number).await.expect("it can be started");
            (!saga.owner.is_empty()).then_some(saga)
        })
        .await;
        assert_ne!(again.owner, self.stopped_life, "not its old life");
        settled(&self.replicas.endpoints, Duration::from_secs(20)).await;

        assert_eq!(self.rows().await, rows, "not a row was touched");
        for (before, id) in told.iter().zip(&self.ids) {
            let request = steadfast_client::api::saga::v1::GetSagaRequest { id: id.clone() };
            let mut sagas = heir.sagas();
            let now = heir.call(sagas.get_saga(request)).await.expect("is there");
            assert_eq!(now.saga.as_ref(), Some(&before.saga));
        }
        let ledger = self.effects.ledger();
        let late: Vec<_> = ledger[entries..]
            .iter()
            .filter(|entry| self.ids.contains(&entry.call.saga))
            .collect();
        assert!(late.is_empty(), "the woken replica sent {late:?}");

        let ledger: Vec<_> = ledger.into_iter().take(entries).collect();
        let summary = judge(&told, &ledger, true, fate);
        println!("{summary:?}");
        let refused = SAGAS.div_ceil(3) as usize;
        assert_eq!(
            (summary.compensated, summary.completed, summary.stuck),
            (refused, SAGAS as usize - refused, 0)
        );
        assert_eq!(summary.lost, SAGAS as usize, "each was lost once");
        assert!(
            told.iter()
                .all(|told| told.saga.state() != SagaState::Stuck)
        );
    }

    /// Everything about these sagas that a late write could have changed.
    async fn rows(&self) -> String {
        let ids: Vec<_> = self.ids.iter().map(|id| format!("'{id}'")).collect();
        let ids = ids.join(", ");
        let sql = format!(
            "SELECT * FROM saga WHERE id IN ({ids}) ORDER BY id; SELECT * FROM saga_event WHERE saga_id IN ({ids}) ORDER BY \
             saga_id, version; SELECT l.revision, c.change FROM change_log l, json_array_elements(l.changes::json) WITH \
             ORDINALITY AS c(change, at) WHERE c.change ->> 'k' IN ({ids}) ORDER BY l.revision, c.at"
        );
        self.database.psql(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_waits_for_answers() {
    let (scene, held) = Scene::set().await;
    scene.stop();
    // The effects come about, and their answers wait for it to wake up.
    held.release();
    scene.is_taken_over().await;
    scene.wakes_in_vain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_commits() {
    let (scene, held) = Scene::set().await;
    // What it writes gets as far as the sagas' rows, and waits there with its fence already proven.
    let mut blocker = scene.database.session().await;
    blocker
        .run("BEGIN; SELECT id FROM saga FOR UPDATE;")
        .await
        .expect("locks");
    held.release();
    eventually("a write waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = \
                       'Lock' AND query LIKE '%saga_commit%' AND query NOT LIKE '%pg_stat_activity%'";
        // Two may be under way at once.
        (scene.database.psql(waiting).await != "0").then_some(())
    })
    .await;
    scene.stop();
    // That write is committed, and its writer does not know: the next step is recorded, and was never sent.
    blocker.run("COMMIT;").await.expect("unlocks");
    scene.is_taken_over().await;
    let early = |entry: &&steadfast_testkit::effects::Entry| {
        let call = &entry.call;
        let next = (Way::Do, STEPS[HELD + 1], 1);
        entry.what == What::Arrived && (call.way, call.step.as_str(), call.attempt) == next
    };
    let unsent = SAGAS as usize - scene.effects.ledger().iter().filter(early).count();
    assert!(unsent > 0, "some intent was recorded and never sent");
    scene.wakes_in_vain().await;
}
