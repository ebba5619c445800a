//! The executor: one lease per life, free sagas taken in batches, lost replicas' sagas taken over, deadlines kept, ended sagas
//! forgotten.
//!
//! A life has an identity of its own and a lease named after it; every transition locks that lease's row. Whoever takes over the
//! sagas of a lost life claims its lease first, so that a process which was only asleep can commit nothing any more.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use steadfast_store::{Error as StoreError, Lease, SagaRow};
use steadfast_types::{Backoff, ReplicaId, Timestamp};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, Life, hand::InHand, stored};
use crate::{Event, Step, metric};

/// Before an executor's id, the name of its lease.
const LEASE_PREFIX: &str = "saga/";
/// The lease of what one replica does for all: forgetting.
const PRUNE_LEASE: &str = "saga-retention";
/// Sagas taken at a time.
const BATCH: i64 = 256;
/// Sagas of a lost replica held in memory before any of them goes on.
const TAKEN: usize = 10_000;
/// Overdue sagas dealt with at a time.
const OVERDUE: i64 = 100;
/// The shortest pause between two looks, however many wake-ups there are.
const BREATH: Duration = Duration::from_millis(5);
/// How long the lease of an executor that is gone stays in the database after it has run out.
const LEASES_KEPT: Duration = Duration::from_secs(3_600);

/// What was looked for at intervals.
#[derive(Default)]
struct Swept {
    at: Option<Instant>,
    searched: Option<Instant>,
    /// Sagas that nobody had in hand at the last search, and how many transitions they had made.
    missing: HashMap<String, i64>,
}

/// Lives, one after another, until `stop`.
pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    let mut waits = Backoff::RECONNECT.waits();
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let executor = ReplicaId::random();
        let duration = engine.inner.options.lease_duration;
        let claimed = engine
            .inner
            .store
            .claim_lease(&format!("{LEASE_PREFIX}{executor}"), executor, duration)
            .await;
        match claimed {
            Ok(Some(lease)) => {
                waits = Backoff::RECONNECT.waits();
                live(&engine, executor, (lease, asked), &stop).await;
            }
            Ok(None) => tracing::error!("a lease that nobody can know of is taken"),
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the saga executor has no lease yet"
            ),
        }
        let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
        let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

/// `since`: when the lease was asked for.
async fn live(
    engine: &Engine,
    executor: ReplicaId,
    (lease, since): (Lease, Instant),
    stop: &CancellationToken,
) {
    let ended = CancellationToken::new();
    engine.forget_definitions();
    let (covering, covered) = watch::channel(since + lease.duration);
    let life = Life {
        executor,
        lease: lease.clone(),
        covered,
        ended: ended.clone(),
    };
    engine.set_life(Some(life.clone()));
    let lost = tokio::select! {
        () = keep(engine, &lease, &covering) => true,
        // A transition was refused.
        () = ended.cancelled() => true,
        () = work(engine, &life) => false,
        () = retention(engine, executor) => false,
        () = stop.cancelled() => false,
    };
    if lost {
        tracing::warn!("the saga executor lost its lease; what it had in hand is taken over");
    }
    engine.set_life(None);
    ended.cancel();
    // Others need not wait for it to run out. What was running counts as lost: nobody knows what became of it.
    if let Err(error) = engine.inner.store.release_lease(&lease).await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the saga executor's lease runs out by itself"
        );
    }
}

/// Prolongs the lease until it is lost, or may be.
async fn keep(engine: &Engine, lease: &Lease, covering: &watch::Sender<Instant>) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(lease.duration / 3).await;
        let asked = Instant::now();
        match engine.inner.store.renew_lease(lease).await {
            Ok(()) => {
                renewed = asked;
                covering.send_replace(asked + lease.duration);
            }
            Err(StoreError::Fenced { .. }) => return,
            Err(_) if renewed.elapsed() >= lease.duration => return,
            Err(_) => {}
        }
    }
}

