//! `complete` is believed by nobody here: the nodes' caches are looked into.

use std::time::Duration;

use steadfast_client::api::watch::v1::NodeState;
use tokio::time::{Instant, timeout};

use super::stage::{CachingNode, PATIENCE, Stage, publish, states, wait, watchers};
use crate::scene::Engine;

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn complete_means_that_every_cache_has_it() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, LEASE).await;
        let mut nodes = Vec::new();
        for turn in 0..6 {
            nodes.push(stage.node(&format!("node-{turn}"), turn).await);
        }
        for round in 0..12 {
            let slow = &nodes[round % nodes.len()];
            let (publisher, waiter) = (stage.connection(round), stage.connection(round / 2));
            slow.hold();
            let value = round.to_string();
            let cursor = publish(publisher, "thing", &value).await;
            let at_timeout = wait(waiter, &cursor, Duration::from_millis(400)).await;
            assert!(!at_timeout.complete);
            assert_eq!(
                states(&at_timeout.lagging),
                [(slow.name.as_str(), NodeState::Connected)]
            );
            assert_ne!(slow.cached("thing").as_ref(), Some(&value));
            let lagging = &at_timeout.lagging[0];
            assert_eq!(lagging.lag_revisions, 1);
            assert!(
                lagging
                    .lag
                    .is_some_and(|lag| lag.seconds > 0 || lag.nanos > 300_000_000)
            );
            for status in &at_timeout.applied {
                let node = nodes.iter().find(|node| node.name == status.node);
                // The others are replicas.
                if let Some(node) = node {
                    assert_eq!(node.cached("thing").as_ref(), Some(&value), "{}", node.name);
                }
            }
            let waiting = wait(waiter, &cursor, PATIENCE);
            tokio::pin!(waiting);
            let early = timeout(Duration::from_millis(100), &mut waiting).await;
            assert!(early.is_err(), "{early:?}");
            slow.release();
            let waited = waiting.await;
            // Nothing is waited for between the answer and this.
            for node in &nodes {
                assert_eq!(node.cached("thing").as_ref(), Some(&value), "{}", node.name);
            }
            assert!(waited.complete);
            assert_eq!(watchers(&waited.applied).len(), nodes.len());
            assert_eq!(waited.applied.len(), nodes.len() + stage.servers.len());
        }
    }
}

/// Each takes another time to apply what comes; whenever it is said to be complete, it is.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_never_said_too_early() {
    for engine in Engine::BOTH {
        let stage = Stage::start(engine, LEASE).await;
        let mut nodes = Vec::new();
        for turn in 0..8 {
            let connections = (stage.connection(turn), stage.connection(turn / 2));
            let pace = Duration::from_millis(3 * turn as u64);
            let name = format!("node-{turn}");
            nodes.push(CachingNode::start(connections, &name, "1", pace).await);
        }
        let began = Instant::now();
        for round in 0..60 {
            let value = round.to_string();
            let cursor = publish(stage.connection(round), "thing", &value).await;
            let waited = wait(stage.connection(round / 3), &cursor, PATIENCE).await;
            for node in &nodes {
                assert_eq!(node.cached("thing").as_ref(), Some(&value), "{}", node.name);
            }
            assert!(waited.complete, "{waited:?}");
        }
        let each = began.elapsed() / 60;
        eprintln!("{engine:?}: {each:?} for each, of which the slowest cache takes 21 ms");
    }
}
