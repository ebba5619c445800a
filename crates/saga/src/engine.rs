//! The engine: definitions, starts, verbs, and the executor that carries sagas out.
//!
//! A saga in hand goes from step to step without a queue: its outcome and the next intent are one commit, shared with all other
//! sagas that commit at that moment, and only then is the next attempt sent. A saga that has to wait is given back to the
//! database with the time at which it may be taken, and costs no memory.

mod attempt;
mod carry;
mod decide;
mod error;
mod executor;
mod gauge;
mod give_back;
mod hand;
mod held;
mod plan;
mod rest;
mod start;
mod stored;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast_store::{Lease, SagaListFilter, SagaRow, Steered, Store, Wakeups};
use steadfast_types::{ReplicaId, Timestamp};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use error::Error;
pub use stored::{
    DefinitionRef, SagaEventView, SagaFilter, SagaView, StartSaga, StoredDefinition, has_nul,
};

use crate::{Actions, Event, KnownActions, SecretSource, Step, Verb, machine::Effect};
use plan::Planned;
use rest::Rests;

/// Inputs, context and each output take at most this many bytes.
pub const DOCUMENT_BYTES: usize = 64 << 10;
/// Labels of one saga at most.
pub const LABELS: usize = 32;
/// Bytes of a label's name or value, of a kind, a key or another name at most.
pub const NAME_BYTES: usize = 128;

/// Limits and manners of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Sagas that one replica has in hand at most.
    pub running: usize,
    /// How long the executor's lease lasts; renewed at a third.
    pub lease_duration: Duration,
    /// How often to look for what nothing announced: free sagas, deadlines, lost replicas.
    pub poll_interval: Duration,
    /// Replicas that may be lost with one saga in hand before it is taken out of circulation.
    pub crashes: i64,
    /// How long COMPLETED sagas are kept.
    pub keep_completed: Duration,
    /// How long COMPENSATED and ABANDONED sagas are kept.
    pub keep_others: Duration,
    /// How often ended sagas are forgotten.
    pub retention_interval: Duration,
}

/// The engine of this process. Clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    wakeups: Wakeups,
    actions: Actions,
    /// What the machine and the checks are told of the actions.
    known: KnownActions,
    secrets: Arc<dyn SecretSource>,
    options: Options,
    /// The executor's identity and lease while it lives. Another one after each loss.
    life: Mutex<Option<Life>>,
    in_hand: AtomicUsize,
    /// How many tasks carry which saga; one each, but for the moment between two.
    hands: Mutex<HashMap<String, usize>>,
    /// The database's clock minus this machine's, in microseconds.
    clock_offset_us: AtomicI64,
    /// There may be something to take.
    poke: Notify,
    plans: Mutex<BTreeMap<String, Arc<Vec<Step>>>>,
    definitions: Mutex<BTreeMap<(String, i64), Arc<Planned>>>,
    rests: Rests,
    tasks: TaskTracker,
}

/// One life of the executor.
#[derive(Debug, Clone)]
struct Life {
    executor: ReplicaId,
    lease: Lease,
    /// Until when nobody else can have taken the lease; moves on as it is renewed.
    covered: watch::Receiver<Instant>,
    /// Ends with the lease.
    ended: CancellationToken,
}

// === impl Life ===

impl Life {
    /// Returns once it is certain that the lease was still held a moment ago: a process that was asleep must not begin anything
    /// before it has asked.
    async fn is_covered(&self) {
        if Instant::now() < *self.covered.borrow() {
            return;
        }
        let mut covered = self.covered.clone();
        if covered
            .wait_for(|until| Instant::now() < *until)
            .await
            .is_err()
        {
            // Nobody renews it any more: the life has ended, or ends now.
            self.ended.cancelled().await;
        }
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            running: 10_000,
            lease_duration: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
            crashes: 5,
            keep_completed: Duration::from_secs(7 * 24 * 3600),
            keep_others: Duration::from_secs(30 * 24 * 3600),
            retention_interval: Duration::from_secs(60),
        }
    }
}

// === impl Engine: life ===

impl Engine {
    /// Starts the engine; it carries sagas out until `stop`.
    #[must_use]
    pub fn start_engine(
        store: Store,
        wakeups: Wakeups,
        actions: Actions,
        secrets: Arc<dyn SecretSource>,
        options: Options,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let engine = Self {
            inner: Arc::new(Inner {
                store,
                wakeups,
                known: actions.known(),
                actions,
                secrets,
                options,
                life: Mutex::new(None),
                in_hand: AtomicUsize::new(0),
                hands: Mutex::default(),
                clock_offset_us: AtomicI64::new(0),
                poke: Notify::new(),
                plans: Mutex::new(BTreeMap::new()),
                definitions: Mutex::new(BTreeMap::new()),
                rests: Rests::default(),
                tasks: tasks.clone(),
            }),
        };
        tasks.spawn(executor::run(engine.clone(), stop.clone()));
        let gauge = gauge::run(engine.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(gauge));
        engine
    }