/// Takes what can be taken, for as long as the life lasts.
async fn work(engine: &Engine, life: &Life) {
    let mut woken = engine.inner.wakeups.subscribe_to_others();
    let mut swept = Swept::default();
    loop {
        let sleep = match look(engine, life, &mut swept).await {
            Ok(sleep) => sleep,
            Err(Error::Store(StoreError::Fenced { .. })) => {
                life.ended.cancel();
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look for sagas");
                engine.inner.options.poll_interval
            }
        };
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = engine.inner.poke.notified() => {}
            // Other replicas may have given sagas back; what this one gives back, it pokes for.
            _ = woken.changed(), if engine.room() > 0 => {}
        }
    }
}

/// One look; returns how long there is nothing to do.
async fn look(engine: &Engine, life: &Life, swept: &mut Swept) -> Result<Duration, Error> {
    let poll = engine.inner.options.poll_interval;
    if swept.at.is_none_or(|at| at.elapsed() >= poll) {
        take_over(engine, life).await?;
        overdue(engine).await?;
        swept.at = Some(Instant::now());
    }
    let pause = engine.inner.options.lease_duration / 2;
    if swept.searched.is_none_or(|at| at.elapsed() >= pause) {
        search(engine, life, &mut swept.missing).await?;
        swept.searched = Some(Instant::now());
    }
    let store = &engine.inner.store;
    loop {
        let (now, wake) = store.next_saga_wake().await?;
        engine
            .inner
            .clock_offset_us
            .store(now.0 - Timestamp::now().0, Ordering::Relaxed);
        match wake {
            None => return Ok(poll),
            Some(wake) if wake > now => return Ok(poll.min(wake.since(now))),
            Some(_) => {}
        }
        let room = i64::try_from(engine.room()).unwrap_or(i64::MAX).min(BATCH);
        if room == 0 {
            return Ok(poll);
        }
        let claimed = store.claim_sagas(&life.lease, life.executor, room).await?;
        if claimed.is_empty() {
            return Ok(BREATH);
        }
        take(engine, &claimed, false).await?;
    }
}

/// Carries claimed sagas on; `lost` if they were in the hand of a replica that is gone.
async fn take(engine: &Engine, rows: &[SagaRow], lost: bool) -> Result<(), Error> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let histories = engine.inner.store.saga_histories(&ids).await?;
    for row in rows {
        let taken = match engine.plan(&row.plan_hash).await {
            Ok(steps) => read(row, &steps, &histories),
            Err(error) => Err(error),
        };
        match taken {
            // One that cannot be read never stops the others. It is found again by `search`.
            Err(error) => tracing::error!(saga = row.id, %error, "a saga cannot be carried on"),
            Ok(hand) => take_one(engine, row, hand, lost).await,
        }
    }
    Ok(())
}

/// Finds sagas that this life has by the database's word and that nobody carries: the answer to the start, the claim or the verb
/// that gave them to it was lost, or its caller went away. Twice at the same place, because a commit is known here a little
/// later than there.
async fn search(
    engine: &Engine,
    life: &Life,
    missing: &mut HashMap<String, i64>,
) -> Result<(), Error> {
    let store = &engine.inner.store;
    let own = store.sagas_in_hand(life.executor).await?;
    let found: HashMap<_, _> = own
        .into_iter()
        .filter(|(id, _)| engine.hands(id) == 0)
        .collect();
    let before = std::mem::replace(missing, found.clone());
    for (id, version) in found {
        if before.get(&id) != Some(&version) {
            continue;
        }
        let Some(row) = store.saga(&id).await? else {
            continue;
        };
        let executor = life.executor.to_string();
        if row.owner != executor || row.version != version || engine.hands(&id) > 0 {
            continue;
        }
        tracing::info!(saga = id, "took up a saga that nobody had in hand");
        take(engine, &[row], true).await?;
    }
    Ok(())
}

fn read(
    row: &SagaRow,
    steps: &Arc<Vec<Step>>,
    histories: &[steadfast_store::SagaEventRow],
) -> Result<InHand, Error> {
    let mut hand = InHand::read(row, steps)?;
    let start = histories.partition_point(|event| event.saga_id < row.id);
    let own = histories[start..]
        .iter()
        .take_while(|event| event.saga_id == row.id);
    stored::restore_outputs(&mut hand.saga, own)?;
    Ok(hand)
}

