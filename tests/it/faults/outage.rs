//! A database that goes away while the server runs, and comes back.

use std::time::Duration;

use steadfast_client::{Code, Error, api::registry::v1::StartRefreshRequest};
use steadfast_testkit::{
    ClusterOptions, PrivateCluster, Proxy, Server, StopMode,
    history::{StartAt, check},
};
use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Answers, Caller, Registry, assert_same_answers, eventually, http_get};
use crate::history::{
    publishing::{DEADLINE, change, publish, publish_all},
    recording::{PATIENCE, Recorder},
    truth,
};

/// How the database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// It crashed, and its socket is gone.
    Stopped,
    /// Its machine closes connections as soon as they come.
    Refusing,
    /// The network takes every byte and delivers none; connections stay open.
    Silent,
}

struct Scene {
    away: Away,
    cluster: PrivateCluster,
    proxy: Proxy,
    server: Server,
    caller: Caller,
    registry: Registry,
}

// === impl Scene ===

impl Scene {
    async fn set(away: Away) -> Self {
        let cluster = PrivateCluster::start(ClusterOptions::default()).await;
        let direct = cluster.create_database("outage").await;
        let proxy = Proxy::start(cluster.target()).await;
        let url = match away {
            Away::Stopped => direct,
            Away::Refusing | Away::Silent => cluster.url_through(&proxy, "outage"),
        };
        let mut registry = Registry::start(5).await;
        registry.fills = true;
        // How long a silent server is waited for depends on how long a statement may run.
        let server = registry.server().database_url(url);
        let server = server.variable("STEADFAST_DATABASE__STATEMENT_TIMEOUT_MS", "1000");
        let server = server.start().await;
        let caller = Caller::to(&server).await;
        eventually("the catalogue is filled", async || {
            (caller.listed().await.len() == 5).then_some(())
        })
        .await;
        Self {
            away,
            cluster,
            proxy,
            server,
            caller,
            registry,
        }
    }

    async fn goes(&self) {
        match self.away {
            Away::Stopped => self.cluster.stop(StopMode::Immediate).await,
            Away::Refusing => {
                self.proxy.refuse(true);
                self.proxy.cut();
            }
            Away::Silent => self.proxy.pause(),
        }
    }

    async fn returns(&self) {
        match self.away {
            Away::Stopped => self.cluster.resume().await,
            Away::Refusing => self.proxy.refuse(false),
            Away::Silent => {
                // What was open is lost, as after a failover to another machine.
                self.proxy.cut();
                self.proxy.resume();
            }
        }
    }

    async fn readiness(&self) -> String {
        let (status, body) = http_get(&self.server, "/readyz").await;
        assert_eq!(
            status, 200,
            "a replica without its database is useful: {body}"
        );
        body
    }

    async fn assert_answers(&self, expected: &[Answers]) {
        let names = &self.registry.names;
        assert_same_answers(names, &self.caller.catalogue(names).await, expected);
    }

    /// Publishes in bursts while others are still waiting, and returns what failed.
    async fn publishes_in_vain(&self) {
        let began = Instant::now();
        let mut calls = Vec::new();
        for burst in 0..12 {
            for number in 0..3 {
                let connection = self.caller.0.clone();
                calls.push(tokio::spawn(async move {
                    let called = Instant::now();
                    let changes = vec![change("app/b", format!("lost-{burst}-{number}"))];
                    let outcome = publish(&connection, changes, "").await;
                    (called - began, called.elapsed(), outcome)
                }));
            }
            sleep(Duration::from_millis(50 * burst)).await;
        }
        for call in calls {
            let (at, took, outcome) = call.await.expect("does not panic");
            let error = outcome.expect_err("nothing can be written");
            assert_away(&error, &format!("at {at:?} after {took:?}"));
            assert!(took < DEADLINE, "{took:?}");
        }
    }
}

