//! Whose row a node's is, who counts, and what proves that something was applied.

use std::time::Duration;

use steadfast_types::{Cursor, Mark, ReplicaId, Revision};

use crate::{
    Beat, Change, NewNode, NodeName, NodeReport, NodeReported, NodeState, NodeTally, NodeWanted,
    NodeWrite, Op, Publish, Registered, Store,
    test_stores::{Fixture, both, postgres},
};

const LEASE: Duration = Duration::from_secs(3_600);

/// No lease is prolonged because of an outage.
const NOW: i64 = i64::MAX;

fn name(node: &str, incarnation: &str) -> NodeName {
    NodeName {
        node: node.to_owned(),
        incarnation: incarnation.to_owned(),
    }
}

struct Scene<'a> {
    store: &'a Store,
    replica: ReplicaId,
}

impl Scene<'_> {
    async fn head(&self) -> Cursor {
        self.store.head().await.unwrap().cursor
    }

    async fn publish(&self) -> Cursor {
        let publish = Publish {
            changes: vec![Change::new("app/t", "k", Op::Upsert, "")],
            origin: String::new(),
            request: None,
        };
        let published = self.store.publish(publish).await.unwrap();
        Cursor {
            store_id: self.head().await.store_id,
            revision: published.revision,
            mark: published.mark,
        }
    }

    async fn beat(&self, lease: Duration) {
        let beat = Beat {
            replica: self.replica,
            lease,
            applied: self.head().await,
            is_flush: true,
        };
        self.store.beat_node(beat).await.unwrap();
    }

    async fn register(&self, name: &NodeName, stream: &str, opened_us: i64) -> Registered {
        self.register_limited(name, stream, opened_us, 100).await
    }

    async fn register_limited(
        &self,
        name: &NodeName,
        stream: &str,
        opened_us: i64,
        limit: u32,
    ) -> Registered {
        let node = NewNode {
            name: name.clone(),
            stream: stream.to_owned(),
            labels: "{}".to_owned(),
            replica: self.replica,
            opened_us,
            sent: self.head().await,
            lease: LEASE,
            limit,
        };
        self.store.register_node(node).await.unwrap()
    }

    async fn write(&self, name: &NodeName, stream: &str, applied: Option<Cursor>, ended: bool) {
        let write = NodeWrite {
            name: name.clone(),
            stream: stream.to_owned(),
            sent: self.head().await,
            applied,
            error: None,
            seen: applied.is_some(),
            ended,
        };
        self.store
            .write_nodes(&[write], Duration::from_secs(60))
            .await
            .unwrap();
    }

    async fn tally(&self, cursor: Cursor) -> NodeTally {
        let wanted = NodeWanted::default();
        let tally = self.store.tally_nodes(cursor.revision, &wanted, NOW).await;
        tally.unwrap()
    }

    /// The states of all incarnations, by id and incarnation, replicas apart.
    async fn states(&self) -> Vec<(String, NodeState)> {
        let rows = self.store.nodes(None, 100, true, NOW).await.unwrap();
        let watchers = rows.into_iter().filter(|row| !row.is_replica);
        watchers
            .map(|row| (row.name.incarnation, row.state))
            .collect()
    }
}

impl Fixture {
    fn scene(&self) -> Scene<'_> {
        Scene {
            store: &self.store,
            replica: ReplicaId::random(),
        }
    }
}

#[tokio::test]
async fn only_the_stream_that_is_the_nodes_own_changes_it() {
    for fixture in both().await {
        let (old, new) = (fixture.scene(), fixture.scene());
        let node = name("n", "i");
        old.beat(LEASE).await;
        new.beat(LEASE).await;
        assert_eq!(old.register(&node, "first", 1_000).await, Registered::Done);
        assert_eq!(new.register(&node, "second", 2_000).await, Registered::Done);
        // What was on its way when the node came to the other replica: an end, a report, and a registration.
        let head = new.publish().await;
        old.write(&node, "first", Some(head), true).await;
        assert_eq!(old.register(&node, "late", 1_500).await, Registered::Later);
        let rows = new.store.nodes(None, 10, true, NOW).await.unwrap();
        let row = rows.iter().find(|row| row.name == node).unwrap();
        assert_eq!(row.replica, new.replica.to_string());
        assert_eq!((row.state, row.applied), (NodeState::Connected, None));
        // The stream's own counts.
        new.write(&node, "second", Some(head), true).await;
        let rows = new.store.nodes(None, 10, true, NOW).await.unwrap();
        let row = rows.iter().find(|row| row.name == node).unwrap();
        assert_eq!((row.state, row.applied), (NodeState::Vanished, Some(head)));
        // One that has vanished may be anybody's.
        assert_eq!(old.register(&node, "again", 1_500).await, Registered::Done);
    }
}

