//! The writer: what a replica knows of its streams, into the database, many at a time.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use steadfast_store::{Beat, Engine, NodeName, NodeWanted, NodeWrite};
use steadfast_types::{Backoff, Cursor};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{NodeError, Nodes, Report, Shared};
use crate::metric;

/// Between two writes while somebody waits, here or elsewhere: reports that follow each other become one statement.
const WAITED_FOR: Duration = Duration::from_millis(5);

/// Between two writes while nobody does, and whoever begins to can say so.
const AT_LEISURE: Duration = Duration::from_millis(500);

/// The same where nobody could say so: other replicas find it by polling.
const UNHEARD: Duration = Duration::from_millis(100);

/// How often it is made sure that what is registered is what is open.
const COMPARE: Duration = Duration::from_secs(30);

/// How long a report is passed on to the replica that serves the node's stream.
const PASSED_ON: Duration = Duration::from_secs(5);

/// When what is due.
struct Plan {
    /// The last write.
    last: Instant,
    /// The next sign of life.
    beat: Instant,
    /// The next comparison with what is registered.
    compare: Instant,
    /// After a failure, when to try again.
    not_before: Instant,
    /// Somebody elsewhere wants to know how far streams were sent.
    sent_wanted: bool,
    /// There is something to write.
    pending: bool,
}

/// Writes until the process ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut news = shared.wakeups.subscribe_to_nodes();
    let mut heard = *news.borrow_and_update();
    let mut position = shared.hub.position();
    let mut follower = shared.follower.clone();
    let mut epoch = position.borrow().epoch;
    let mut lagging_since = None;
    let mut waits = Backoff::RECONNECT.waits();
    let now = Instant::now();
    let mut plan = Plan {
        last: now,
        beat: now + shared.options.lease / 3,
        compare: now + COMPARE,
        not_before: now,
        sent_wanted: false,
        pending: false,
    };
    loop {
        let at = plan.next(&shared);
        tokio::select! {
            biased;
            () = sleep_until(at) => {
                let beats = Instant::now() >= plan.beat;
                match plan.carry_out(&shared, beats).await {
                    Ok(()) => {
                        waits = Backoff::RECONNECT.waits();
                        if beats {
                            shared.measure(&mut lagging_since).await;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "cannot write down what nodes have applied"
                        );
                        let wait = waits.next().unwrap_or(Backoff::RECONNECT.maximum);
                        plan.put_off(Instant::now() + wait);
                    }
                }
            }
            () = shared.work.notified() => plan.pending = true,
            changed = news.changed() => {
                if changed.is_err() {
                    return;
                }
                let before = std::mem::replace(&mut heard, *news.borrow_and_update());
                let sent_wanted = before.asked_for_sent != heard.asked_for_sent;
                if before.asked != heard.asked || sent_wanted {
                    shared.believe_asked();
                    plan.sent_wanted |= sent_wanted;
                    plan.pending = true;
                }
            }
            changed = position.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = position.borrow_and_update().epoch;
                // Who watches is not in a database that was restored.
                if std::mem::replace(&mut epoch, now) != now {
                    plan.compare = Instant::now();
                    plan.beat = Instant::now();
                }
                // This replica's memory is at a new revision, and somebody waits for that.
                plan.pending |= shared.is_urgent();
            }
            () = moved(&mut follower) => plan.pending |= shared.is_urgent(),
        }
    }
}

/// Waits until lookups are at another revision.
async fn moved(follower: &mut Option<watch::Receiver<Cursor>>) {
    let is_there = match follower {
        Some(follower) => follower.changed().await.is_ok(),
        None => false,
    };
    if !is_there {
        std::future::pending::<()>().await;
    }
}

// === impl Plan ===

impl Plan {
    /// When to write next.
    fn next(&self, shared: &Shared) -> Instant {
        if !self.pending {
            return self.beat.max(self.not_before);
        }
        let is_heard = shared.store.engine() == Engine::Sqlite || shared.wakeups.is_listening();
        let pause = match (shared.is_urgent(), is_heard) {
            (true, _) => WAITED_FOR,
            (false, true) => AT_LEISURE,
            (false, false) => UNHEARD,
        };
        self.beat.min(self.last + pause).max(self.not_before)
    }

    async fn carry_out(&mut self, shared: &Arc<Shared>, beats: bool) -> Result<(), NodeError> {
        self.last = Instant::now();
        self.pending = false;
        let sent = beats || self.sent_wanted;
        if beats && self.last >= self.compare {
            shared.compare().await?;
            self.compare = Instant::now() + COMPARE;
        }
        if beats || shared.is_urgent() {
            shared.write_all(sent).await?;
        } else {
            let _writing = shared.writing.lock().await;
            shared.write_seats(sent).await?;
            shared.written.send_modify(|count| *count += 1);
        }
        self.sent_wanted = false;
        if beats {
            self.beat = Instant::now() + shared.options.lease / 3;
        }
        if shared.is_asked() {
            shared.wakeups.tell_about_nodes();
        }
        Ok(())
    }

    /// Tries again later, all of it.
    fn put_off(&mut self, until: Instant) {
        self.not_before = until;
        self.beat = until;
        self.compare = until;
    }
}

