//! One transaction of reports: what is known of the resources that they name, what is written, and what each call is told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use steadfast_types::Mark;

use super::{
    super::{
        count,
        due::{self, Due},
        record::{Wanted, place},
        resource, seen,
        told::{self, Told},
    },
    Observed, PendingReports, ReportOutcome, Reported,
    decide::{Decision, Look, decide},
    rows::{self, Asked, KnownRow, Write},
};
use crate::{
    Change, Error,
    engine::Tx,
    lease::micros,
    log::{self, NewEntry},
};

/// One report of a batch.
pub(super) struct Item<'a> {
    call: usize,
    pub(super) observed: &'a Observed,
    pub(super) observed_us: i64,
    /// 0 for none.
    pub(super) inventory: i64,
    key: Option<i64>,
    outcome: Option<ReportOutcome>,
    /// The row was written, or its time moved.
    wrote: bool,
    /// It may have come, or gone, as far as was ever told.
    is_news: bool,
}

/// The calls of one transaction.
pub(super) struct Batch<'a> {
    items: Vec<Item<'a>>,
    /// Why a call is refused as a whole, by its place.
    refused: Vec<Option<Reported>>,
    /// The version that is there now of what was written.
    versions: HashMap<i64, i64>,
}

// === impl Batch ===

impl<'a> Batch<'a> {
    /// Learns from when each report counts, and which are refused.
    pub(super) async fn open(
        tx: &mut Tx,
        inputs: &'a [Arc<PendingReports>],
    ) -> Result<Self, Error> {
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
            inventories.insert(id, rows::inventory(tx, id).await?);
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
                    wrote: false,
                    is_news: false,
                }));
                continue;
            };
            match inventories.get(id) {
                Some(Some(inventory)) if inventory.is_open => {
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
                                wrote: false,
                                is_news: false,
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
    pub(super) async fn read(&mut self, tx: &mut Tx) -> Result<HashMap<usize, KnownRow>, Error> {
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
            let asked: Vec<Asked<'_>> = wanted
                .iter()
                .map(|&ord| self.items[ord].asked(ord))
                .collect();
            for row in rows::read(tx, &asked).await? {
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
    pub(super) async fn write(
        &mut self,
        tx: &mut Tx,
        known: &HashMap<usize, KnownRow>,
    ) -> Result<bool, Error> {
        self.drop_losers();
        let looks = self.looks(tx).await?;
        self.drop_overtaken(tx, &looks).await?;
        let (mut writes, mut due, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (ord, item) in self.items.iter_mut().enumerate() {
            let (None, Some(row)) = (item.outcome, known.get(&ord)) else {
                continue;
            };
            let of = looks.get(&item.observed.name.provider);
            let decision = decide(item, row, of.map_or(&[], Vec::as_slice));
            let (outcome, version) = match decision {
                Decision::Nothing(outcome) => {
                    item.outcome = Some(outcome);
                    continue;
                }
                Decision::Touch { is_due } => {
                    due.extend(is_due.then(|| Due::now(row.key)));
                    (ReportOutcome::Unchanged, 0)
                }
                Decision::Write(outcome) => (outcome, 1),
            };
            item.outcome = Some(outcome);
            (item.wrote, item.is_news) = (true, row.may_be_told(!item.observed.gone));
            if row.is_forgettable() {
                held.push(row.key);
            }
            let observed = item.observed;
            writes.push(Write {
                key: row.key,
                version,
                observed_us: item.observed_us,
                inventory: item.inventory,
                misses: if observed.gone { 2 } else { 0 },
                transition: &observed.transition,
                digest: &observed.digest,
                attributes: if version == 0 {
                    ""
                } else {
                    &observed.attributes
                },
            });
        }
        if writes.is_empty() {
            return Ok(false);
        }
        writes.sort_unstable_by_key(|write| write.key);
        held.sort_unstable();
        rows::hold(tx, held).await?;
        let written = rows::write(tx, &writes).await?;
        self.versions = written
            .into_iter()
            .map(|row| (row.key, row.version))
            .collect();
        let news = writes.iter().filter(|write| write.version > 0);
        let news = news.filter(|write| self.versions.contains_key(&write.key));
        due.extend(news.map(|write| Due::now(write.key)));
        due.sort_unstable();
        due::mark(tx, &due).await?;
        // What was overtaken between the reading and the writing.
        for item in &mut self.items {
            if item.wrote && item.key.is_none_or(|key| !self.versions.contains_key(&key)) {
                item.outcome = Some(ReportOutcome::Outdated);
                (item.wrote, item.is_news) = (false, false);
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

    /// The inventories that bear on what is reported, by provider.
    async fn looks(&self, tx: &mut Tx) -> Result<HashMap<String, Vec<Look>>, Error> {
        let mut oldest: HashMap<&str, i64> = HashMap::new();
        for item in self.items.iter().filter(|item| item.outcome.is_none()) {
            let provider = item.observed.name.provider.as_str();
            let oldest = oldest.entry(provider).or_insert(item.observed_us);
            *oldest = item.observed_us.min(*oldest);
        }
        let mut looks = HashMap::new();
        for (provider, oldest) in oldest {
            let rows = rows::looks(tx, provider, oldest).await?;
            let of = rows.into_iter().map(Look::try_from);
            looks.insert(provider.to_owned(), of.collect::<Result<_, _>>()?);
        }
        Ok(looks)
    }

    /// A later inventory that saw a resource as it was known wrote nothing of it: what is older than that is outdated all the same.
    async fn drop_overtaken(
        &mut self,
        tx: &mut Tx,
        looks: &HashMap<String, Vec<Look>>,
    ) -> Result<(), Error> {
        for (provider, looks) in looks {
            for look in looks {
                let earlier = |item: &Item<'_>| {
                    item.outcome.is_none()
                        && item.observed_us < look.start_us
                        && item.observed.name.provider == *provider
                };
                let items = self.items.iter().filter(|item| earlier(item));
                let keys: BTreeSet<i64> = items.filter_map(|item| item.key).collect();
                let keys: Vec<i64> = keys.into_iter().collect();
                let seen = seen::seen_of(tx, look.key, &keys).await?;
                for item in &mut self.items {
                    if earlier(item) && item.key.is_some_and(|key| seen.contains(key)) {
                        item.outcome = Some(ReportOutcome::Outdated);
                    }
                }
            }
        }
        Ok(())
    }

    /// Leaves what each call did within its inventory. Returns whether there was anything.
    pub(super) async fn remember(
        &self,
        tx: &mut Tx,
        inputs: &[Arc<PendingReports>],
    ) -> Result<bool, Error> {
        let mut any = false;
        for (call, items) in self.calls(inputs.len()) {
            let Some(inventory) = items.first().map(|item| item.inventory) else {
                continue;
            };
            if inventory == 0 {
                continue;
            }
            let keys = |which: fn(&Item<'_>) -> bool| -> Vec<i64> {
                let keys = items.iter().filter(|item| which(item));
                let keys: BTreeSet<i64> = keys.filter_map(|item| item.key).collect();
                keys.into_iter().collect()
            };
            let did = seen::Call {
                saw: keys(|item| !item.observed.gone && item.is_covered()),
                wrote: keys(|item| item.wrote),
                news: keys(|item| item.is_news),
                changed: count(items.iter().filter(|item| item.is_new()).count()),
            };
            if did.saw.is_empty() && did.wrote.is_empty() {
                continue;
            }
            seen::add(tx, inventory, &inputs[call].write_id, &did).await?;
            any = true;
        }
        Ok(any)
    }

    /// Tells what came and what went, as far as that is certain, and adds revisions: one for each call that changed something.
    pub(super) async fn announce(
        &self,
        tx: &mut Tx,
        inputs: &[Arc<PendingReports>],
        known: &HashMap<usize, KnownRow>,
    ) -> Result<(), Error> {
        let mut entries = Vec::new();
        let mut changes: Vec<Vec<Change>> = inputs.iter().map(|_| Vec::new()).collect();
        for (ord, item) in self.items.iter().enumerate() {
            let (Some(row), true) = (known.get(&ord), item.is_new()) else {
                continue;
            };
            let version = self.versions.get(&row.key).copied().unwrap_or(0);
            changes[item.call].push(resource::change(&item.observed.name, row.writes, version));
        }
        // What an inventory found is certain when that is complete.
        let certain = self.items.iter().filter(|item| item.inventory == 0);
        let news = certain.filter(|item| item.is_news).filter_map(|item| {
            Some(Told {
                key: item.key?,
                is_there: !item.observed.gone,
            })
        });
        let mut news: Vec<Told> = news.collect();
        news.sort_unstable();
        told::tell(tx, &news).await?;
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
        log::append_all(tx, &entries).await.map(drop)
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

    pub(super) fn outcomes(mut self) -> Vec<Result<Reported, Error>> {
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
    fn asked(&self, ord: usize) -> Asked<'_> {
        let observed = self.observed;
        Asked {
            ord: count(ord),
            provider: &observed.name.provider,
            kind: &observed.name.kind,
            id: &observed.name.id,
            digest: &observed.digest,
            transition: &observed.transition,
        }
    }

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