#[tokio::test]
async fn a_node_lives_as_long_as_its_replica_and_a_lease_after_its_stream() {
    for fixture in both().await {
        let scene = fixture.scene();
        let head = scene.head().await;
        scene.beat(LEASE).await;
        for (incarnation, opened) in [("1", 1), ("2", 2), ("3", 3)] {
            let node = name(incarnation, incarnation);
            let registered = scene.register(&node, incarnation, opened).await;
            assert_eq!(registered, Registered::Done);
        }
        scene.write(&name("2", "2"), "2", None, true).await;
        let live = async || scene.tally(head).await.live;
        assert_eq!(live().await, 4, "three and the replica");
        // The replica is gone, with whatever it served; the one whose stream had ended before has a lease of its own.
        scene.beat(Duration::ZERO).await;
        let states = scene.states().await;
        let (expired, vanished) = (NodeState::Expired, NodeState::Vanished);
        let of =
            |states: [NodeState; 3]| ["1", "2", "3"].map(str::to_owned).into_iter().zip(states);
        assert_eq!(states, of([expired, vanished, expired]).collect::<Vec<_>>());
        assert_eq!(live().await, 1);
        // Leases that ended in an outage that the asker shared count still.
        let wanted = NodeWanted::default();
        let since = scene.store.tally_nodes(head.revision, &wanted, 0);
        assert_eq!(since.await.unwrap().live, 4);
        // In order: a replica that ends says so, and its nodes count for a lease more.
        scene.beat(LEASE).await;
        scene.store.leave_nodes(scene.replica, LEASE).await.unwrap();
        let states = scene.states().await;
        assert_eq!(states, of([vanished; 3]).collect::<Vec<_>>());
        assert_eq!(live().await, 3);
    }
}

#[tokio::test]
async fn a_new_incarnation_takes_the_place_of_the_one_before() {
    for fixture in both().await {
        let scene = fixture.scene();
        scene.beat(LEASE).await;
        let (old, new) = (name("n", "old"), name("n", "new"));
        scene.register(&old, "1", 1).await;
        assert_eq!(scene.tally(scene.head().await).await.live, 2);
        scene.register(&new, "2", 2).await;
        let states = async || {
            let states = scene.states().await;
            states
                .into_iter()
                .map(|(_, state)| state)
                .collect::<Vec<_>>()
        };
        // By incarnation: `new`, `old`.
        let (connected, superseded) = (NodeState::Connected, NodeState::Superseded);
        assert_eq!(states().await, [connected, superseded]);
        assert_eq!(scene.tally(scene.head().await).await.live, 2);
        // The older one opening another stream does not make it newer.
        scene.register(&old, "3", 3).await;
        assert_eq!(states().await, [connected, superseded]);
        // Nor is it forgotten while the newer one has merely vanished.
        scene.write(&new, "2", None, true).await;
        assert_eq!(states().await, [NodeState::Vanished, superseded]);
    }
}

#[tokio::test]
async fn what_is_applied_counts_only_in_the_history_that_it_was_applied_in() {
    for fixture in both().await {
        let scene = fixture.scene();
        scene.beat(LEASE).await;
        let node = name("n", "i");
        scene.register(&node, "s", 1).await;
        let (first, second) = (scene.publish().await, scene.publish().await);
        scene.write(&node, "s", Some(second), false).await;
        scene.beat(LEASE).await;
        let level = async |cursor| {
            let tally = scene.tally(cursor).await;
            (tally.live, tally.level)
        };
        assert_eq!(level(second).await, (2, 2));
        assert_eq!(level(first).await, (2, 2));
        // An older report changes nothing.
        scene.write(&node, "s", Some(first), false).await;
        assert_eq!(level(second).await, (2, 2));
        // A mark that the log does not have, as after a failover that lost the commit: nothing is proven, not even the one before.
        let third = scene.publish().await;
        let lost = Cursor {
            mark: Mark(third.mark.0 ^ 1),
            ..third
        };
        scene.write(&node, "s", Some(lost), false).await;
        assert_eq!(level(third).await, (2, 0));
        assert_eq!(level(first).await, (2, 1), "the replica");
        // Another identity of the history: what was applied before it counts for nothing.
        scene.beat(LEASE).await;
        assert_eq!(level(third).await, (2, 1));
        scene
            .store
            .declare_new_history(third.store_id)
            .await
            .unwrap();
        assert_eq!(level(first).await, (2, 0));
        let rows = scene.store.nodes(None, 10, true, NOW).await.unwrap();
        for row in rows {
            assert_eq!((row.applied, row.lag_revisions), (None, 3), "{row:?}");
        }
        // And neither does a report of it that comes late.
        scene.write(&node, "s", Some(second), false).await;
        assert_eq!(level(first).await, (2, 0));
    }
}

