//! A database that is replaced by an older copy of itself, and then written to beyond what every client had seen. Numbers alone
//! would let a client go on as if nothing had happened.

use steadfast_client::api::watch::v1::ResetReason;
use steadfast_testkit::{
    ClusterOptions, PrivateCluster, Server, Signal, StopMode,
    history::{Committed, StartAt},
};
use tokio::time::timeout;

use super::{
    fleet::{Answers, Caller, Registry, eventually},
    returning::{Past, assert_changed, assert_sound, names, publish_when_back},
};
use crate::history::{
    publishing::publish_all,
    recording::{PATIENCE, Recorder},
    truth,
};

const DATABASE: &str = "restored";

struct Scene {
    cluster: PrivateCluster,
    registry: Registry,
    url: String,
    past: Past,
    copy: steadfast_testkit::postgres::DataCopy,
    /// The catalogue as it was when the copy was made.
    catalogue: Vec<Answers>,
}

// === impl Scene ===

impl Scene {
    /// A server with a history, of which a copy was made half way. Returns the server too, which has seen all of it.
    async fn set() -> (Self, Server) {
        let cluster = PrivateCluster::start(ClusterOptions::default()).await;
        let url = cluster.create_database(DATABASE).await;
        let mut registry = Registry::start(3).await;
        registry.fills = true;
        let server = registry.server().database_url(&url).start().await;
        let caller = Caller::to(&server).await;
        eventually("the catalogue is filled", async || {
            (caller.listed().await.len() == 3).then_some(())
        })
        .await;
        let catalogue = caller.catalogue(&registry.names).await;
        let kept = publish_all(&caller.0, names("kept", 40)).await;
        cluster.stop(StopMode::Fast).await;
        let copy = cluster.copy_data().await;
        cluster.resume().await;
        let mut lost = vec![publish_when_back(&caller, "lost-first").await];
        let name = &registry.names[1];
        registry.upstream.change(name, |package| {
            package.description = Some("Changed after the copy was made".to_owned());
        });
        let run = caller.start_refresh().await.refresh.expect("has one");
        caller.ended(&run.id).await;
        eventually("the change is in memory", async || {
            (caller.catalogue(&registry.names).await != catalogue).then_some(())
        })
        .await;
        lost.extend(publish_all(&caller.0, names("lost", 40)).await);
        let scene = Self {
            cluster,
            registry,
            url,
            past: Past { kept, lost },
            copy,
            catalogue,
        };
        (scene, server)
    }

    async fn restore(&self) {
        self.cluster.stop(StopMode::Fast).await;
        self.cluster.restore(&self.copy).await;
        self.cluster.resume().await;
    }

    async fn assert_nobody_skips(&self, server: &Server) {
        let committed = self.committed().await;
        self.past.assert_nobody_skips(server, &committed).await;
    }

    async fn committed(&self) -> Vec<Committed> {
        truth::parse(&self.cluster.psql(DATABASE, truth::POSTGRES).await)
    }

