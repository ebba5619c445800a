//! Nodes: which processes watch, what each was sent, and what each has proven to have applied.
//!
//! Each replica keeps the streams that it serves in memory (a [`Seat`] each) and what the fleet knows of them in the database. A seat knows
//! exactly what its stream was sent, so that a report is judged in memory, and answered without a statement. One task per replica
//! (`writer`) writes down what has become of all its seats, many in a statement: a few milliseconds after a report while somebody waits
//! here or has asked from another replica, and otherwise so seldom that it costs nothing. It also gives the replica's sign of life, which
//! carries the leases of all its nodes.
//!
//! Whether everybody has applied a revision is decided by one statement, over one snapshot of the database (`wait`): what is in memory
//! only says when it is worth asking again. A node is in the database before its stream says `opened`, so that none is overlooked; and
//! what it reported counts only with the mark that the log has at that moment, so that nothing counts from another history.

mod clock;
mod error;
mod report;
mod seat;
mod wait;
mod writer;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_store::{NewNode, NodeName, NodeRow, Registered, Store, Wakeups};
use steadfast_types::{Cursor, ReplicaId};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Hub;
use clock::Clock;
pub use error::NodeError;
pub use report::Report;
pub use seat::NodeStream;
use seat::Seat;
pub use wait::Waited;

/// Calls that wait for a revision at once, per replica.
const WAITS: usize = 256;

/// Of those, and of other readers of nodes, how many ask the database at once: fewer than its fewest connections.
const READS: usize = 2;

/// How long a list waits for other replicas to write down what they know.
const FRESHEN: Duration = Duration::from_millis(100);

/// After a question of another replica, it is believed to wait for so long: it asks more often than that.
const ASKED: Duration = Duration::from_secs(2);

/// What is configured of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeOptions {
    /// How long a node counts without a sign of life. A third of it is the time between two.
    pub lease: Duration,
    /// Nodes that are known at most, of the whole fleet, with those that are gone and not yet forgotten.
    pub limit: u32,
}

/// A node, as a stream introduces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStream {
    /// Who opens it.
    pub name: NodeName,
    /// JSON, text to text.
    pub labels: String,
    /// The stream goes on after it.
    pub cursor: Cursor,
}

/// The nodes of a replica, and the way to those of the others. Clones share it.
#[derive(Debug, Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    hub: Hub,
    wakeups: Wakeups,
    replica: ReplicaId,
    options: NodeOptions,
    /// How far lookups on this replica are behind the hub, if anything follows it.
    follower: Option<watch::Receiver<Cursor>>,
    clock: Clock,
    /// The streams that are their nodes' own.
    seats: Mutex<HashMap<NodeName, Arc<Seat>>>,
    /// Streams that are being registered.
    opening: Mutex<HashSet<String>>,
    /// Those of which something is to be written down.
    unwritten: Mutex<Vec<Arc<Seat>>>,
    /// Wakes the writer.
    work: Notify,
    /// Counts what was written down.
    written: watch::Sender<u64>,
    /// Held while something is written down.
    writing: tokio::sync::Mutex<()>,
    /// Calls on another replica are believed to wait until then.
    asked_until: Mutex<Instant>,
    /// Calls of this replica that wait.
    waiting: AtomicUsize,
    waits: Semaphore,
    reads: Semaphore,
}

// === impl Nodes ===

impl Nodes {
    /// Makes this replica a node, and keeps it one until `stop`. `follower` is where its lookups stand, if they do not stand where the
    /// hub does.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn start(
        hub: &Hub,
        wakeups: &Wakeups,
        replica: ReplicaId,
        options: NodeOptions,
        follower: Option<watch::Receiver<Cursor>>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, steadfast_store::Error> {
        let store = hub.inner.store.clone();
        store.inherit_nodes(options.lease).await?;
        let shared = Arc::new(Shared {
            store,
            hub: hub.clone(),
            wakeups: wakeups.clone(),
            replica,
            options,
            follower,
            clock: Clock::new(options.lease),
            seats: Mutex::default(),
            opening: Mutex::default(),
            unwritten: Mutex::default(),
            work: Notify::new(),
            written: watch::Sender::new(0),
            writing: tokio::sync::Mutex::default(),
            asked_until: Mutex::new(Instant::now()),
            waiting: AtomicUsize::new(0),
            waits: Semaphore::new(WAITS),
            reads: Semaphore::new(READS),
        });
        shared.beat(false).await?;
        let writer = writer::run(Arc::clone(&shared));
        tasks.spawn(stop.clone().run_until_cancelled_owned(writer));
        Ok(Self { shared })
    }

