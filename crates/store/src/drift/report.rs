//! Reports of what is there, in batches: one transaction for all calls that arrive together, and a revision for each that changes
//! something.
//!
//! Most reports repeat what is known. Such a one writes no row of its own: its call leaves one row with the numbers of all resources
//! that it named (see `seen`). Only if what is known does not count for the spec as applied, because it was observed before or within
//! an inventory that failed, does the time move, without a revision, and the resource is due.
//!
//! Where two calls of one batch name a resource, the newer observation wins.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::Serialize;
use sqlx::FromRow;
use steadfast_types::Mark;
use uuid::Uuid;

use super::{
    ResourceName, count,
    due::{self, Due},
    event::{self, NewEvent},
    json,
    record::{Wanted, place},
    resource, seen,
};
use crate::{
    Change, Engine, Error, Store,
    engine::{Db, Tx, statements},
    lease::micros,
    log::{self, NewEntry},
    pipeline::Kind,
};

statements! {
    /// An inventory that does not end before the transaction does.
    INVENTORY = "drift_report_inventory" => [
        "SELECT i.key, i.provider, i.types, i.state, i.start_us FROM drift_inventory i WHERE i.id = $1" for_share
    ];
    /// What is known of each.
    READ = "drift_report_read" => [
        postgres {
            "SELECT e.ord, r.key, r.writes, r.recorded, r.applied_us, l.version, l.observed_us, l.missed_us, l.misses, l.inventory, \
                    l.attributes = '' AS blank, l.digest = e.digest AND l.transition = e.transition AS same, \
                    (SELECT i.state FROM drift_inventory i WHERE i.key = l.inventory) AS inventory_state \
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) \
                 AS e(ord, provider, type, id, digest, transition) \
             CROSS JOIN LATERAL (SELECT * FROM drift_resource r WHERE r.provider = e.provider COLLATE \"C\" \
                 AND r.type = e.type COLLATE \"C\" AND r.id = e.id COLLATE \"C\" LIMIT 1) r \
             LEFT JOIN LATERAL (SELECT * FROM drift_live l WHERE l.key = r.key LIMIT 1) l ON true"
        }
        sqlite {
            "SELECT e.value ->> 'ord' AS ord, r.key, r.writes, r.recorded, r.applied_us, l.version, l.observed_us, l.missed_us, l.misses, \
                    l.inventory, l.attributes = '' AS blank, \
                    l.digest = e.value ->> 'digest' AND l.transition = e.value ->> 'transition' AS same, \
                    (SELECT i.state FROM drift_inventory i WHERE i.key = l.inventory) AS inventory_state \
             FROM json_each($1) e CROSS JOIN drift_resource r ON r.provider = e.value ->> 'provider' \
                 AND r.type = e.value ->> 'kind' AND r.id = e.value ->> 'id' \
             LEFT JOIN drift_live l ON l.key = r.key"
        }
    ];
    /// Inventories of a provider that began after a time, and have not failed.
    LATER = "drift_report_later" => [
        "SELECT i.key, i.start_us FROM drift_inventory i WHERE i.provider = $1 AND i.start_us > $2 AND i.state <> 'failed'"
    ];
    /// Writes what is new, unless something newer was written meanwhile.
    WRITE = "drift_report_write" => [
        postgres {
            "INSERT INTO drift_live (key, version, observed_us, inventory, misses, missed_us, transition, digest, attributes) \
             SELECT e.key, 1, e.observed_us, e.inventory, e.misses, 0, e.transition, e.digest, e.attributes \
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[]) \
                 AS e(key, observed_us, inventory, misses, transition, digest, attributes) ORDER BY e.key \
             ON CONFLICT (key) DO UPDATE SET version = drift_live.version + 1, observed_us = excluded.observed_us, \
                 inventory = excluded.inventory, misses = excluded.misses, missed_us = 0, \
                 transition = excluded.transition, digest = excluded.digest, attributes = excluded.attributes \
             WHERE drift_live.observed_us <= excluded.observed_us RETURNING key, version"
        }
        sqlite {
            "INSERT INTO drift_live (key, version, observed_us, inventory, misses, missed_us, transition, digest, attributes) \
             SELECT e.value ->> 'key', 1, e.value ->> 'observed_us', e.value ->> 'inventory', e.value ->> 'misses', 0, \
                    e.value ->> 'transition', e.value ->> 'digest', e.value ->> 'attributes' FROM json_each($1) e WHERE true \
             ON CONFLICT (key) DO UPDATE SET version = drift_live.version + 1, observed_us = excluded.observed_us, \
                 inventory = excluded.inventory, misses = excluded.misses, missed_us = 0, \
                 transition = excluded.transition, digest = excluded.digest, attributes = excluded.attributes \
             WHERE drift_live.observed_us <= excluded.observed_us RETURNING key, version"
        }
    ];
    /// Moves the time of what is as it was.
    TOUCH = "drift_report_touch" => [
        postgres {
            "UPDATE drift_live l SET observed_us = e.observed_us, inventory = e.inventory \
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e(key, observed_us, inventory) \
             WHERE l.key = e.key AND l.key = ANY ($1::bigint[]) AND l.observed_us <= e.observed_us"
        }
        sqlite {
            "UPDATE drift_live SET observed_us = e.value ->> 'observed_us', inventory = e.value ->> 'inventory' \
             FROM json_each($1) e WHERE drift_live.key = e.value ->> 'key' AND drift_live.observed_us <= e.value ->> 'observed_us'"
        }
    ];
}