// === impl Shared ===

impl Shared {
    /// Gives a sign of life; `is_flush` if how far streams were sent was just written down.
    pub(super) async fn beat(&self, is_flush: bool) -> Result<(), steadfast_store::Error> {
        let beat = Beat {
            replica: self.replica,
            lease: self.options.lease,
            applied: self.own_position(),
            is_flush,
        };
        let now_us = self.store.beat_node(beat).await?;
        self.clock.set(now_us);
        Ok(())
    }

    /// Writes down everything that is known here, in a few statements, one after the other: what is older must not be written later.
    pub(super) async fn write_all(self: &Arc<Self>, sent: bool) -> Result<(), NodeError> {
        let _writing = self.writing.lock().await;
        self.write_seats(sent).await?;
        self.beat(sent).await?;
        self.written.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The same for a caller who may leave: what was taken to be written down must not be lost with it.
    pub(super) async fn write_apart(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let written = tokio::spawn(async move { shared.write_all(false).await }).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "cannot write down what nodes have applied"
            );
        }
    }

    /// Writes down what has become of streams; with `sent`, also of those of which only that they were sent more is new.
    pub(super) async fn write_seats(
        self: &Arc<Self>,
        sent: bool,
    ) -> Result<(), steadfast_store::Error> {
        let mut seats = {
            let mut unwritten = self
                .unwritten
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *unwritten)
        };
        if sent {
            let ahead = self.all_seats().into_iter().filter(|seat| seat.is_ahead());
            seats.extend(ahead.filter(|seat| seat.mark_queued()));
        }
        if seats.is_empty() {
            return Ok(());
        }
        let writes: Vec<NodeWrite> = seats.iter().map(|seat| seat.take()).collect();
        match self.store.write_nodes(&writes, self.options.lease).await {
            Ok(written) => {
                metrics::counter!(metric::NODE_WRITES).increment(written.statements);
                metrics::counter!(metric::NODE_ROWS_WRITTEN).increment(writes.len() as u64);
                for (seat, write) in seats.iter().zip(writes) {
                    let is_own = written.streams.contains(&write.stream);
                    if write.ended || !is_own {
                        self.unseat(seat);
                    }
                    if !is_own && write.applied.is_some() {
                        self.pass_on(write);
                    }
                }
                Ok(())
            }
            Err(error) => {
                for (seat, write) in seats.iter().zip(writes) {
                    seat.give_back(write);
                    self.queue(seat);
                }
                Err(error)
            }
        }
    }

    /// The node has another stream by now: what it reported here is for the replica that serves that one to prove.
    fn pass_on(self: &Arc<Self>, write: NodeWrite) {
        let nodes = Nodes {
            shared: Arc::clone(self),
        };
        let report = Report {
            name: write.name,
            cursor: write.applied,
            error: write.error.unwrap_or_default(),
        };
        tokio::spawn(async move {
            let deadline = Instant::now() + PASSED_ON;
            if let Err(error) = nodes.report_elsewhere(report, deadline).await {
                // It was told that its report counts: the next one will.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a report for another replica was not taken there"
                );
            }
        });
    }

    /// Makes sure that what is registered as served here is what is open here: after an answer that was lost, or a restore.
    async fn compare(self: &Arc<Self>) -> Result<(), NodeError> {
        let registered = self.store.own_nodes(self.replica).await?;
        let mut registered: HashMap<NodeName, String> = registered.into_iter().collect();
        for seat in self.all_seats() {
            let is_there = registered.remove(&seat.name).as_deref() == Some(&seat.stream);
            if is_there || seat.has_ended() {
                continue;
            }
            let (labels, opened_us) = seat.kept();
            let node = self.new_node(&seat, labels, opened_us);
            match self.register(node).await {
                Ok(()) => {}
                // Another replica serves it by now.
                Err(NodeError::Taken) => self.unseat(&seat),
                Err(error) => return Err(error),
            }
        }
        let ghosts: Vec<NodeWrite> = registered
            .into_iter()
            .filter(|(name, stream)| {
                // One that is about to be open is still here or already there.
                !self.is_opening(stream)
                    && self.seat(name).is_none_or(|seat| seat.stream != *stream)
            })
            .map(|(name, stream)| ghost(name, stream))
            .collect();
        self.store.write_nodes(&ghosts, self.options.lease).await?;
        Ok(())
    }

    /// Counts the nodes of the fleet: those that live, and those that have not applied what this replica had at its last sign of life.
    async fn measure(&self, before: &mut Option<Cursor>) {
        let position = self.own_position();
        if let Some(before) = before.replace(position)
            && let Ok(tally) = self.tally(before.revision, &NodeWanted::default()).await
        {
            metrics::gauge!(metric::NODES_LIVE).set(tally.live as f64);
            metrics::gauge!(metric::NODES_LAGGING).set((tally.live - tally.level) as f64);
        }
    }
}

/// A stream that is registered, and of which nothing is known here: it has ended.
fn ghost(name: NodeName, stream: String) -> NodeWrite {
    NodeWrite {
        name,
        stream,
        sent: Cursor::default(),
        applied: None,
        error: None,
        seen: false,
        ended: true,
    }
}
