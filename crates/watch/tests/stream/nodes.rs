//! Nodes on one replica and on two: what each was sent, what it may say, and when everybody has it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use steadfast_store::{
    Change, NewNode, NodeName, NodeRow, NodeState, NodeWanted, Op, Publish, Store, Wakeups,
    fault::{Fault, Faults, Point},
};
use steadfast_testkit::postgres::TestDatabase;
use steadfast_types::{Cursor, Mark, ReplicaId, Revision};
use steadfast_watch::{Hub, NewStream, NodeError, NodeOptions, NodeStream, Nodes, Report, Waited};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::scene::OPTIONS;

/// Nothing happens because of a sign of life within a test.
const NEVER: NodeOptions = NodeOptions {
    lease: Duration::from_secs(3_600),
    limit: 5_000,
};

/// Signs of life follow each other.
const LIVELY: NodeOptions = NodeOptions {
    lease: Duration::from_millis(900),
    ..NEVER
};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A replica on a database.
struct Replica {
    id: ReplicaId,
    store: Store,
    hub: Hub,
    wakeups: Wakeups,
    nodes: Nodes,
    /// Where its lookups stand: behind the hub, as a catalogue would be.
    lookups: watch::Sender<Cursor>,
    stop: CancellationToken,
    _folder: Option<TempDir>,
}

impl Replica {
    async fn start(database: Option<&TestDatabase>, options: NodeOptions) -> Self {
        Self::start_with(database, options, Faults::default(), true).await
    }

    /// One that neither hears nor is heard, if it is so.
    async fn start_with(
        database: Option<&TestDatabase>,
        options: NodeOptions,
        faults: Faults,
        hears: bool,
    ) -> Self {
        let folder = database.is_none().then(|| tempfile::tempdir().unwrap());
        let store = Store::open(&steadfast_store::Options {
            url: database.map(TestDatabase::url).unwrap_or_default(),
            data_dir: folder
                .as_ref()
                .map(|folder| folder.path().to_owned())
                .unwrap_or_default(),
            faults,
            ..steadfast_store::Options::default()
        })
        .await
        .unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let id = ReplicaId::random();
        let silent = CancellationToken::new();
        if !hears {
            silent.cancel();
        }
        let deaf = if hears { &stop } else { &silent };
        let wakeups = Wakeups::start(&store, id, Duration::from_millis(5), deaf, &tasks);
        let hub = Hub::start(store.clone(), &wakeups, OPTIONS, &stop, &tasks)
            .await
            .unwrap();
        let head = store.head().await.unwrap().cursor;
        let lookups = watch::Sender::new(head);
        let follower = Some(lookups.subscribe());
        let nodes = Nodes::start(&hub, &wakeups, id, options, follower, &stop, &tasks)
            .await
            .unwrap();
        Self {
            id,
            store,
            hub,
            wakeups,
            nodes,
            lookups,
            stop,
            _folder: folder,
        }
    }

    /// Two that know of each other.
    async fn pair(database: &TestDatabase, options: NodeOptions) -> [Self; 2] {
        let pair = [
            Self::start(Some(database), options).await,
            Self::start(Some(database), options).await,
        ];
        for replica in &pair {
            until(async || replica.wakeups.is_listening() && replica.wakeups.others() == 1).await;
        }
        pair
    }

    async fn publish(&self) -> Cursor {
        let publish = Publish {
            changes: vec![Change::new("app/t", "k", Op::Upsert, "")],
            origin: String::new(),
            request: None,
        };
        let published = self.store.publish(publish).await.unwrap();
        self.wakeups.kick();
        let cursor = Cursor {
            store_id: self.hub.store_id(),
            revision: published.revision,
            mark: published.mark,
        };
        let mut position = self.hub.position();
        let reached = position.wait_for(|position| position.applied.revision >= cursor.revision);
        reached.await.unwrap();
        self.lookups.send_replace(cursor);
        cursor
    }

    /// Its lookups are where its memory is.
    async fn look_up_at(&self, cursor: Cursor) {
        let mut position = self.hub.position();
        let reached = position.wait_for(|position| position.applied.revision >= cursor.revision);
        reached.await.unwrap();
        self.lookups.send_replace(cursor);
    }