async fn take_one(engine: &Engine, row: &SagaRow, hand: InHand, lost: bool) {
    let is_over = row.crashes > engine.inner.options.crashes;
    let event = if hand.saga.state.has_ended() {
        // Only its concurrency key was kept until now.
        engine.let_go(row).await;
        None
    } else if is_over {
        Some(Event::Poisoned)
    } else if lost {
        hand.event_when_lost()
    } else {
        hand.event_when_claimed()
    };
    match event {
        // The machine would let it wait, and record that each time.
        Some(Event::Begin | Event::Due)
            if hand
                .needs()
                .is_some_and(|action| !engine.inner.known.has(action)) =>
        {
            engine.pass_on(row).await;
        }
        Some(event) => engine.carry_on_event(hand, event),
        None if hand.saga.state.has_ended() => {}
        None => {
            // Paused or stuck: nobody needs to have it.
            engine.let_go(row).await;
        }
    }
}

/// Takes over what lost replicas had in hand.
async fn take_over(engine: &Engine, life: &Life) -> Result<(), Error> {
    let store = &engine.inner.store;
    for (dead, crashed) in store.dead_saga_owners(LEASE_PREFIX, life.executor).await? {
        let name = format!("{LEASE_PREFIX}{dead}");
        // Nothing that it still sends can be committed after this.
        let Some(claimed) = store
            .claim_lease(&name, life.executor, life.lease.duration)
            .await?
        else {
            continue;
        };
        loop {
            // Those that came first would keep the database from handing over the others: all are taken before any goes on.
            let mut taken = Vec::new();
            while taken.len() < TAKEN {
                let more = store
                    .take_over_sagas(&life.lease, life.executor, (&dead, crashed), BATCH)
                    .await?;
                if more.is_empty() {
                    break;
                }
                taken.extend(more);
            }
            if taken.is_empty() {
                break;
            }
            metrics::counter!(metric::TAKEN_OVER).increment(taken.len() as u64);
            tracing::info!(
                from = dead,
                sagas = taken.len(),
                "took over from a lost replica"
            );
            for some in taken.chunks(BATCH as usize) {
                take(engine, some, true).await?;
            }
        }
        store.release_lease(&claimed).await?;
    }
    Ok(())
}

/// Tells sagas that their deadline has come.
async fn overdue(engine: &Engine) -> Result<(), Error> {
    for id in engine.inner.store.overdue_sagas(OVERDUE).await? {
        match engine
            .apply(
                &id,
                Event::Deadline,
                "system:deadline",
                "its deadline passed",
            )
            .await
        {
            Ok(_) | Err(Error::Refused(_)) => {}
            Err(error @ Error::Store(_)) => return Err(error),
            // One that cannot be read never stops the others.
            Err(error) => tracing::error!(saga = id, %error, "a deadline cannot be kept"),
        }
    }
    Ok(())
}

/// Forgets ended sagas and leases of lost executors; one replica does it for all.
async fn retention(engine: &Engine, executor: ReplicaId) {
    loop {
        tokio::time::sleep(engine.inner.options.retention_interval).await;
        if let Err(error) = forget(engine, executor).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "ended sagas were not forgotten; it is tried again later"
            );
        }
    }
}

async fn forget(engine: &Engine, executor: ReplicaId) -> Result<(), StoreError> {
    let (store, options) = (&engine.inner.store, &engine.inner.options);
    let Some(lease) = store
        .claim_lease(PRUNE_LEASE, executor, options.lease_duration)
        .await?
    else {
        return Ok(());
    };
    for (state, age) in [
        ("completed", options.keep_completed),
        ("compensated", options.keep_others),
        ("abandoned", options.keep_others),
    ] {
        while store.prune_sagas(state, age).await? > 0 {
            store.renew_lease(&lease).await?;
        }
    }
    while store.prune_saga_leases(LEASE_PREFIX, LEASES_KEPT).await? > 0 {
        store.renew_lease(&lease).await?;
    }
    store.release_lease(&lease).await
}
