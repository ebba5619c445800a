//! Wake-ups: telling this replica and the others that the log may have grown.
//!
//! A wake-up carries no facts. Losing one costs latency only, because followers also poll. On PostgreSQL a notification is sent
//! from a connection of its own, never inside a write transaction (where it serialises commits), at most once per few
//! milliseconds, and only while somebody may be listening. One connection listens; it is tested by a round trip to itself at every
//! connect and now and then after it, because on a half-open connection, or behind a pooler that was not recognised, LISTEN succeeds
//! and nothing ever arrives. The others hear these tests, and so know of each other.
//!
//! The same connection carries questions about nodes: a replica on which somebody waits asks the others to write down what they know of
//! theirs, and they say when they have. These carry no facts either: those are in the database.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use sqlx::postgres::PgListener;
use steadfast_types::{Backoff, ReplicaId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, Store,
    engine::{Db, Listening, answer, statements},
};

/// The channel that all replicas share.
const CHANNEL: &str = "steadfast_log";

/// How long the round trip of the self-test may take.
const SELF_TEST: Duration = Duration::from_secs(2);

/// What a test begins with; the rest is who sent it.
const TEST: &str = "test ";

/// The same of a question for what nodes have applied.
const ASK: &str = "nodes? ";

/// The same of a question for what nodes have applied and what they were sent.
const ASK_SENT: &str = "sent? ";

/// The same of the news that it is written down.
const TELL: &str = "nodes! ";

statements! {
    /// Wakes the listening replicas.
    NOTIFY = "notify" => [postgres { "SELECT 1 FROM pg_notify($1, $2)" }];
}

/// Sends and receives wake-ups. Clones share one state.
#[derive(Debug, Clone)]
pub struct Wakeups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Counts wake-ups; the value says nothing else.
    woken: watch::Sender<u64>,
    /// The same, without those that this replica caused itself.
    woken_by_others: watch::Sender<u64>,
    /// Set when other replicas are to be told something.
    dirty: Notify,
    /// What they are to be told: bits of [`Due`].
    due: AtomicU8,
    /// What other replicas asked and told about nodes.
    nodes: watch::Sender<NodeNews>,
    listening: AtomicBool,
    /// How often the listening connection is tested again: a half-open one would never tell.
    retest: Duration,
    /// When each of the other replicas was heard of.
    others: Mutex<HashMap<String, Instant>>,
}

/// How often other replicas asked and told something about nodes. Only that a number has changed means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeNews {
    /// They want to know what nodes have applied.
    pub asked: u64,
    /// They also want to know what nodes were sent.
    pub asked_for_sent: u64,
    /// They have written it down.
    pub told: u64,
}

/// What other replicas are to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Something was committed.
    Kick = 1,
    /// See [`ASK`].
    Ask = 2,
    /// See [`ASK_SENT`].
    AskSent = 4,
    /// See [`TELL`].
    Tell = 8,
}

// === impl Due ===

impl Due {
    const ALL: [Self; 4] = [Self::Kick, Self::Ask, Self::AskSent, Self::Tell];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Kick => "",
            Self::Ask => ASK,
            Self::AskSent => ASK_SENT,
            Self::Tell => TELL,
        }
    }
}

// === impl Wakeups ===

impl Wakeups {
    /// Starts listening and notifying, until `stop`. Without PostgreSQL there are no other replicas, and a kick reaches this one
    /// in process.
    #[must_use]
    pub fn start(
        store: &Store,
        replica: ReplicaId,
        coalesce: Duration,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let wakeups = Self {
            inner: Arc::new(Inner {
                woken: watch::Sender::new(0),
                woken_by_others: watch::Sender::new(0),
                dirty: Notify::new(),
                due: AtomicU8::new(0),
                nodes: watch::Sender::default(),
                listening: AtomicBool::new(false),
                retest: store.listen_test_interval(),
                others: Mutex::default(),
            }),
        };
        if let Db::Postgres { connections, .. } = store.db() {
            tasks.spawn(
                stop.clone()
                    .run_until_cancelled_owned(wakeups.clone().listen(
                        store.clone(),
                        connections.listening().clone(),
                        replica,
                    )),
            );
            tasks.spawn(
                stop.clone()
                    .run_until_cancelled_owned(wakeups.clone().notify(
                        store.clone(),
                        replica,
                        coalesce,
                    )),
            );
        }
        wakeups
    }

