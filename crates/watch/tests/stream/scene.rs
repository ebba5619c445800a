//! A database with a hub that follows its log, and what a subscriber reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use steadfast_api::watch::v1::{WatchResponse, watch_response::Event as Wire};
use steadfast_store::{
    Change, Op, Publish, Retention, Store, Wakeups,
    fault::{Fault, Faults, Point},
};
use steadfast_testkit::{CommandOutput, postgres::TestDatabase};
use steadfast_types::{Cursor, ReplicaId};
use steadfast_watch::{Filters, Hub, OnLost, Options, Pace, Start, SubscribeOptions, Subscription};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) const OPTIONS: Options = Options {
    ring_revisions: 1_000,
    ring_bytes: 1 << 20,
    poll_interval: Duration::from_millis(50),
    page_revisions: 100,
    max_streams: 100,
};

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) wakeups: Wakeups,
    stop: CancellationToken,
    tasks: TaskTracker,
    pub(crate) database: Option<TestDatabase>,
    folder: Option<TempDir>,
}

impl Fixture {
    pub(crate) async fn open(options: Options, database: Option<TestDatabase>) -> Self {
        Self::open_with(options, database, Faults::default()).await
    }

    /// With a plan that sees every statement.
    pub(crate) async fn open_with(
        options: Options,
        database: Option<TestDatabase>,
        faults: Faults,
    ) -> Self {
        let folder = database.is_none().then(|| tempfile::tempdir().unwrap());
        Self::open_at(options, database, folder, faults).await
    }

    async fn open_at(
        options: Options,
        database: Option<TestDatabase>,
        folder: Option<TempDir>,
        faults: Faults,
    ) -> Self {
        let store = Store::open(&steadfast_store::Options {
            url: database.as_ref().map(TestDatabase::url).unwrap_or_default(),
            data_dir: folder
                .as_ref()
                .map(|f| f.path().to_owned())
                .unwrap_or_default(),
            faults,
            ..steadfast_store::Options::default()
        })
        .await
        .unwrap();
        store.migrate().await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let coalesce = Duration::from_millis(5);
        let wakeups = Wakeups::start(&store, ReplicaId::random(), coalesce, &stop, &tasks);
        let hub = Hub::start(store.clone(), &wakeups, options, &stop, &tasks)
            .await
            .unwrap();
        Self {
            store,
            hub,
            wakeups,
            stop,
            tasks,
            database,
            folder,
        }
    }

    pub(crate) async fn both(options: Options) -> [Self; 2] {
        let database = TestDatabase::create_empty().await;
        [
            Self::open(options, None).await,
            Self::open(options, Some(database)).await,
        ]
    }

    pub(crate) async fn publish(&self, topic: &str, keys: &[&str], origin: &str) -> Cursor {
        let cursor = self.publish_only(topic, keys, origin).await;
        self.wakeups.kick();
        cursor
    }

    /// Without a wake-up.
    pub(crate) async fn publish_only(&self, topic: &str, keys: &[&str], origin: &str) -> Cursor {
        let published = self
            .store
            .publish(Publish {
                changes: keys
                    .iter()
                    .map(|key| Change::new(topic, *key, Op::Upsert, ""))
                    .collect(),
                origin: origin.to_owned(),
                request: None,
            })
            .await
            .unwrap();
        Cursor {
            store_id: self.hub.store_id(),
            revision: published.revision,
            mark: published.mark,
        }
    }

    /// Stops following, runs statements past the store, and starts anew.
    pub(crate) async fn restart_after(mut self, options: Options, sql: &str) -> Self {
        self.stop.cancel();
        self.store.close().await;
        self.rewrite(sql).await;
        let (database, folder) = (self.database.take(), self.folder.take());
        // The file's lock goes with the last of those who hold the store.
        self.tasks.close();
        self.tasks.wait().await;
        drop(self);
        Self::open_at(options, database, folder, Faults::default()).await
    }

    /// Runs statements in one transaction past the store, as whoever restores a copy does.
    pub(crate) async fn rewrite(&self, sql: &str) {
        match (&self.database, &self.folder) {
            (Some(database), _) => {
                database.psql(&format!("BEGIN; {sql}; COMMIT;")).await;
            }
            (None, Some(folder)) => {
                let script = "import sqlite3, sys\n\
                              db = sqlite3.connect(sys.argv[1], timeout=20)\n\
                              db.executescript('BEGIN IMMEDIATE;' + sys.argv[2] + ';COMMIT;')";
                let file = folder.path().join("steadfast.db");
                let mut command = tokio::process::Command::new("python3");
                command.args(["-c", script]).arg(file).arg(sql);
                let ran = CommandOutput::of(command).await;
                assert!(ran.status.success(), "{ran:?}");
            }
            (None, None) => unreachable!("a fixture is on one of the engines"),
        }
    }

    /// Deletes all but so many of the newest revisions, as maintenance does.
    pub(crate) async fn compact(&self, keep: u32) {
        let replica = ReplicaId::random();
        let minute = Duration::from_secs(60);
        let lease = self.store.claim_lease("maintenance", replica, minute);
        let lease = lease.await.unwrap().unwrap();
        let retention = Retention {
            age: Duration::from_secs(3_600),
            revisions: keep,
            floor: 1,
        };
        while self.store.compact(&lease, retention).await.unwrap() > 0 {}
        self.store.release_lease(&lease).await.unwrap();
    }

    /// Waits until memory stands there.
    pub(crate) async fn reach(&self, cursor: Cursor) {
        let mut position = self.hub.position();
        let reached = position.wait_for(|position| position.applied == cursor);
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        reached.expect("within 20 s").unwrap();
    }

    pub(crate) async fn watch(&self, start: Start) -> Subscription {
        self.hub.subscribe(from(start)).await.unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn from(start: Start) -> SubscribeOptions {
    SubscribeOptions {
        filters: Filters::default(),
        start,
        on_lost: OnLost::Reset,
        pace: Pace::Every(Duration::from_secs(60)),
        incarnation: String::new(),
        suppress_own: false,
        values: None,
    }
}

/// Counts how often a statement is sent.
pub(crate) fn counting(statement: &'static str) -> (Faults, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let faults = Faults::planned(move |point| {
        if point == Point::Sending(statement) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Fault::None
    });
    (faults, count)
}

/// The next event, decoded as a client would.
pub(crate) async fn next(subscription: &mut Subscription) -> Wire {
    let event = tokio::time::timeout(Duration::from_secs(20), subscription.next())
        .await
        .expect("an event within 20 s")
        .unwrap();
    decoded(&event.frame())
}

/// What a client reads from a frame: five bytes of prefix, and the message.
pub(crate) fn decoded(frame: &bytes::Bytes) -> Wire {
    let (prefix, message) = frame.split_at(5);
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    assert_eq!(prefix, [&[0], &len[..]].concat(), "not compressed, as long");
    WatchResponse::decode(message).unwrap().event.unwrap()
}

pub(crate) async fn opened(subscription: &mut Subscription) {
    assert!(matches!(next(subscription).await, Wire::Opened(_)));
}

/// Collects keys until one of them is `last`.
pub(crate) async fn keys_until(subscription: &mut Subscription, last: &str) -> Vec<String> {
    let mut keys = Vec::new();
    loop {
        match next(subscription).await {
            Wire::Batch(batch) => keys.extend(batch.changes.into_iter().map(|change| change.key)),
            Wire::Opened(_) | Wire::Progress(_) => {}
            Wire::Reset(reset) => panic!("{reset:?}"),
        }
        if keys.last().is_some_and(|key| key == last) {
            return keys;
        }
    }
}