    async fn open(&self, node: &str, incarnation: &str) -> NodeStream {
        let head = self.store.head().await.unwrap().cursor;
        self.open_at(node, incarnation, head).await
    }

    async fn open_at(&self, node: &str, incarnation: &str, cursor: Cursor) -> NodeStream {
        let stream = NewStream {
            name: name(node, incarnation),
            labels: "{}".to_owned(),
            cursor,
        };
        self.nodes.open(stream).await.unwrap()
    }

    async fn report(&self, name: &NodeName, cursor: Cursor) -> Result<(), NodeError> {
        let report = Report {
            name: name.clone(),
            cursor: Some(cursor),
            error: String::new(),
        };
        self.nodes.report(report, Instant::now() + PATIENCE).await
    }

    async fn wait(&self, cursor: Cursor, names: &[&str], timeout: Duration) -> Waited {
        let wanted = NodeWanted {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let deadline = Instant::now() + timeout;
        let waited = self.nodes.wait(cursor, false, &wanted, deadline).await;
        waited.unwrap()
    }

    /// What is known of one incarnation.
    async fn row(&self, name: &NodeName) -> NodeRow {
        let rows = self.nodes.list(None, 5_000, true).await.unwrap();
        let row = rows.into_iter().find(|row| row.name == *name);
        row.unwrap_or_else(|| panic!("{name:?} is not known"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn name(node: &str, incarnation: &str) -> NodeName {
    NodeName {
        node: node.to_owned(),
        incarnation: incarnation.to_owned(),
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn names(rows: &[NodeRow]) -> Vec<&str> {
    let watchers = rows.iter().filter(|row| !row.is_replica);
    watchers.map(|row| row.name.node.as_str()).collect()
}

#[tokio::test]
async fn a_report_above_what_was_sent_is_refused_on_both_replicas() {
    let database = TestDatabase::create_empty().await;
    // No sign of life comes to help: only the question does.
    let [here, there] = Replica::pair(&database, NEVER).await;
    let node = name("n", "i");
    let stream = here.open("n", "i").await;
    let (first, second) = (here.publish().await, here.publish().await);
    for replica in [&here, &there] {
        let refused = replica.report(&node, first).await.unwrap_err();
        let NodeError::NotSent { reported, sent } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((reported, sent), (first.revision, Revision(0)));
    }
    stream.sent(first);
    // What is in the memory of one replica only is known to the other a moment later.
    there.report(&node, first).await.unwrap();
    assert_eq!(here.row(&node).await.applied, Some(first));
    for replica in [&there, &here] {
        let refused = replica.report(&node, second).await.unwrap_err();
        assert!(matches!(refused, NodeError::NotSent { .. }), "{refused:?}");
    }
    stream.sent(second);
    here.report(&node, second).await.unwrap();
    until(async || there.row(&node).await.applied == Some(second)).await;
    // The mark must be the log's.
    let wrong = Cursor {
        mark: Mark(second.mark.0 ^ 1),
        ..second
    };
    let elsewhere = Cursor {
        store_id: steadfast_types::StoreId::random(),
        ..second
    };
    for replica in [&here, &there] {
        for cursor in [wrong, elsewhere] {
            let refused = replica.report(&node, cursor).await.unwrap_err();
            assert!(matches!(refused, NodeError::StoreChanged), "{refused:?}");
        }
        let refused = replica.report(&name("n", "other"), first).await;
        assert!(matches!(refused, Err(NodeError::Unknown)), "{refused:?}");
    }
    // What has been sent to a stream that has ended is certain, and nothing more comes.
    let third = here.publish().await;
    drop(stream);
    until(async || here.row(&node).await.state == NodeState::Vanished).await;
    for replica in [&here, &there] {
        replica.report(&node, second).await.unwrap();
        let refused = replica.report(&node, third).await.unwrap_err();
        assert!(matches!(refused, NodeError::NotSent { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn it_is_complete_when_everybody_on_every_replica_has_it() {
    let database = TestDatabase::create_empty().await;
    let [here, there] = Replica::pair(&database, NEVER).await;
    let streams = [here.open("a", "1").await, there.open("b", "1").await];
    for asked in [&here, &there] {
        let cursor = here.publish().await;
        there.look_up_at(cursor).await;
        let waited = asked.wait(cursor, &[], Duration::from_millis(200)).await;
        assert!(!waited.complete);
        assert_eq!(names(&waited.lagging), ["a", "b"]);
        assert_eq!(waited.applied.len(), 2, "the replicas: {waited:?}");
        for stream in &streams {
            stream.sent(cursor);
        }
        // One after the other, while somebody waits.
        let reporting = async {
            here.report(&name("a", "1"), cursor).await.unwrap();
            let early = asked.wait(cursor, &[], Duration::ZERO).await;
            assert!(!early.complete);
            assert!(names(&early.lagging).contains(&"b"), "{early:?}");
            let one = asked.wait(cursor, &["a"], PATIENCE).await;
            assert!(one.complete && names(&one.applied) == ["a"], "{one:?}");
            there.report(&name("b", "1"), cursor).await.unwrap();
        };
        let (waited, ()) = tokio::join!(asked.wait(cursor, &[], PATIENCE), reporting);
        assert!(waited.complete, "{waited:?}");
        assert_eq!(names(&waited.applied), ["a", "b"]);
        assert!(waited.lagging.is_empty() && waited.unknown.is_empty());
        assert_eq!(waited.applied.len(), 4);
        assert_eq!(waited.cursor, cursor);
    }
    // Those that are named must have it, whoever they are.
    let cursor = here.store.head().await.unwrap().cursor;
    let waited = here.wait(cursor, &["a", "nobody"], Duration::ZERO).await;
    assert!(!waited.complete);
    assert_eq!(waited.unknown, ["nobody"]);
    assert_eq!(
        (names(&waited.applied), waited.lagging),
        (vec!["a"], vec![])
    );
}

/// A replica's own lookups count, which follow its memory: at once, wherever somebody waits.
#[tokio::test]
async fn a_replica_has_a_revision_when_its_lookups_do() {
    let database = TestDatabase::create_empty().await;
    let pair = Replica::pair(&database, NEVER).await;
    for (asked, late) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let [asked, late] = [asked, late].map(|index: usize| &pair[index]);
        let cursor = asked.publish().await;
        for replica in &pair {
            if replica.id == late.id {
                replica.lookups.send_replace(Cursor {
                    revision: Revision(cursor.revision.0 - 1),
                    ..cursor
                });
            } else {
                replica.look_up_at(cursor).await;
            }
        }
        let waiting = async {
            let waited = asked.wait(cursor, &[], Duration::from_millis(300)).await;
            let lagging: Vec<_> = waited.lagging.iter().map(|row| &row.name.node).collect();
            assert_eq!(lagging, [&late.id.to_string()]);
            late.look_up_at(cursor).await;
        };
        let (waited, ()) = tokio::join!(asked.wait(cursor, &[], PATIENCE), waiting);
        assert!(waited.complete, "{waited:?}");
    }
}

/// Behind a transaction pooler nobody hears anybody: polling finds it, and signs of life say what was sent.
#[tokio::test]
async fn it_is_complete_without_notifications_too() {
    let database = TestDatabase::create_empty().await;
    let deaf =
        async || Replica::start_with(Some(&database), LIVELY, Faults::default(), false).await;
    let (here, there) = (deaf().await, deaf().await);
    let node = name("n", "i");
    let stream = here.open("n", "i").await;
    let cursor = here.publish().await;
    let reporting = async {
        stream.sent(cursor);
        here.report(&node, cursor).await.unwrap();
        there.look_up_at(cursor).await;
    };
    let (waited, ()) = tokio::join!(there.wait(cursor, &[], PATIENCE), reporting);
    assert!(waited.complete, "{waited:?}");
    let second = here.publish().await;
    there.look_up_at(second).await;
    let refused = there.report(&node, second).await.unwrap_err();
    assert!(matches!(refused, NodeError::NotSent { .. }), "{refused:?}");
    stream.sent(second);
    there.report(&node, second).await.unwrap();
    assert!(there.wait(second, &[], PATIENCE).await.complete);
}

#[tokio::test]
async fn the_last_stream_of_an_incarnation_is_its_own_wherever_it_is() {
    let database = TestDatabase::create_empty().await;
    let [here, there] = Replica::pair(&database, NEVER).await;
    let node = name("n", "i");
    let beginning = here.store.head().await.unwrap().cursor;
    let first = here.open_at("n", "i", beginning).await;
    let cursor = here.publish().await;
    first.sent(cursor);
    // Opened from the beginning, and sent the same since: so far only its replica knows.
    there.look_up_at(cursor).await;
    let second = there.open_at("n", "i", beginning).await;
    second.sent(cursor);
    // It is reported to the replica that still believes in the first one: it counts.
    here.report(&node, cursor).await.unwrap();
    assert!(here.wait(cursor, &[], PATIENCE).await.complete);
    drop(first);
    // To list them here is to write down first that the first one has ended, as far as that is the node's business.
    let row = here.row(&node).await;
    assert_eq!(row.state, NodeState::Connected);
    assert_eq!(row.replica, there.id.to_string());
    assert_eq!(row.applied, Some(cursor));
    // The same on one replica.
    let third = there.open("n", "i").await;
    drop(second);
    assert_eq!(there.row(&node).await.state, NodeState::Connected);
    drop(third);
    until(async || here.row(&node).await.state == NodeState::Vanished).await;
}

#[tokio::test]
async fn a_registration_whose_caller_left_comes_to_an_end() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(&database)] {
        let replica = Replica::start(database, NEVER).await;
        let opening = replica.open("n", "i");
        drop(tokio::time::timeout(Duration::ZERO, opening).await);
        let (left, replica) = (name("n", "i"), &replica);
        until(async || {
            let rows = replica.nodes.list(None, 10, true).await.unwrap();
            // It was not begun, or it has ended.
            rows.iter()
                .filter(|row| row.name == left)
                .all(|row| row.state == NodeState::Vanished)
        })
        .await;
    }
}

/// A caller who leaves in the middle of a write takes nothing with it that was to be written down.
#[tokio::test]
async fn a_wait_that_is_given_up_loses_no_report() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(&database)] {
        let replica = Replica::start(database, NEVER).await;
        let stream = replica.open("n", "i").await;
        for round in 0..60 {
            let cursor = replica.publish().await;
            stream.sent(cursor);
            replica.report(&name("n", "i"), cursor).await.unwrap();
            let patience = Duration::from_micros(50 * round);
            let given_up = replica.wait(cursor, &["nobody"], PATIENCE);
            let given_up = tokio::time::timeout(patience, given_up).await;
            assert!(given_up.is_err(), "{given_up:?}");
            let waited = replica.wait(cursor, &[], PATIENCE).await;
            assert!(waited.complete, "round {round}: {waited:?}");
        }
    }
}

/// A database that was restored does not know who watches, or believes in streams that have long ended.
#[tokio::test]
async fn who_watches_is_written_down_again_after_a_restore() {
    let database = TestDatabase::create_empty().await;
    let replica = Replica::start(Some(&database), NEVER).await;
    let stream = replica.open("n", "i").await;
    let node = name("n", "i");
    let cursor = replica.publish().await;
    stream.sent(cursor);
    replica.report(&node, cursor).await.unwrap();
    assert!(replica.wait(cursor, &[], PATIENCE).await.complete);
    let ghost = NewNode {
        name: name("ghost", "i"),
        stream: "ghost".to_owned(),
        labels: "{}".to_owned(),
        replica: replica.id,
        opened_us: 1,
        sent: cursor,
        lease: NEVER.lease,
        limit: 10,
    };
    replica.store.register_node(ghost).await.unwrap();
    let restore = "DELETE FROM node WHERE node = 'n'; UPDATE change_log SET mark = mark # 1";
    database.psql(restore).await;
    replica.wakeups.kick();
    until(async || {
        let rows = replica.nodes.list(None, 10, true).await.unwrap();
        let of = |node: &str| rows.iter().find(|row| row.name.node == node);
        let again = of("n").is_some_and(|row| row.state == NodeState::Connected);
        again && of("ghost").is_some_and(|row| row.state == NodeState::Vanished)
    })
    .await;
    let row = replica.row(&node).await;
    assert_eq!(row.applied, None, "it was another history");
    let refused = replica.report(&node, cursor).await;
    assert!(
        matches!(refused, Err(NodeError::StoreChanged)),
        "{refused:?}"
    );
    let wanted = NodeWanted::default();
    let waited = replica
        .nodes
        .wait(cursor, false, &wanted, Instant::now())
        .await;
    assert!(matches!(waited, Err(NodeError::StoreChanged)), "{waited:?}");
}

/// Counts statements by their names.
fn counting() -> (Faults, Arc<[(&'static str, AtomicUsize); 4]>) {
    let counts = ["node_register", "node_write", "node_report", "node_beat"];
    let counts = Arc::new(counts.map(|name| (name, AtomicUsize::new(0))));
    let counted = Arc::clone(&counts);
    let faults = Faults::planned(move |point| {
        for (name, count) in counted.iter() {
            if point == Point::Sending(name) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
        Fault::None
    });
    (faults, counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes_take_few_statements_and_an_idle_fleet_only_signs_of_life() {
    let database = TestDatabase::create_empty().await;
    for database in [None, Some(&database)] {
        let (faults, counts) = counting();
        let replica = Replica::start_with(database, LIVELY, faults, true).await;
        let count = |wanted: &str| {
            let found = counts.iter().find(|(name, _)| *name == wanted);
            found.map_or(0, |(_, count)| count.load(Ordering::SeqCst))
        };
        let begin = count("node_register");
        let ids: Vec<String> = (0..1_000).map(|n| format!("n{n:04}")).collect();
        let head = replica.store.head().await.unwrap().cursor;
        let streams = join_all(ids.iter().map(|id| replica.open_at(id, "i", head))).await;
        let registering = count("node_register") - begin;
        assert!(
            registering <= 20,
            "{registering} statements for 1,000 streams"
        );
        let head = replica.store.head().await.unwrap().cursor;

        // Twenty rounds with somebody who waits.
        let begin = count("node_write");
        for _ in 0..20 {
            let cursor = replica.publish().await;
            let reporting = async {
                let reports = ids.iter().zip(&streams).map(async |(id, stream)| {
                    stream.sent(cursor);
                    replica.report(&name(id, "i"), cursor).await.unwrap();
                });
                join_all(reports).await;
            };
            let (waited, _) = tokio::join!(replica.wait(cursor, &[], PATIENCE), reporting);
            assert!(waited.complete, "{waited:?}");
            assert_eq!(waited.applied.len(), 1_001);
        }
        let writing = count("node_write") - begin;
        eprintln!("{registering} to register, {writing} for 20,000 reports");
        assert!(writing <= 100, "{writing} statements for 20,000 reports");
        assert_eq!(count("node_report"), 0, "nothing was asked about one node");
        // Reports take no revision.
        let now = replica.store.head().await.unwrap().cursor;
        assert_eq!(now.revision.0, head.revision.0 + 20);

        // What is still to be written down is.
        let beats = count("node_beat");
        until(async || count("node_beat") >= beats + 2).await;
        let (beats, writes) = (count("node_beat"), count("node_write"));
        until(async || count("node_beat") >= beats + 3).await;
        assert_eq!(count("node_write"), writes);
        assert_eq!(replica.store.head().await.unwrap().cursor, now);
        drop(streams);
    }
}

#[tokio::test]
async fn what_keeps_a_node_from_applying_is_told_until_it_is_over() {
    let database = TestDatabase::create_empty().await;
    let [here, there] = Replica::pair(&database, NEVER).await;
    let stream = here.open("n", "i").await;
    let node = name("n", "i");
    for (replica, error) in [(&here, "disk full"), (&there, "still full")] {
        let report = Report {
            name: node.clone(),
            cursor: None,
            error: error.to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        replica.nodes.report(report, deadline).await.unwrap();
        let row = replica.row(&node).await;
        assert_eq!((row.error.as_str(), row.applied), (error, None));
    }
    let cursor = here.publish().await;
    stream.sent(cursor);
    here.report(&node, cursor).await.unwrap();
    // The other replica is asked for what it knows, but not waited for long.
    until(async || there.row(&node).await.applied == Some(cursor)).await;
    let row = there.row(&node).await;
    assert_eq!(row.error, "");
    assert_eq!((row.lag_revisions, row.lag), (0, Duration::ZERO));
    let (_, later) = (here.publish().await, here.publish().await);
    let row = there.row(&node).await;
    assert_eq!(row.lag_revisions, 2);
    assert_eq!(row.head, later.revision);
    assert!(row.lag > Duration::ZERO);
}