/// What a provider says of one resource. Sizes are checked by the caller, and that there are no NUL characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Of which.
    pub name: ResourceName,
    /// JSON; empty if it is gone.
    pub attributes: String,
    /// Equal for attributes that mean the same: a report of such is one that repeats what is known.
    pub digest: String,
    /// What the provider calls the change that is under way; empty for none.
    pub transition: String,
    /// There is no such resource.
    pub gone: bool,
    /// How old it is; for a report that belongs to no inventory.
    pub age: std::time::Duration,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReports {
    /// The id of the inventory that it belongs to.
    pub inventory: Option<String>,
    /// What is reported.
    pub observed: Vec<Observed>,
}

/// What became of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    /// Nobody had reported the resource before.
    First,
    /// Something in it is new.
    Changed,
    /// It repeats what is known.
    Unchanged,
    /// Something newer is known, or was reported in the same call or at the same time.
    Outdated,
    /// The inventory does not cover it.
    OutOfScope,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// One outcome for each report, in their order.
    Done(Vec<ReportOutcome>),
    /// There is no such inventory.
    UnknownInventory,
    /// The inventory has ended.
    InventoryEnded,
}

/// A call on its way through the pipeline.
pub(crate) struct PendingReports {
    write_id: String,
    /// When it was received, by the database's clock; for a call that belongs to no inventory.
    received_us: i64,
    reports: NewReports,
}

/// Commits batches of reports.
pub(crate) struct Reports {
    pub(crate) db: Db,
}

#[derive(FromRow)]
struct InventoryRow {
    key: i64,
    provider: String,
    types: String,
    state: String,
    start_us: i64,
}

#[derive(Serialize)]
struct Asked<'a> {
    ord: i64,
    provider: &'a str,
    kind: &'a str,
    id: &'a str,
    digest: &'a str,
    transition: &'a str,
}

#[derive(FromRow)]
struct KnownRow {
    ord: i64,
    key: i64,
    writes: i64,
    recorded: bool,
    applied_us: Option<i64>,
    version: Option<i64>,
    observed_us: Option<i64>,
    missed_us: Option<i64>,
    misses: Option<i64>,
    inventory: Option<i64>,
    blank: Option<bool>,
    same: Option<bool>,
    inventory_state: Option<String>,
}

#[derive(FromRow)]
struct LaterRow {
    key: i64,
    start_us: i64,
}

#[derive(Serialize)]
struct Write<'a> {
    key: i64,
    observed_us: i64,
    inventory: i64,
    misses: i64,
    transition: &'a str,
    digest: &'a str,
    attributes: &'a str,
}

#[derive(FromRow)]
struct WrittenRow {
    key: i64,
    version: i64,
}

/// One report of a batch.
struct Item<'a> {
    call: usize,
    observed: &'a Observed,
    observed_us: i64,
    /// 0 for none.
    inventory: i64,
    key: Option<i64>,
    outcome: Option<ReportOutcome>,
}

/// What is to be done with an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Write(ReportOutcome),
    Touch,
    Nothing(ReportOutcome),
}

