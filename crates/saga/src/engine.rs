//! The engine: definitions, starts, verbs, and the executor that carries sagas out.
//!
//! A saga in hand goes from step to step without a queue: its outcome and the next intent are one commit, shared with all other
//! sagas that commit at that moment, and only then is the next attempt sent. A saga that has to wait is given back to the
//! database with the time at which it may be taken, and costs no memory.

mod carry;
mod error;
mod executor;
mod gauge;
mod held;
mod rest;
mod stored;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use steadfast_store::{
    Lease, NewSaga, Request, SagaDefinitionRow, SagaFirst, SagaListFilter, SagaPlanRow, SagaRow,
    Steered, Store, Wakeups,
};
use steadfast_types::{ReplicaId, Timestamp};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use error::Error;
pub use stored::{
    DefinitionRef, SagaEventView, SagaFilter, SagaView, StartSaga, StoredDefinition, has_nul,
};

use crate::{
    Actions, Definition, Event, KnownActions, Saga, SecretSource, Step, Verb, check::check,
    machine::Effect,
};
use carry::{Disposition, InHand};
use rest::{Rest, Rests};

/// Inputs, context and each output take at most this many bytes.
pub const DOCUMENT_BYTES: usize = 64 << 10;
/// Labels of one saga at most.
pub const LABELS: usize = 32;
/// Bytes of a label's name or value, of a kind, a key or another name at most.
pub const NAME_BYTES: usize = 128;

/// How soon a saga is looked at again because other replicas committed something.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Plans held in memory, and definitions; few programs have more in use.
const PLANS: usize = 1_000;

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

/// What a definition's sagas are started with.
#[derive(Debug)]
struct Planned {
    /// Name and version.
    definition: (String, i64),
    /// Of the definition's document.
    hash: String,
    plan: SagaPlanRow,
    steps: Arc<Vec<Step>>,
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

// === impl Engine: definitions ===

impl Engine {
    /// The actions that definitions are checked against.
    #[must_use]
    pub fn known_actions(&self) -> KnownActions {
        self.inner.known.clone()
    }

    /// Checks a definition whole and, unless `validate_only`, stores it. The same again is a no-op.
    ///
    /// # Errors
    /// [`Error::DefinitionInvalid`] with every problem; [`Error::DefinitionExists`] if the name and version have another body.
    pub async fn create_definition(
        &self,
        definition: Definition,
        validate_only: bool,
    ) -> Result<StoredDefinition, Error> {
        let problems = check(&definition, &self.inner.known);
        if !problems.is_empty() {
            return Err(Error::DefinitionInvalid(problems));
        }
        let document = to_json(&definition)?;
        let hash = hash(&document);
        if validate_only {
            return Ok(StoredDefinition {
                definition,
                document,
                hash,
                create_time: self.now(),
            });
        }
        let (name, version) = (&definition.name, i64::from(definition.version));
        let stored = self
            .inner
            .store
            .put_saga_definition(name, version, &hash, &document)
            .await?;
        if stored.hash != hash {
            return Err(Error::DefinitionExists {
                name: definition.name,
                version: definition.version,
            });
        }
        StoredDefinition::read(stored)
    }

    /// One version of a definition, or its newest.
    ///
    /// # Errors
    /// [`Error::DefinitionNotFound`].
    pub async fn definition(
        &self,
        name: &str,
        version: Option<i32>,
    ) -> Result<StoredDefinition, Error> {
        let row = self.definition_row(name, version).await?;
        StoredDefinition::read(row)
    }

    /// Definitions after a name and version, by name and version.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn definitions(
        &self,
        after: Option<(String, i32)>,
        limit: u32,
    ) -> Result<Vec<StoredDefinition>, Error> {
        let (name, version) = after.unwrap_or_default();
        let rows = self
            .inner
            .store
            .saga_definitions((&name, i64::from(version)), i64::from(limit))
            .await?;
        rows.into_iter().map(StoredDefinition::read).collect()
    }
}

// === impl Engine: sagas ===

impl Engine {
    /// Starts a saga, and takes it in hand if there is room. True if the same request had started it before.
    ///
    /// # Errors
    /// As [`Engine::start_and_wait`].
    pub async fn start(
        &self,
        start: StartSaga,
        request: Option<Request>,
    ) -> Result<(SagaView, bool), Error> {
        self.start_and_wait(start, request, Duration::ZERO).await
    }