    fn life(&self) -> Option<Life> {
        self.inner
            .life
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_life(&self, life: Option<Life>) {
        *self
            .inner
            .life
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// The database's clock, as far as this process knows it.
    fn now(&self) -> Timestamp {
        Timestamp(Timestamp::now().0 + self.inner.clock_offset_us.load(Ordering::Relaxed))
    }

    fn room(&self) -> usize {
        let in_hand = self.inner.in_hand.load(Ordering::Relaxed);
        self.inner.options.running.saturating_sub(in_hand)
    }
}

// === impl Engine: sagas ===

impl Engine {
    /// One saga.
    ///
    /// # Errors
    /// [`Error::SagaNotFound`].
    pub async fn get(&self, id: &str) -> Result<SagaView, Error> {
        let row = self.inner.store.saga(id).await?;
        self.view(row.ok_or_else(|| Error::not_found(id))?).await
    }

    /// Sagas older than an id, newest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn list(
        &self,
        filter: SagaFilter,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<SagaView>, Error> {
        let wanted = SagaListFilter {
            states: filter.states.into_iter().map(stored::state_text).collect(),
            kinds: filter.kinds,
            labels: filter.labels,
            definition_name: filter.definition_name,
            definition_version: filter.definition_version.map(i64::from),
            deployment_id: filter.deployment_id,
        };
        let after = after.unwrap_or_default();
        let rows = self
            .inner
            .store
            .sagas(&wanted, &after, i64::from(limit))
            .await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            views.push(self.view(row).await?);
        }
        Ok(views)
    }

    /// What happened to a saga after an event's number.
    ///
    /// # Errors
    /// [`Error::SagaNotFound`].
    pub async fn events(
        &self,
        id: &str,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<SagaEventView>, Error> {
        let row = self.inner.store.saga(id).await?;
        let row = row.ok_or_else(|| Error::not_found(id))?;
        let steps = self.plan(&row.plan_hash).await?;
        let mut version = SagaEventView::version_of(after_seq);
        let mut events = Vec::new();
        // A transition may have no event that is asked for, so that rows are read until there are enough events, or no more rows.
        while events.len() < limit as usize {
            let rows = self
                .inner
                .store
                .saga_events(id, version, i64::from(limit) + 1)
                .await?;
            let Some(last) = rows.last() else {
                break;
            };
            version = last.version;
            for row in &rows {
                let of_row = SagaEventView::read(row, &steps)?;
                events.extend(of_row.into_iter().filter(|event| event.seq > after_seq));
            }
        }
        events.truncate(limit as usize);
        Ok(events)
    }

    /// Steers a saga.
    ///
    /// # Errors
    /// [`Error::SagaNotFound`]; [`Error::Refused`] if the verb does not fit the saga's state; [`Error::InvalidArgument`] for an output
    /// that is too large.
    pub async fn steer(
        &self,
        id: &str,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<SagaView, Error> {
        if let Verb::Skip { output, .. } = &verb {
            stored::check_document("output_json", output)?;
        }
        let row = self
            .apply(id, Event::Verb(verb), actor, reason)
            .await?
            .ok_or_else(|| Error::not_found(id))?;
        self.view(row).await
    }

    /// Applies an event to a saga that is not in this task's hand. `None` if there is no such saga.
    async fn apply(
        &self,
        id: &str,
        event: Event,
        actor: &str,
        reason: &str,
    ) -> Result<Option<SagaRow>, Error> {
        let Some(row) = self.inner.store.saga(id).await? else {
            return Ok(None);
        };
        let steps = self.plan(&row.plan_hash).await?;
        let mut effects = Vec::new();
        let steered = self
            .inner
            .store
            .steer_saga(id, |row| {
                let (write, to_do) = self.decide(row, &steps, event, actor, reason)?;
                effects = to_do;
                Ok::<_, Error>(write)
            })
            .await?;
        self.inner.wakeups.kick();
        match steered {
            Steered::Unknown => Ok(None),
            Steered::Refused(error) => Err(error),
            Steered::Moved(row) => {
                self.inner.rests.came(id, None);
                let own = self
                    .life()
                    .is_some_and(|life| life.executor.to_string() == row.owner);
                if own && effects.iter().any(hand::is_work) {
                    let (row, steps) = (row.clone(), Arc::clone(&steps));
                    self.carry_on(*row, steps, effects);
                } else {
                    self.inner.poke.notify_one();
                }
                Ok(Some(*row))
            }
        }
    }

    async fn view(&self, row: SagaRow) -> Result<SagaView, Error> {
        let steps = self.plan(&row.plan_hash).await?;
        SagaView::read(row, &steps)
    }

    fn carry_on(&self, row: SagaRow, steps: Arc<Vec<Step>>, effects: Vec<Effect>) {
        let engine = self.clone();
        self.inner.tasks.spawn(async move {
            match engine.load(&row, &steps).await {
                Ok(hand) => engine.carry_on_hand(hand, effects),
                // Nothing was sent: whoever takes it over treats the attempt as one of which nobody knows.
                Err(error) => tracing::error!(saga = row.id, %error, "a saga cannot be read"),
            }
        });
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Internal("a value that cannot be written"))
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}