impl Store {
    /// Commits what a call reports, together with whatever else is being reported.
    ///
    /// # Errors
    /// [`Error::Overloaded`], or if the database does not answer.
    pub async fn report_resources(&self, reports: NewReports) -> Result<Reported, Error> {
        let received_us = match reports.inventory {
            Some(_) => 0,
            None => self.database_time().await?,
        };
        let pending = PendingReports {
            write_id: Uuid::now_v7().to_string(),
            received_us,
            reports,
        };
        self.drift_reports().submit(pending).await
    }
}

// === impl Reports ===

impl Kind for Reports {
    type Input = PendingReports;
    type Output = Reported;

    const NAME: &'static str = "drift_report";

    fn conflict_key(_: &PendingReports) -> Option<String> {
        None
    }

    fn size(input: &PendingReports) -> usize {
        let size = |observed: &Observed| observed.attributes.len() + 256;
        input.reports.observed.iter().map(size).sum()
    }

    async fn commit(
        &self,
        inputs: &[Arc<PendingReports>],
    ) -> Result<Vec<Result<Reported, Error>>, Error> {
        let mut tx = self.db.begin().await?;
        let mut batch = Batch::open(&mut tx, inputs).await?;
        let known = batch.read(&mut tx).await?;
        let written = batch.write(&mut tx, &known).await?;
        let changed = batch.remember(&mut tx, inputs).await?;
        if written || changed {
            batch.announce(&mut tx, inputs, &known).await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(batch.outcomes())
    }
}

/// The calls of one transaction.
struct Batch<'a> {
    items: Vec<Item<'a>>,
    /// Why a call is refused as a whole, by its place.
    refused: Vec<Option<Reported>>,
    /// The version that is there now of what was written.
    versions: HashMap<i64, i64>,
}

impl<'a> Batch<'a> {
    /// Learns from when each report counts, and which are refused.
    async fn open(tx: &mut Tx, inputs: &'a [Arc<PendingReports>]) -> Result<Self, Error> {
        let mut batch = Self {
            items: Vec::new(),
            refused: vec![None; inputs.len()],
            versions: HashMap::new(),
        };
        let ids = inputs
            .iter()
            .filter_map(|input| input.reports.inventory.as_deref());
        let ids: BTreeSet<&str> = ids.collect();
        let mut inventories = HashMap::new();
        for id in ids {
            let row: Option<InventoryRow> = tx.statement(&INVENTORY).bind(id).optional().await?;
            inventories.insert(id, row);
        }
        for (call, input) in inputs.iter().enumerate() {
            let Some(id) = input.reports.inventory.as_deref() else {
                let observed = input.reports.observed.iter();
                batch.items.extend(observed.map(|observed| Item {
                    call,
                    observed,
                    observed_us: input.received_us - micros(observed.age),
                    inventory: 0,
                    key: None,
                    outcome: None,
                }));
                continue;
            };
            match inventories.get(id) {
                Some(Some(inventory)) if inventory.state == "running" => {
                    let types: Vec<String> = serde_json::from_str(&inventory.types)
                        .map_err(|_| Error::Corrupt("drift_inventory.types"))?;
                    batch
                        .items
                        .extend(input.reports.observed.iter().map(|observed| {
                            let name = &observed.name;
                            let covered = name.provider == inventory.provider
                                && (types.is_empty() || types.contains(&name.kind));
                            Item {
                                call,
                                observed,
                                observed_us: inventory.start_us,
                                inventory: inventory.key,
                                key: None,
                                outcome: (!covered).then_some(ReportOutcome::OutOfScope),
                            }
                        }));
                }
                Some(Some(_)) => batch.refused[call] = Some(Reported::InventoryEnded),
                _ => batch.refused[call] = Some(Reported::UnknownInventory),
            }
        }
        Ok(batch)
    }

