//! Nodes and replicas that go, in order or not, and what becomes of those who wait for them.

use std::time::{Duration, SystemTime};

use steadfast_client::api::watch::v1::{NodeState, NodeStatus, WatchRequest};
use steadfast_testkit::{Server, Signal};

use super::stage::{
    CachingNode, PATIENCE, Stage, list, node, open, publish, report, states, wait, watchers,
};
use crate::{
    scene::{Engine, connection, eventually},
    watch::next,
};

/// Short enough to wait for, long enough to see what happens before it ends.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);
/// What replicas need to be level themselves, so that only those are named that are meant.
const A_MOMENT: Duration = Duration::from_millis(300);

fn lease_end(status: &NodeStatus) -> SystemTime {
    let time = status.lease_end_time.expect("every node has a lease");
    SystemTime::try_from(time).expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_vanished_counts_until_its_lease_ends_and_is_named() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, SHORT).await;
        let stays = stage.node("stays", 0).await;
        let goes = stage.node("goes", 1).await;
        let asked = stage.connection(0);
        let cursor = publish(asked, "thing", "1").await;
        assert!(wait(asked, &cursor, PATIENCE).await.complete);
        goes.vanish().await;
        let cursor = publish(asked, "thing", "2").await;
        let waited = eventually("it to be noticed", async || {
            let waited = wait(asked, &cursor, Duration::from_millis(100)).await;
            let vanished = [("goes", NodeState::Vanished)];
            (states(&waited.lagging) == vanished).then_some(waited)
        })
        .await;
        let end = lease_end(&waited.lagging[0]);
        let left = end.duration_since(SystemTime::now());
        assert!(left.is_ok_and(|left| left <= SHORT), "{waited:?}");
        let waited = wait(asked, &cursor, PATIENCE).await;
        assert!(waited.complete, "{waited:?}");
        assert!(SystemTime::now() >= end, "not before its lease ended");
        assert_eq!(watchers(&waited.applied), ["stays"]);
        assert_eq!(stays.cached("thing").as_deref(), Some("2"));
        // It is not listed with those that count, and remembered for those who look for it.
        let live = list(asked, false).await;
        assert_eq!(watchers(&live), ["stays"]);
        let all = list(asked, true).await;
        let gone = all.iter().find(|status| status.node == "goes");
        assert_eq!(gone.map(NodeStatus::state), Some(NodeState::Expired));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_process_need_not_wait_for_its_predecessor() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, LONG).await;
        let asked = stage.connection(0);
        let connections = (stage.connection(0), stage.connection(0));
        let first = CachingNode::start(connections, "web", "first", Duration::ZERO).await;
        first.hold();
        let cursor = publish(asked, "thing", "1").await;
        let waited = wait(asked, &cursor, Duration::from_millis(100)).await;
        assert_eq!(states(&waited.lagging), [("web", NodeState::Connected)]);
        first.vanish().await;
        // On another replica, where there is one.
        let connections = (stage.connection(1), stage.connection(1));
        let second = CachingNode::start(connections, "web", "second", Duration::ZERO).await;
        let waited = wait(asked, &cursor, PATIENCE).await;
        assert!(waited.complete, "{waited:?}");
        let incarnations: Vec<_> = waited
            .applied
            .iter()
            .filter(|status| status.node == "web")
            .map(|status| status.incarnation.as_str())
            .collect();
        assert_eq!(incarnations, ["second"]);
        let all = list(asked, true).await;
        let superseded = all.iter().find(|status| status.incarnation == "first");
        assert_eq!(
            superseded.map(NodeStatus::state),
            Some(NodeState::Superseded)
        );
        let cursor = publish(asked, "thing", "2").await;
        assert!(wait(asked, &cursor, PATIENCE).await.complete);
        assert_eq!(second.cached("thing").as_deref(), Some("2"));
    }
}