    /// Memory shows what the database has now, not what it had.
    async fn assert_catalogue_went_back(&self, server: &Server) {
        let caller = Caller::to(server).await;
        eventually("the catalogue is that of the copy", async || {
            let now = caller.catalogue(&self.registry.names).await;
            (now == self.catalogue).then_some(())
        })
        .await;
        let head = caller.head().await.expect("is there").head.expect("is set");
        eventually("its state names the new history", async || {
            let state = caller.read_state().await;
            ((state.store_id, state.revision, state.mark)
                == (head.store_id.clone(), head.revision, head.mark))
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn while_the_server_keeps_running() {
    let (scene, server) = Scene::set().await;
    let endpoint = server.grpc_endpoint();
    let caller = Caller::to(&server).await;
    let seen = scene.past.lost.last().expect("some").cursor;
    let mut live = Recorder::new("live", StartAt::Earliest);
    let mut strict = Recorder::new("live and strict", StartAt::After(seen)).or_fail();
    let mut live_stream = live.open(&endpoint).await.expect("opens");
    live_stream.until(seen.revision).await.expect("reads");
    let mut strict_stream = strict.open(&endpoint).await.expect("opens");
    strict_stream.next().await.expect("opens");

    scene.restore().await;
    let last = scene.past.publish_past(&caller).await;
    let reason = timeout(PATIENCE, live_stream.until_reset()).await;
    let reason = reason.expect("in time").expect("a reset is no error");
    assert_eq!(reason, ResetReason::StoreChanged);
    live_stream
        .until(last.cursor.revision)
        .await
        .expect("goes on");
    let ended = timeout(PATIENCE, async {
        loop {
            if let Err(error) = strict_stream.next().await {
                return error;
            }
        }
    });
    assert_changed(&ended.await.expect("in time"));
    drop((live_stream, strict_stream));

    let head = caller.head().await.expect("is there").head.expect("is set");
    assert_ne!(
        head.store_id,
        seen.store_id.to_string(),
        "a new identity was drawn"
    );
    let store_id = head.store_id.parse().expect("a UUID");
    assert_sound(live, store_id, &scene.committed().await);
    scene.assert_nobody_skips(&server).await;
    scene.assert_catalogue_went_back(&server).await;
}

#[tokio::test]
async fn with_a_restart_in_between() {
    let (scene, mut server) = Scene::set().await;
    server.kill().await;
    scene.restore().await;
    let server = scene.registry.server().database_url(&scene.url);
    let server = server.start().await;
    let caller = Caller::to(&server).await;
    // Before anything is written, the cursors of the lost history are above the head.
    scene.assert_nobody_skips(&server).await;
    scene.past.publish_past(&caller).await;
    scene.assert_nobody_skips(&server).await;
    scene.assert_catalogue_went_back(&server).await;
}

#[tokio::test]
async fn while_a_replica_is_frozen() {
    let (scene, mut server) = Scene::set().await;
    let builder = scene.registry.server().database_url(&scene.url);
    let sleeper = builder.start().await;
    let seen = scene.past.lost.last().expect("some").cursor;
    let mut live = Recorder::new("on the sleeper", StartAt::After(seen));
    let mut stream = live.open(&sleeper.grpc_endpoint()).await.expect("opens");
    stream.next().await.expect("opens");
    sleeper.signal(Signal::SIGSTOP);
    server.kill().await;
    scene.restore().await;
    // The new server has nothing to compare with, and goes on under the old identity.
    let fresh = builder.start().await;
    let caller = Caller::to(&fresh).await;
    let legitimate = scene.past.kept[5].cursor;
    let mut follower = Recorder::new("on the fresh one", StartAt::After(legitimate));
    let mut followed = follower.open(&fresh.grpc_endpoint()).await.expect("opens");
    let last = scene.past.publish_past(&caller).await;
    followed.until(last.cursor.revision).await.expect("reads");

    sleeper.signal(Signal::SIGCONT);
    let reason = timeout(PATIENCE, stream.until_reset()).await;
    let reason = reason.expect("in time").expect("a reset is no error");
    assert_eq!(reason, ResetReason::StoreChanged);
    // The sleeper's discovery is told to everybody, those who were right too.
    let told = timeout(PATIENCE, followed.until_reset()).await;
    told.expect("in time").expect("a reset is no error");
    let more = publish_all(&caller.0, names("more", 5)).await;
    let last = more.last().expect("some").cursor.revision;
    for stream in [&mut stream, &mut followed] {
        let level = timeout(PATIENCE, stream.until(last)).await;
        level.expect("in time").expect("goes on");
    }
    drop((stream, followed));
    for server in [&sleeper, &fresh] {
        scene.assert_nobody_skips(server).await;
        scene.assert_catalogue_went_back(server).await;
    }
}
