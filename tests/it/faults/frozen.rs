//! A replica that is frozen for longer than its lease and then wakes up, sure that the work is still its own.

use std::time::Duration;

use steadfast_client::api::registry::v1::{GetRefreshResponse, RefreshState};
use steadfast_testkit::{Server, Signal, TestDatabase};

use super::fleet::{Caller, Registry, assert_same, eventually};

const LEASE: Duration = Duration::from_millis(800);

struct Scene {
    database: TestDatabase,
    registry: Registry,
    sleeper: Server,
    heir: Server,
}

// === impl Scene ===

impl Scene {
    async fn set() -> Self {
        let database = TestDatabase::create().await;
        let mut registry = Registry::start(10).await;
        registry.lease = LEASE;
        let builder = registry.server().database_url(database.url());
        let (sleeper, heir) = tokio::join!(builder.start(), builder.start());
        Self {
            database,
            registry,
            sleeper,
            heir,
        }
    }

    /// Wakes the sleeper after the other has finished, and checks that nothing it still wanted to do came through.
    async fn wakes_in_vain(&self, id: &str, ended: &GetRefreshResponse) {
        let caller = Caller::to(&self.heir).await;
        let refresh = ended.refresh.as_ref().expect("has one");
        assert_eq!(refresh.state(), RefreshState::Succeeded, "{refresh:?}");
        assert_eq!(
            (refresh.attempts, refresh.owner.as_str()),
            (2, self.heir.replica())
        );
        let head = caller.head().await.expect("the database is there").head;
        let rows = self.stored().await;
        self.sleeper.signal(Signal::SIGCONT);
        eventually("the sleeper notices that it lost the lease", async || {
            let log = self.sleeper.log();
            log.contains("was taken over by another replica")
                .then_some(())
        })
        .await;
        // It follows like any other replica now.
        let woken = Caller::to(&self.sleeper).await;
        assert_same(&caller, &woken, &self.registry.names).await;
        assert_eq!(woken.listed().await.len(), 10);
        assert_eq!(self.stored().await, rows, "not a row was touched");
        assert_eq!(caller.head().await.expect("is there").head, head);
        assert_eq!(&caller.refresh(id).await.expect("is there"), ended);
        // And may refresh again.
        let again = woken.start_refresh().await.refresh.expect("has one").id;
        let again = woken.ended(&again).await.refresh.expect("has one");
        assert_eq!(again.state(), RefreshState::Succeeded, "{again:?}");
    }

    /// Everything that a late write could have changed.
    async fn stored(&self) -> String {
        self.database
            .psql(
                "SELECT revision, mark, changes FROM change_log ORDER BY revision; SELECT * FROM package ORDER BY name; \
                 SELECT * FROM package_schema ORDER BY package, version; SELECT * FROM refresh_run ORDER BY id; SELECT * \
                 FROM refresh_item ORDER BY run_id, seq",
            )
            .await
    }
}

#[tokio::test]
async fn while_it_reads() {
    let scene = Scene::set().await;
    let caller = Caller::to(&scene.sleeper).await;
    let gate = scene.registry.upstream.hold("/@acme/part-00005*");
    let run = caller.start_refresh().await.refresh.expect("has one");
    gate.arrived(1).await;
    scene.sleeper.signal(Signal::SIGSTOP);
    // Its answers arrive while it sleeps; it finds them when it wakes.
    gate.release();
    let ended = Caller::to(&scene.heir).await.ended(&run.id).await;
    scene.wakes_in_vain(&run.id, &ended).await;
}

#[tokio::test]
async fn in_the_middle_of_a_transaction() {
    let scene = Scene::set().await;
    let caller = Caller::to(&scene.sleeper).await;
    let gate = scene.registry.upstream.hold("/@acme/part-00005*");
    let run = caller.start_refresh().await.refresh.expect("has one");
    gate.arrived(1).await;
    eventually("all but one have landed", async || {
        (caller.listed().await.len() == 9).then_some(())
    })
    .await;
    // Its next write gets as far as the run's row, and waits there with its fence already proven.
    let mut blocker = scene.database.session().await;
    blocker
        .run("BEGIN; SELECT id FROM refresh_run FOR UPDATE;")
        .await
        .expect("locks");
    gate.release();
    eventually("the write waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = \
                       'Lock' AND query LIKE 'UPDATE refresh_run%'";
        (scene.database.psql(waiting).await == "1").then_some(())
    })
    .await;
    scene.sleeper.signal(Signal::SIGSTOP);
    blocker.run("COMMIT;").await.expect("unlocks");
    // Its transaction stands open with the lease's row locked, until PostgreSQL ends it for idling; then the other may.
    let ended = Caller::to(&scene.heir).await.ended(&run.id).await;
    scene.wakes_in_vain(&run.id, &ended).await;
}