    /// Reads what is known of every resource that is named, and gives numbers to those that are new.
    async fn read(&mut self, tx: &mut Tx) -> Result<HashMap<usize, KnownRow>, Error> {
        let open = |items: &[Item<'_>]| -> Vec<usize> {
            let open = items.iter().enumerate();
            let open = open.filter(|(_, item)| item.outcome.is_none() && item.key.is_none());
            open.map(|(ord, _)| ord).collect()
        };
        let mut known = HashMap::new();
        for round in 0..2 {
            let wanted = open(&self.items);
            if wanted.is_empty() {
                break;
            }
            if round == 1 {
                // What is gone and was never heard of needs no number.
                let new = wanted.iter().filter(|ord| !self.items[**ord].observed.gone);
                let new = new.map(|&ord| Wanted::new(ord, &self.items[ord].observed.name));
                place(tx, &new.collect::<Vec<_>>()).await?;
            }
            for row in read(tx, &self.items, &wanted).await? {
                let ord = usize::try_from(row.ord).unwrap_or(usize::MAX);
                if let Some(item) = self.items.get_mut(ord) {
                    item.key = Some(row.key);
                    known.insert(ord, row);
                }
            }
        }
        for item in &mut self.items {
            if item.key.is_none() && item.outcome.is_none() {
                item.outcome = Some(ReportOutcome::Unchanged);
            }
        }
        Ok(known)
    }

    /// Decides, and writes what is new. Returns whether anything was written.
    async fn write(
        &mut self,
        tx: &mut Tx,
        known: &HashMap<usize, KnownRow>,
    ) -> Result<bool, Error> {
        self.drop_losers();
        self.drop_overtaken(tx).await?;
        let (mut writes, mut touches) = (Vec::new(), Vec::new());
        for (ord, item) in self.items.iter_mut().enumerate() {
            let (None, Some(row)) = (item.outcome, known.get(&ord)) else {
                continue;
            };
            let (decision, misses) = (decide(item, row), if item.observed.gone { 2 } else { 0 });
            let write = Write {
                key: row.key,
                observed_us: item.observed_us,
                inventory: item.inventory,
                misses,
                transition: &item.observed.transition,
                digest: &item.observed.digest,
                attributes: &item.observed.attributes,
            };
            match decision {
                Decision::Nothing(outcome) => item.outcome = Some(outcome),
                Decision::Touch => {
                    item.outcome = Some(ReportOutcome::Unchanged);
                    touches.push(write);
                }
                Decision::Write(outcome) => {
                    item.outcome = Some(outcome);
                    writes.push(write);
                }
            }
        }
        if writes.is_empty() && touches.is_empty() {
            return Ok(false);
        }
        writes.sort_unstable_by_key(|write| write.key);
        touches.sort_unstable_by_key(|touch| touch.key);
        let written = write(tx, &writes).await?;
        self.versions = written
            .into_iter()
            .map(|row| (row.key, row.version))
            .collect();
        touch(tx, &touches).await?;
        let written = self.versions.keys().copied();
        let due = written.chain(touches.iter().map(|touch| touch.key));
        let mut due: Vec<Due> = due.map(Due::now).collect();
        due.sort_unstable();
        due::mark(tx, &due).await?;
        // What was overtaken between the reading and the writing.
        for item in &mut self.items {
            let wrote = matches!(
                item.outcome,
                Some(ReportOutcome::First | ReportOutcome::Changed)
            );
            if wrote && item.key.is_none_or(|key| !self.versions.contains_key(&key)) {
                item.outcome = Some(ReportOutcome::Outdated);
            }
        }
        Ok(true)
    }

    /// Of several observations of one resource the newest stays, and of equally new ones the last.
    fn drop_losers(&mut self) {
        let mut newest: HashMap<i64, usize> = HashMap::new();
        for ord in 0..self.items.len() {
            let (Some(key), None) = (self.items[ord].key, self.items[ord].outcome) else {
                continue;
            };
            let before = newest.insert(key, ord);
            if let Some(before) = before {
                let loser = if self.items[before].observed_us > self.items[ord].observed_us {
                    newest.insert(key, before);
                    ord
                } else {
                    before
                };
                self.items[loser].outcome = Some(ReportOutcome::Outdated);
            }
        }
    }