/// A node that went over to another replica: what the first one still has to say of it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_cannot_disturb_the_new_one_on_another_replica() {
    let stage = Stage::start(Engine::Postgres, LONG).await;
    let [before, after] = [0, 1].map(|turn| stage.connection(turn));
    let who = node("web", "1");
    let mut old = open(before, &who).await;
    next(&mut old).await.expect("it is open");
    let mut new = open(after, &who).await;
    next(&mut new).await.expect("it is open");
    let cursor = publish(before, "thing", "1").await;
    for stream in [&mut old, &mut new] {
        next(stream).await.expect("a batch");
    }
    let mut nodes = before.nodes();
    let reported = before.call(nodes.report_applied(report(&who, cursor.clone())));
    reported.await.expect("it was sent");
    drop(old);
    assert!(wait(after, &cursor, PATIENCE).await.complete);
    // The end of the old one was seen by its replica, and stayed there.
    for asked in [before, after] {
        eventually("it to be with the other replica", async || {
            let live = list(asked, false).await;
            let web = live.iter().find(|status| status.node == "web")?;
            assert_eq!(web.state(), NodeState::Connected);
            (web.replica == stage.servers[1].replica()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_lags_with_its_nodes_until_it_goes_on() {
    let stage = Stage::start(Engine::Postgres, LONG).await;
    let here = stage.connection(0);
    let near = CachingNode::start((here, here), "near", "1", Duration::ZERO).await;
    let there = stage.connection(1);
    let far = CachingNode::start((there, there), "far", "1", Duration::ZERO).await;
    let cursor = publish(here, "thing", "1").await;
    assert!(wait(here, &cursor, PATIENCE).await.complete);
    let paused = &stage.servers[1];
    paused.signal(Signal::SIGSTOP);
    let cursor = publish(here, "thing", "2").await;
    let waited = wait(here, &cursor, Duration::from_secs(1)).await;
    let mut expected = vec![
        ("far", NodeState::Connected),
        (paused.replica(), NodeState::Connected),
    ];
    expected.sort_by_key(|(name, _)| *name);
    assert_eq!(states(&waited.lagging), expected);
    assert_eq!(near.cached("thing").as_deref(), Some("2"));
    assert_eq!(far.cached("thing").as_deref(), Some("1"));
    paused.signal(Signal::SIGCONT);
    let waited = wait(here, &cursor, PATIENCE).await;
    assert_eq!(far.cached("thing").as_deref(), Some("2"));
    assert!(waited.complete, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_and_its_nodes_count_until_their_lease_ends() {
    let mut stage = Stage::start(Engine::Postgres, SHORT).await;
    let here = stage.connections[0].clone();
    let there = stage.connections[1].clone();
    let far = CachingNode::start((&there, &here), "far", "1", Duration::ZERO).await;
    let cursor = publish(&here, "thing", "1").await;
    assert!(wait(&here, &cursor, PATIENCE).await.complete);
    stage.servers[1].kill().await;
    let cursor = publish(&here, "thing", "2").await;
    let waited = wait(&here, &cursor, A_MOMENT).await;
    let mut named: Vec<_> = waited
        .lagging
        .iter()
        .map(|status| status.node.as_str())
        .collect();
    named.sort_unstable();
    let mut expected = vec!["far", stage.servers[1].replica()];
    expected.sort_unstable();
    assert_eq!(named, expected);
    let end = waited.lagging.iter().map(lease_end).max();
    let waited = wait(&here, &cursor, PATIENCE).await;
    assert!(waited.complete, "{waited:?}");
    assert!(Some(SystemTime::now()) >= end);
    assert_eq!(far.cached("thing").as_deref(), Some("1"), "it got nothing");
}

/// One that ends in order is no longer waited for at once, and its nodes are.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_in_order_is_not_waited_for() {
    let mut stage = Stage::start(Engine::Postgres, LONG).await;
    let here = stage.connections[0].clone();
    let there = stage.connections[1].clone();
    let mut stream = open(&there, &node("far", "1")).await;
    next(&mut stream).await.expect("it is open");
    assert!(stage.servers[1].stop().await.success());
    let cursor = publish(&here, "thing", "1").await;
    let waited = wait(&here, &cursor, A_MOMENT).await;
    assert_eq!(states(&waited.lagging), [("far", NodeState::Vanished)]);
}

/// The embedded database belongs to one process: whoever opens it knows that the one before is gone.
#[tokio::test]
async fn a_restart_on_sqlite_leaves_no_replica_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let builder = Server::builder().directory(folder.path());
    let mut server = builder.start().await;
    let before = connection(&server).await;
    let mut stream = open(&before, &node("web", "1")).await;
    next(&mut stream).await.expect("it is open");
    server.kill().await;
    let server = builder.start().await;
    let after = connection(&server).await;
    let cursor = publish(&after, "thing", "1").await;
    let waited = wait(&after, &cursor, A_MOMENT).await;
    assert_eq!(states(&waited.lagging), [("web", NodeState::Vanished)]);
    let replicas = list(&after, true).await.len() - 1;
    assert_eq!(replicas, 1);
}

/// A stream without an id is nobody's, and nobody waits for it.
#[tokio::test]
async fn an_incarnation_alone_makes_no_node() {
    let stage = Stage::start(Engine::Sqlite, LONG).await;
    let asked = stage.connection(0);
    let request = WatchRequest {
        node: Some(node("", "i")),
        ..WatchRequest::default()
    };
    let mut stream = asked
        .watches()
        .watch(request)
        .await
        .expect("it opens")
        .into_inner();
    next(&mut stream).await.expect("it is open");
    assert_eq!(watchers(&list(asked, true).await), Vec::<&str>::new());
}