    /// Says that this replica committed something.
    pub fn kick(&self) {
        count(&self.inner.woken);
        self.kick_others();
    }

    /// The same of something that this replica's follower hears of by itself: see [`Store::own_commits`].
    pub fn kick_others(&self) {
        self.say(Due::Kick);
    }

    /// Asks the other replicas to write down what their nodes have applied, and with `sent` also what they were sent.
    pub fn ask_about_nodes(&self, sent: bool) {
        self.say(if sent { Due::AskSent } else { Due::Ask });
    }

    /// Says that this replica has written down what it knows of its nodes.
    pub fn tell_about_nodes(&self) {
        self.say(Due::Tell);
    }

    /// A receiver that changes with each question and each piece of news about nodes.
    #[must_use]
    pub fn subscribe_to_nodes(&self) -> watch::Receiver<NodeNews> {
        self.inner.nodes.subscribe()
    }

    /// How many other replicas were heard of lately. One that cannot hear them does not know of any.
    #[must_use]
    pub fn others(&self) -> usize {
        let others = &self.inner.others;
        let others = others.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = others
            .values()
            .filter(|heard| heard.elapsed() < self.forgotten());
        lately.count()
    }

    /// A receiver that changes with each wake-up.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.woken.subscribe()
    }

    /// A receiver that changes with each wake-up that another replica caused, or may have caused.
    #[must_use]
    pub fn subscribe_to_others(&self) -> watch::Receiver<u64> {
        self.inner.woken_by_others.subscribe()
    }

    /// Whether changes of other replicas arrive by notification; otherwise they are found by polling.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.inner.listening.load(Ordering::Relaxed)
    }

    /// Without anybody who may hear it, nobody is woken to say it.
    fn say(&self, what: Due) {
        if !self.may_be_heard() {
            return;
        }
        self.inner.due.fetch_or(what as u8, Ordering::Relaxed);
        self.inner.dirty.notify_one();
    }

    fn wake(&self) {
        count(&self.inner.woken);
        count(&self.inner.woken_by_others);
    }

    async fn notify(self, store: Store, replica: ReplicaId, coalesce: Duration) {
        loop {
            self.inner.dirty.notified().await;
            let due = self.inner.due.swap(0, Ordering::Relaxed);
            for what in Due::ALL.into_iter().filter(|what| due & *what as u8 != 0) {
                let sent = store
                    .db()
                    .write(&NOTIFY)
                    .bind(CHANNEL)
                    .bind(format!("{}{replica}", what.prefix()))
                    .execute()
                    .await;
                if let Err(error) = sent {
                    // The others poll; the next kick tries again.
                    tracing::debug!(error = &error as &dyn std::error::Error, "could not notify");
                }
            }
            tokio::time::sleep(coalesce).await;
        }
    }

    async fn listen(self, store: Store, listening: Listening, replica: ReplicaId) {
        if listening.is_pooled() {
            // Its session is given to somebody else as soon as it has said that it listens.
            tracing::warn!(
                "LISTEN does not work through a pooler in transaction mode: changes of other replicas are found by polling"
            );
            metrics::gauge!(crate::metric::LISTENING).set(0);
            return;
        }
        let mut waits = Backoff::RECONNECT.waits();
        loop {
            match self.listen_once(&store, &listening, replica).await {
                Ok(()) => waits = Backoff::RECONNECT.waits(),
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot listen for changes; polling"
                ),
            }
            self.set_listening(false);
            // What was missed while nobody listened is found at once.
            self.wake();
            tokio::time::sleep(waits.next().unwrap_or(Backoff::RECONNECT.maximum)).await;
        }
    }

    /// Listens until the connection is lost. `Ok` if it worked for a while.
    async fn listen_once(
        &self,
        store: &Store,
        listening: &Listening,
        replica: ReplicaId,
    ) -> Result<(), Error> {
        let mut listener = PgListener::connect_with(&listening.pool())
            .await
            .map_err(Error::before_commit)?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        answer(SELF_TEST, listener.listen(CHANNEL))
            .await
            .map_err(Error::before_commit)?;
        let own = replica.to_string();
        loop {
            self.send_test(store, &own).await?;
            if !self.await_test(&mut listener, &own).await? {
                if self.is_listening() {
                    tracing::warn!("the listening connection is silent; connecting again");
                    return Ok(());
                }
                tracing::warn!(
                    "LISTEN does not work on this connection (a transaction pooler?): changes of other replicas are found by \
                     polling"
                );
                metrics::gauge!(crate::metric::LISTENING).set(0);
                tokio::time::sleep(self.inner.retest).await;
                return Ok(());
            }
            self.set_listening(true);
            self.wake();
            let silent_after = tokio::time::Instant::now() + self.inner.retest;
            loop {
                match tokio::time::timeout_at(silent_after, listener.try_recv()).await {
                    // `None` means that the connection was lost.
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => return Err(Error::before_commit(error)),
                    Ok(Ok(Some(notification))) => {
                        self.hear(notification.payload(), &own);
                    }
                    Err(_elapsed) => break,
                }
            }
        }
    }

    async fn send_test(&self, store: &Store, own: &str) -> Result<(), Error> {
        store
            .db()
            .write(&NOTIFY)
            .bind(CHANNEL)
            .bind(format!("{TEST}{own}"))
            .execute()
            .await
            .map(drop)
    }

    /// Whether the test message came back.
    async fn await_test(&self, listener: &mut PgListener, own: &str) -> Result<bool, Error> {
        let deadline = tokio::time::Instant::now() + SELF_TEST;
        loop {
            match tokio::time::timeout_at(deadline, listener.try_recv()).await {
                Err(_) | Ok(Ok(None)) => return Ok(false),
                Ok(Err(error)) => return Err(Error::before_commit(error)),
                Ok(Ok(Some(notification))) => {
                    if self.hear(notification.payload(), own) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Takes a notification in. True if it is this replica's own test.
    fn hear(&self, payload: &str, own: &str) -> bool {
        let (what, from) = [TEST, ASK, ASK_SENT, TELL]
            .into_iter()
            .find_map(|what| Some((what, payload.strip_prefix(what)?)))
            .unwrap_or(("", payload));
        if from == own {
            return what == TEST;
        }
        let now = Instant::now();
        let mut others = self
            .inner
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        others.retain(|_, heard| now.duration_since(*heard) < self.forgotten());
        let is_new = others.insert(from.to_owned(), now).is_none();
        drop(others);
        if is_new {
            // It may have missed what was committed before it was known of, and does not know of this replica yet.
            self.kick_others();
        }
        match what {
            ASK => self.inner.nodes.send_modify(|news| news.asked += 1),
            ASK_SENT => self
                .inner
                .nodes
                .send_modify(|news| news.asked_for_sent += 1),
            TELL => self.inner.nodes.send_modify(|news| news.told += 1),
            _ => self.wake(),
        }
        false
    }

    /// Whether another replica may be listening. One that cannot hear the others does not know.
    fn may_be_heard(&self) -> bool {
        !self.is_listening() || self.others() > 0
    }

    /// A replica that was not heard of for so long does not listen any more: it would have tested its connection twice.
    fn forgotten(&self) -> Duration {
        self.inner.retest * 5 / 2
    }

    fn set_listening(&self, usable: bool) {
        metrics::gauge!(crate::metric::LISTENING).set(f64::from(u8::from(usable)));
        let before = self.inner.listening.swap(usable, Ordering::Relaxed);
        if before != usable {
            tracing::info!(listening = usable, "notifications of other replicas");
        }
    }
}

fn count(wakeups: &watch::Sender<u64>) {
    wakeups.send_modify(|count| *count = count.wrapping_add(1));
}