    /// A later inventory that saw a resource as it was known wrote nothing of it: what is older than that is outdated all the same.
    async fn drop_overtaken(&mut self, tx: &mut Tx) -> Result<(), Error> {
        let mut oldest: HashMap<&str, i64> = HashMap::new();
        for item in self.items.iter().filter(|item| item.outcome.is_none()) {
            let provider = item.observed.name.provider.as_str();
            let oldest = oldest.entry(provider).or_insert(item.observed_us);
            *oldest = item.observed_us.min(*oldest);
        }
        for (provider, oldest) in oldest {
            let later = tx.statement(&LATER).bind(provider).bind(oldest);
            let later: Vec<LaterRow> = later.all().await?;
            for inventory in later {
                let earlier = |item: &Item<'_>| {
                    item.outcome.is_none()
                        && item.observed_us < inventory.start_us
                        && item.observed.name.provider == provider
                };
                let items = self.items.iter().filter(|item| earlier(item));
                let keys: BTreeSet<i64> = items.filter_map(|item| item.key).collect();
                let keys: Vec<i64> = keys.into_iter().collect();
                let seen = seen::seen_of(tx, inventory.key, &keys).await?;
                for item in &mut self.items {
                    if earlier(item) && item.key.is_some_and(|key| seen.contains(key)) {
                        item.outcome = Some(ReportOutcome::Outdated);
                    }
                }
            }
        }
        Ok(())
    }

    /// Leaves what each call named within its inventory. Returns whether there was anything.
    async fn remember(&self, tx: &mut Tx, inputs: &[Arc<PendingReports>]) -> Result<bool, Error> {
        let mut any = false;
        for (call, items) in self.calls(inputs.len()) {
            let Some(inventory) = items.first().map(|item| item.inventory) else {
                continue;
            };
            if inventory == 0 {
                continue;
            }
            let there = items.iter().filter(|item| !item.observed.gone);
            let keys = there.filter_map(|item| item.key.filter(|_| item.is_covered()));
            let keys: BTreeSet<i64> = keys.collect();
            let keys: Vec<i64> = keys.into_iter().collect();
            let changed = count(items.iter().filter(|item| item.is_new()).count());
            seen::add(tx, inventory, &inputs[call].write_id, &keys, changed).await?;
            any |= !keys.is_empty();
        }
        Ok(any)
    }

    /// Adds events and revisions: one for each call that changed something.
    async fn announce(
        &self,
        tx: &mut Tx,
        inputs: &[Arc<PendingReports>],
        known: &HashMap<usize, KnownRow>,
    ) -> Result<(), Error> {
        let (mut events, mut entries) = (Vec::new(), Vec::new());
        let mut changes: Vec<Vec<Change>> = inputs.iter().map(|_| Vec::new()).collect();
        for (ord, item) in self.items.iter().enumerate() {
            let (Some(row), true) = (known.get(&ord), item.is_new()) else {
                continue;
            };
            let version = self.versions.get(&row.key).copied().unwrap_or(0);
            changes[item.call].push(resource::change(&item.observed.name, row.writes, version));
            let was_there =
                row.version.is_some() && row.misses != Some(2) && row.blank != Some(true);
            let kind = match (item.observed.gone, was_there) {
                (true, _) => "gone",
                (false, false) => "appeared",
                (false, true) => continue,
            };
            events.push(NewEvent {
                key: row.key,
                kind,
                ..NewEvent::default()
            });
        }
        event::add(tx, &events).await?;
        for (input, changes) in inputs.iter().zip(&changes) {
            if !changes.is_empty() {
                entries.push(NewEntry {
                    ord: entries.len(),
                    mark: Mark::random().to_sql(),
                    write_id: input.write_id.clone(),
                    origin: String::new(),
                    changes: log::encode_changes(changes),
                });
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        log::append_all(tx, &entries).await
    }

    fn calls(&self, calls: usize) -> impl Iterator<Item = (usize, &[Item<'a>])> {
        // Items lie in the order of their calls.
        let mut rest = self.items.as_slice();
        (0..calls).map(move |call| {
            let end = rest.partition_point(|item| item.call <= call);
            let (own, others) = rest.split_at(end);
            rest = others;
            (call, own)
        })
    }

    fn outcomes(mut self) -> Vec<Result<Reported, Error>> {
        let refused = std::mem::take(&mut self.refused);
        let calls = self.calls(refused.len());
        let outcome = |item: &Item<'_>| item.outcome.unwrap_or(ReportOutcome::Outdated);
        calls
            .zip(refused)
            .map(|((_, items), refused)| {
                Ok(refused.unwrap_or_else(|| Reported::Done(items.iter().map(outcome).collect())))
            })
            .collect()
    }
}

// === impl Item ===

impl Item<'_> {
    fn is_new(&self) -> bool {
        matches!(
            self.outcome,
            Some(ReportOutcome::First | ReportOutcome::Changed)
        )
    }

    fn is_covered(&self) -> bool {
        self.outcome != Some(ReportOutcome::OutOfScope)
    }
}

/// What an observation means, given what is known.
fn decide(item: &Item<'_>, row: &KnownRow) -> Decision {
    let (Some(observed_us), Some(misses)) = (row.observed_us, row.misses) else {
        return if item.observed.gone {
            Decision::Nothing(ReportOutcome::Unchanged)
        } else {
            Decision::Write(ReportOutcome::First)
        };
    };
    if item.observed_us < observed_us.max(row.missed_us.unwrap_or(0)) {
        return Decision::Nothing(ReportOutcome::Outdated);
    }
    if item.observed.gone != (misses == 2) || misses == 1 || row.same != Some(true) {
        let first = row.blank == Some(true) && misses < 2;
        return match (item.observed.gone, misses) {
            // Gone already, whatever was last known of it.
            (true, 2) => freshen(item, row, observed_us),
            _ if first => Decision::Write(ReportOutcome::First),
            _ => Decision::Write(ReportOutcome::Changed),
        };
    }
    freshen(item, row, observed_us)
}

/// Moves the time if what is known does not count as it is.
fn freshen(item: &Item<'_>, row: &KnownRow, observed_us: i64) -> Decision {
    let applied = row.applied_us.filter(|_| row.recorded);
    let stale = applied.is_some_and(|applied| observed_us <= applied && item.observed_us > applied);
    let own = row.inventory == Some(item.inventory);
    let unsettled = match row.inventory {
        Some(0) | None => false,
        // An inventory that failed and is no longer kept.
        Some(key) if key < 0 => true,
        Some(_) => matches!(row.inventory_state.as_deref(), Some("running" | "failed")),
    };
    if stale || (unsettled && !own) {
        Decision::Touch
    } else {
        Decision::Nothing(ReportOutcome::Unchanged)
    }
}

async fn read(tx: &mut Tx, items: &[Item<'_>], wanted: &[usize]) -> Result<Vec<KnownRow>, Error> {
    let asked: Vec<Asked<'_>> = wanted
        .iter()
        .map(|&ord| {
            let observed = items[ord].observed;
            Asked {
                ord: count(ord),
                provider: &observed.name.provider,
                kind: &observed.name.kind,
                id: &observed.name.id,
                digest: &observed.digest,
                transition: &observed.transition,
            }
        })
        .collect();
    let read = match tx.engine() {
        Engine::Postgres => tx
            .statement(&READ)
            .bind_column::<i64>(asked.iter().map(|asked| asked.ord).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.provider).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.kind).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.id).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.digest).collect())
            .bind_column::<&str>(asked.iter().map(|asked| asked.transition).collect()),
        Engine::Sqlite => tx.statement(&READ).bind(json(&asked)?),
    };
    read.all().await
}