fn assert_away(error: &Error, what: &str) {
    let named = (error.code, error.reason.as_str());
    let expected = (Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert_eq!(named, expected, "{what}: {error}");
    assert!(
        error.retry_after.is_some(),
        "{what}: the caller is told when to come back"
    );
}

async fn comes_and_goes(away: Away) {
    let scene = Scene::set(away).await;
    let caller = &scene.caller;
    let answers = caller.catalogue(&scene.registry.names).await;
    let before = publish_all(&caller.0, (0..20).map(|n| format!("before-{n}"))).await;
    let head = before.last().expect("some").cursor;
    let endpoint = scene.server.grpc_endpoint();
    let mut everything = Recorder::new("everything", StartAt::Earliest);
    let mut filtered = Recorder::new("filtered", StartAt::After(before[9].cursor))
        .filtered(&[("app/a", "after-1")]);
    let mut late = Recorder::new("opened meanwhile", StartAt::After(before[4].cursor));
    let mut stream = everything.open(&endpoint).await.expect("opens");
    let mut filtered_stream = filtered.open(&endpoint).await.expect("opens");
    stream.until(head.revision).await.expect("reads");
    filtered_stream.until(head.revision).await.expect("reads");

    scene.goes().await;
    eventually("the replica says that it is degraded", async || {
        scene.readiness().await.contains("degraded").then_some(())
    })
    .await;
    scene.assert_answers(&answers).await;
    let (head_error, refresh_error, ()) = tokio::join!(
        async {
            caller
                .head()
                .await
                .expect_err("the head is read from the database")
        },
        async {
            let mut client = caller.0.refreshes();
            let call = client.start_refresh(StartRefreshRequest::default());
            caller.0.call(call).await.expect_err("cannot be recorded")
        },
        scene.publishes_in_vain(),
    );
    assert_away(&head_error, "GetHead");
    assert_away(&refresh_error, "StartRefresh");
    scene.assert_answers(&answers).await;
    // Streams are open, and say so; another one can be opened from memory.
    for stream in [&mut stream, &mut filtered_stream] {
        let sign = timeout(PATIENCE, stream.next()).await;
        sign.expect("progress comes").expect("the stream is open");
    }
    let mut late_stream = late
        .open(&endpoint)
        .await
        .expect("memory has what it needs");
    late_stream.until(head.revision).await.expect("from memory");

    scene.returns().await;
    let first = eventually("publishing works again", async || {
        let changes = vec![change("app/a", "first-after")];
        match publish(&caller.0, changes, "the same call each time").await {
            Ok((acknowledged, _)) => Some(acknowledged),
            Err(error) => {
                assert_away(&error, "not back yet");
                None
            }
        }
    })
    .await;
    let after = publish_all(&caller.0, (0..20).map(|n| format!("after-{n}"))).await;
    let last = after.last().expect("some").cursor.revision;
    for stream in [&mut stream, &mut filtered_stream, &mut late_stream] {
        timeout(PATIENCE, stream.until(last))
            .await
            .expect("streams go on by themselves")
            .expect("they were open all the time");
    }
    drop((stream, filtered_stream, late_stream));
    eventually("the replica is ready again", async || {
        (!scene.readiness().await.contains("degraded")).then_some(())
    })
    .await;
    let run = caller.start_refresh().await.refresh.expect("has one");
    caller.ended(&run.id).await;
    scene.assert_answers(&answers).await;

    let committed = truth::parse(&scene.cluster.psql("outage", truth::POSTGRES).await);
    let acknowledged = before.iter().chain([&first]).chain(&after);
    truth::check_acknowledged(&committed, acknowledged);
    let logs = [everything, filtered, late].map(|recorder| recorder.into_log(true));
    check(head.store_id, &committed, &logs).expect("nothing was lost, on any stream");
}

#[tokio::test]
async fn a_stopped_database() {
    comes_and_goes(Away::Stopped).await;
}

#[tokio::test]
async fn a_database_that_refuses_connections() {
    comes_and_goes(Away::Refusing).await;
}

#[tokio::test]
async fn a_database_behind_a_silent_network() {
    comes_and_goes(Away::Silent).await;
}