#[tokio::test]
async fn a_report_by_way_of_another_replica_is_judged_by_what_was_written_down() {
    for fixture in both().await {
        let scene = fixture.scene();
        scene.beat(LEASE).await;
        let node = name("n", "i");
        let first = scene.publish().await;
        scene.register(&node, "s", 1).await;
        let second = scene.publish().await;
        let report = async |name: &NodeName, applied: Option<Cursor>| {
            let report = NodeReport {
                name: name.clone(),
                applied,
                error: String::new(),
            };
            scene.store.report_node(report).await.unwrap()
        };
        assert_eq!(report(&node, Some(first)).await, NodeReported::Taken);
        let refused = report(&node, Some(second)).await;
        let NodeReported::NotSent(standing) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((standing.sent, standing.connected), (first.revision, true));
        assert_eq!((standing.stream.as_str(), standing.flushes), ("s", 1));
        scene.write(&node, "s", None, false).await;
        assert_eq!(report(&node, Some(second)).await, NodeReported::Taken);
        let wrong = |cursor: Cursor| {
            Some(Cursor {
                mark: Mark(7),
                ..cursor
            })
        };
        let outcome = report(&node, wrong(second)).await;
        assert_eq!(outcome, NodeReported::StoreChanged);
        let outcome = report(&name("n", "other"), Some(first)).await;
        assert_eq!(outcome, NodeReported::Unknown);
        // A replica is no node that others report for.
        let replica = scene.replica.to_string();
        let outcome = report(&name(&replica, &replica), Some(first)).await;
        assert_eq!(outcome, NodeReported::Unknown);
        assert_eq!(
            scene
                .register(&name(&replica, &replica), "s", i64::MAX)
                .await,
            Registered::Later
        );
        // Compacted away, nothing can be proven with it any more.
        let lease = scene.store.claim_lease("l", scene.replica, LEASE).await;
        let lease = lease.unwrap().unwrap();
        let keep = crate::Retention {
            age: Duration::ZERO,
            revisions: 1,
            floor: 1,
        };
        for _ in 0..3 {
            scene.publish().await;
        }
        scene.store.compact(&lease, keep).await.unwrap();
        let outcome = report(&node, Some(first)).await;
        assert!(
            matches!(outcome, NodeReported::Compacted { .. }),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn the_number_of_nodes_is_limited_and_those_that_are_gone_make_room() {
    for fixture in both().await {
        let scene = fixture.scene();
        scene.beat(LEASE).await;
        for number in 0..3 {
            let node = name(&number.to_string(), "i");
            let outcome = scene
                .register_limited(&node, &number.to_string(), 1, 3)
                .await;
            let expected = match number {
                // The replica is one.
                0 | 1 => Registered::Done,
                _ => Registered::TooMany,
            };
            assert_eq!(outcome, expected, "{number}");
        }
        // One that is known is not one more.
        let again = scene.register_limited(&name("0", "i"), "again", 2, 3).await;
        assert_eq!(again, Registered::Done);
        assert_eq!(scene.store.prune_nodes(Duration::ZERO).await.unwrap(), 0);
        scene.beat(Duration::ZERO).await;
        assert_eq!(scene.store.prune_nodes(LEASE).await.unwrap(), 0);
        // In the millisecond in which they end they are not gone yet.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(scene.store.prune_nodes(Duration::ZERO).await.unwrap(), 3);
    }
}

/// Many replicas write the same rows in different orders: nobody waits in a circle.
#[tokio::test]
async fn reports_and_writes_of_the_same_nodes_do_not_deadlock() {
    let fixture = postgres().await;
    let scene = fixture.scene();
    scene.beat(LEASE).await;
    let head = scene.publish().await;
    let names: Vec<NodeName> = (0..60).map(|n| name(&format!("{n:03}"), "i")).collect();
    for node in &names {
        scene.register(node, &node.node, 1).await;
    }
    let writes: Vec<NodeWrite> = names
        .iter()
        .map(|node| NodeWrite {
            name: node.clone(),
            stream: node.node.clone(),
            sent: head,
            applied: None,
            error: None,
            seen: true,
            ended: false,
        })
        .collect();
    let backwards: Vec<NodeWrite> = writes.iter().rev().cloned().collect();
    let write = async |writes: &[NodeWrite]| {
        for _ in 0..40 {
            scene.store.write_nodes(writes, LEASE).await.unwrap();
        }
    };
    let report = async || {
        for round in 0..40_i64 {
            let reports = names.iter().rev().map(|node| NodeReport {
                name: node.clone(),
                applied: Some(Cursor {
                    revision: Revision(head.revision.0),
                    ..head
                }),
                error: round.to_string(),
            });
            let all = reports.map(|report| scene.store.report_node(report));
            for outcome in futures::future::join_all(all).await {
                assert_eq!(outcome.unwrap(), NodeReported::Taken);
            }
        }
    };
    let began = std::time::Instant::now();
    tokio::join!(write(&writes), write(&backwards), report());
    let deadlocks = fixture
        .database
        .as_ref()
        .unwrap()
        .psql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    assert_eq!(deadlocks.await.trim(), "0", "{:?}", began.elapsed());
}