    /// Starts a saga, and returns once it has ended or needs a person, or as it is after `wait`.
    ///
    /// # Errors
    /// [`Error::DefinitionNotFound`], [`Error::DefinitionInvalid`] for inline steps, [`Error::InvalidArgument`],
    /// [`Error::RequestIdReused`].
    pub async fn start_and_wait(
        &self,
        start: StartSaga,
        request: Option<Request>,
        wait: Duration,
    ) -> Result<(SagaView, bool), Error> {
        let until = Instant::now() + wait;
        let (new, steps) = self.prepare(start, request).await?;
        // Before it can end.
        let rest = (!wait.is_zero()).then(|| self.inner.rests.wait_for(&new.row.id));
        let started = self.inner.store.start_saga(new).await?;
        self.inner.wakeups.kick();
        let replayed = started.replayed;
        if !replayed {
            self.take_started(&started.row, &steps);
        }
        let steps = if replayed {
            self.plan(&started.row.plan_hash).await?
        } else {
            steps
        };
        let view = SagaView::read(started.row, &steps)?;
        match rest {
            Some(rest) if !view.saga.state.rests() => {
                let rest = if replayed {
                    self.inner.rests.wait_for(&view.id)
                } else {
                    rest
                };
                Ok((self.at_rest(view, rest, until).await?, replayed))
            }
            _ => Ok((view, replayed)),
        }
    }