async fn write(tx: &mut Tx, writes: &[Write<'_>]) -> Result<Vec<WrittenRow>, Error> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let written = match tx.engine() {
        Engine::Postgres => tx
            .statement(&WRITE)
            .bind_column::<i64>(writes.iter().map(|write| write.key).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.observed_us).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.inventory).collect())
            .bind_column::<i64>(writes.iter().map(|write| write.misses).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.transition).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.digest).collect())
            .bind_column::<&str>(writes.iter().map(|write| write.attributes).collect()),
        Engine::Sqlite => tx.statement(&WRITE).bind(json(writes)?),
    };
    written.all().await
}

async fn touch(tx: &mut Tx, touches: &[Write<'_>]) -> Result<(), Error> {
    if touches.is_empty() {
        return Ok(());
    }
    let touched = match tx.engine() {
        Engine::Postgres => tx
            .statement(&TOUCH)
            .bind_column::<i64>(touches.iter().map(|touch| touch.key).collect())
            .bind_column::<i64>(touches.iter().map(|touch| touch.observed_us).collect())
            .bind_column::<i64>(touches.iter().map(|touch| touch.inventory).collect()),
        Engine::Sqlite => tx.statement(&TOUCH).bind(json(touches)?),
    };
    touched.execute().await?;
    Ok(())
}