    /// Makes a stream its node's own. The node is known to the whole fleet when this returns.
    ///
    /// # Errors
    /// If too many nodes are known, if a later stream of the same node is its own, or if the database does not answer.
    pub async fn open(&self, stream: NewStream) -> Result<NodeStream, NodeError> {
        let seat = Seat::new(stream.name.clone(), stream.cursor);
        let opened_us = self.shared.clock.now_us();
        let node = self.shared.new_node(&seat, stream.labels, opened_us);
        let stream = NodeStream::new(Arc::clone(&self.shared), seat);
        let shared = Arc::clone(&self.shared);
        // Goes on if the caller leaves: what is registered must come to be known as ended, too.
        let registering = tokio::spawn(async move {
            let id = node.stream.clone();
            shared.set_opening(&id, true);
            let registered = shared.register(node).await;
            if registered.is_ok() {
                shared.sit(stream.seat());
            }
            shared.set_opening(&id, false);
            registered.map(|()| stream)
        });
        match registering.await {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// A page of nodes after one, as they are now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn list(
        &self,
        after: Option<&NodeName>,
        limit: i64,
        include_gone: bool,
    ) -> Result<Vec<NodeRow>, NodeError> {
        if after.is_none() {
            self.shared.freshen().await;
        }
        let since_us = self.shared.clock.since_us();
        let _turn = self.shared.reads.acquire().await;
        let store = &self.shared.store;
        Ok(store.nodes(after, limit, include_gone, since_us).await?)
    }

    /// Takes this replica off the nodes: it is about to end. Those whose streams it served count for a lease longer.
    ///
    /// # Errors
    /// If the database does not answer; the leases end by themselves then.
    pub async fn leave(&self) -> Result<(), steadfast_store::Error> {
        let shared = &self.shared;
        let _writing = shared.writing.lock().await;
        shared.write_seats(true).await?;
        let lease = shared.options.lease;
        shared.store.leave_nodes(shared.replica, lease).await
    }
}

// === impl Shared ===

impl Shared {
    fn new_node(&self, seat: &Seat, labels: String, opened_us: i64) -> NewNode {
        seat.keep(labels.clone(), opened_us);
        NewNode {
            name: seat.name.clone(),
            stream: seat.stream.clone(),
            labels,
            replica: self.replica,
            opened_us,
            sent: seat.sent(),
            lease: self.options.lease,
            limit: self.options.limit,
        }
    }

    async fn register(&self, node: NewNode) -> Result<(), NodeError> {
        match self.store.register_node(node.clone()).await? {
            Registered::Done => return Ok(()),
            Registered::Later => return Err(NodeError::Taken),
            Registered::TooMany => {}
        }
        // Those that are gone make room.
        self.store.prune_nodes(Duration::ZERO).await?;
        let limit = node.limit;
        match self.store.register_node(node).await? {
            Registered::Done => Ok(()),
            Registered::Later => Err(NodeError::Taken),
            Registered::TooMany => Err(NodeError::TooMany { limit }),
        }
    }

    /// Puts a registered stream in the place of the one before.
    fn sit(&self, seat: &Arc<Seat>) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = seats.insert(seat.name.clone(), Arc::clone(seat))
            && seat.inherit(&before)
        {
            self.queue(seat);
        }
    }

    /// Takes a stream off its place, if it is still there.
    fn unseat(&self, seat: &Seat) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats
            .get(&seat.name)
            .is_some_and(|held| held.stream == seat.stream)
        {
            seats.remove(&seat.name);
        }
    }

    fn seat(&self, name: &NodeName) -> Option<Arc<Seat>> {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.get(name).cloned()
    }

    fn all_seats(&self) -> Vec<Arc<Seat>> {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.values().cloned().collect()
    }

    /// Has something of a stream written down.
    fn queue(&self, seat: &Arc<Seat>) {
        if !seat.mark_queued() {
            return;
        }
        let mut unwritten = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unwritten.push(Arc::clone(seat));
        drop(unwritten);
        self.work.notify_one();
    }

    fn set_opening(&self, stream: &str, opens: bool) {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if opens {
            opening.insert(stream.to_owned());
        } else {
            opening.remove(stream);
        }
    }

    fn is_opening(&self, stream: &str) -> bool {
        let opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        opening.contains(stream)
    }

    /// Another replica has asked: somebody waits there.
    fn believe_asked(&self) {
        let mut until = self
            .asked_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *until = Instant::now() + ASKED;
    }

    fn is_asked(&self) -> bool {
        let until = self
            .asked_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Instant::now() < *until
    }

    /// Whether somebody waits, here or elsewhere.
    fn is_urgent(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.is_asked()
    }

    /// Where lookups on this replica stand.
    fn own_position(&self) -> Cursor {
        let hub = self.hub.position().borrow().applied;
        match self.follower.as_ref().map(|follower| *follower.borrow()) {
            // What follows the hub is of the older history while it loads the newer one.
            Some(follower)
                if follower.store_id != hub.store_id || follower.revision < hub.revision =>
            {
                follower
            }
            _ => hub,
        }
    }

    /// Has everybody write down what they know, and waits for it a moment.
    async fn freshen(self: &Arc<Self>) {
        let mut told = self.wakeups.subscribe_to_nodes();
        let before = told.borrow_and_update().told;
        let others = self.wakeups.others() as u64;
        self.wakeups.ask_about_nodes(false);
        self.write_apart().await;
        let all_told = told.wait_for(|news| news.told >= before + others);
        // Whoever does not answer is shown as it was last known.
        drop(tokio::time::timeout(FRESHEN, all_told).await);
    }
}