    /// The saga once it rests, or as it is at the end of the time.
    async fn at_rest(
        &self,
        started: SagaView,
        mut rest: Rest,
        until: Instant,
    ) -> Result<SagaView, Error> {
        let mut others = self.inner.wakeups.subscribe_to_others();
        let id = started.id.clone();
        loop {
            let look = Instant::now() + self.inner.options.poll_interval;
            tokio::select! {
                rested = rest.came() => {
                    if let Some(ended) = rested.and_then(|rested| rested.ended(&started)) {
                        return Ok(ended);
                    }
                }
                // It may be in another replica's hand.
                _ = others.changed() => tokio::time::sleep(LOOK_AGAIN).await,
                () = tokio::time::sleep_until(look.min(until)) => {}
            }
            let view = self.get(&id).await?;
            if view.saga.state.rests() || Instant::now() >= until {
                return Ok(view);
            }
            rest = self.inner.rests.wait_for(&id);
        }
    }

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
                if own && effects.iter().any(carry::is_work) {
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

    /// The steps of a plan, from memory or from the database.
    async fn plan(&self, hash: &str) -> Result<Arc<Vec<Step>>, Error> {
        if let Some(steps) = self.known_plan(hash) {
            return Ok(steps);
        }
        let rows = self.inner.store.saga_plans(&[hash]).await?;
        let row = rows
            .into_iter()
            .next()
            .ok_or(Error::Internal("a saga without a plan"))?;
        let steps: Vec<Step> = serde_json::from_str(&row.document)
            .map_err(|_| Error::Internal("a plan that cannot be read"))?;
        Ok(self.remember_plan(row.hash, steps))
    }

    async fn definition_row(
        &self,
        name: &str,
        version: Option<i32>,
    ) -> Result<SagaDefinitionRow, Error> {
        let store = &self.inner.store;
        let row = store.saga_definition(name, version.map(i64::from)).await?;
        row.ok_or_else(|| Error::DefinitionNotFound {
            name: name.to_owned(),
            version,
        })
    }

    /// What sagas of a definition are started with. A version that was read before is not read again, as it never changes; after
    /// the database was restored this replica gets another life, and forgets.
    async fn planned(&self, name: &str, version: Option<i32>) -> Result<Arc<Planned>, Error> {
        let known = |version| {
            let definitions = &self.inner.definitions;
            let definitions = definitions.lock().unwrap_or_else(PoisonError::into_inner);
            definitions.get(&(name.to_owned(), version)).cloned()
        };
        if let Some(planned) = version.and_then(|version| known(i64::from(version))) {
            return Ok(planned);
        }
        let row = self.definition_row(name, version).await?;
        if let Some(planned) = known(row.version).filter(|planned| planned.hash == row.hash) {
            return Ok(planned);
        }
        let (definition, hash) = ((row.name.clone(), row.version), row.hash.clone());
        let steps = StoredDefinition::read(row)?.definition.steps;
        let plan = plan_row(&steps)?;
        let planned = Arc::new(Planned {
            definition: definition.clone(),
            hash,
            steps: self.keep_plan(&plan.hash, steps),
            plan,
        });
        let definitions = &self.inner.definitions;
        let mut definitions = definitions.lock().unwrap_or_else(PoisonError::into_inner);
        if definitions.len() >= PLANS {
            definitions.pop_first();
        }
        definitions.insert(definition, Arc::clone(&planned));
        Ok(planned)
    }

    fn forget_definitions(&self) {
        let definitions = &self.inner.definitions;
        definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn keep_plan(&self, hash: &str, steps: Vec<Step>) -> Arc<Vec<Step>> {
        match self.known_plan(hash) {
            Some(steps) => steps,
            None => self.remember_plan(hash.to_owned(), steps),
        }
    }

    fn known_plan(&self, hash: &str) -> Option<Arc<Vec<Step>>> {
        let plans = self
            .inner
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plans.get(hash).cloned()
    }

    fn remember_plan(&self, hash: String, steps: Vec<Step>) -> Arc<Vec<Step>> {
        let steps = Arc::new(steps);
        let mut plans = self
            .inner
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS {
            plans.pop_first();
        }
        plans.insert(hash, Arc::clone(&steps));
        steps
    }

    /// Everything about a start that can be said before the database is asked.
    async fn prepare(
        &self,
        start: StartSaga,
        request: Option<Request>,
    ) -> Result<(NewSaga, Arc<Vec<Step>>), Error> {
        start.check()?;
        let (name, version, plan, steps) = match start.definition {
            DefinitionRef::Named { ref name, version } => {
                let planned = self.planned(name, version).await?;
                let (name, version) = planned.definition.clone();
                (
                    name,
                    version,
                    planned.plan.clone(),
                    Arc::clone(&planned.steps),
                )
            }
            DefinitionRef::Inline(ref steps) => {
                let definition = Definition {
                    name: "inline".to_owned(),
                    version: 1,
                    steps: steps.clone(),
                };
                let problems = check(&definition, &self.inner.known);
                if !problems.is_empty() {
                    return Err(Error::DefinitionInvalid(problems));
                }
                let plan = plan_row(&definition.steps)?;
                let steps = self.keep_plan(&plan.hash, definition.steps);
                (String::new(), 0, plan, steps)
            }
        };
        let saga = Saga::new(steps.len());
        let waiting = SagaFirst {
            owner: String::new(),
            wake_us: None,
            state: stored::state_text(saga.state),
            machine: to_json(&saga)?,
            records: stored::records_text(&[], &BTreeMap::new(), None)?,
        };
        let life = self.life().filter(|_| self.room() > 0);
        let now = self.now();
        let knows = steps
            .first()
            .is_some_and(|step| self.inner.actions.has(&step.action));
        let free = match life.filter(|_| knows) {
            Some(life) => {
                let transition =
                    saga.apply(&steps, &self.inner.known, Event::Begin, now, rand::random())?;
                let executor = life.executor.to_string();
                let disposition = Disposition::of(&transition, &steps, &executor, false, now);
                SagaFirst {
                    owner: disposition.owner,
                    wake_us: disposition.wake_us,
                    state: stored::state_text(transition.saga.state),
                    machine: to_json(&transition.saga)?,
                    records: stored::records_text(&transition.records, &BTreeMap::new(), None)?,
                }
            }
            None => SagaFirst {
                wake_us: Some(0),
                ..waiting.clone()
            },
        };
        let row = start.into_row(
            Uuid::now_v7().to_string(),
            (name, version),
            plan.hash.clone(),
            request,
        )?;
        let new = NewSaga {
            plan,
            row,
            free,
            waiting,
        };
        Ok((new, steps))
    }

    /// Carries a saga on that was started in this replica's hand.
    fn take_started(&self, row: &SagaRow, steps: &Arc<Vec<Step>>) {
        let own = self
            .life()
            .is_some_and(|life| life.executor.to_string() == row.owner);
        if !own {
            self.inner.poke.notify_one();
            return;
        }
        match InHand::read(row, steps) {
            Ok(hand) => {
                let effects = hand.effects_of_running();
                self.carry_on_hand(hand, effects);
            }
            Err(error) => {
                tracing::error!(saga = row.id, %error, "a saga that was just started cannot be read")
            }
        }
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

fn hash(document: &str) -> String {
    hex::encode(Sha256::digest(document.as_bytes()))
}

fn plan_row(steps: &[Step]) -> Result<SagaPlanRow, Error> {
    let document = to_json(&steps)?;
    Ok(SagaPlanRow {
        hash: hash(&document),
        document,
    })
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
