//! Recording what was asked for, in batches: one transaction for all that arrive together, and a revision for each.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    ResourceName,
    clock::{self, tick},
    due::{self, Due},
    event::{self, NewEvent},
    json, resource,
};
use crate::{
    Engine, Error, Store,
    engine::{Db, Tx, statements},
    log,
    pipeline::Kind,
};

statements! {
    /// The numbers of resources.
    KEYS = "drift_record_keys" => [
        postgres {
            "SELECT e.ord, r.key FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS e(ord, provider, type, id) \
             CROSS JOIN LATERAL (SELECT r.key FROM drift_resource r WHERE r.provider = e.provider COLLATE \"C\" \
                 AND r.type = e.type COLLATE \"C\" AND r.id = e.id COLLATE \"C\" LIMIT 1) r"
        }
        sqlite {
            "SELECT e.value ->> 'ord' AS ord, r.key FROM json_each($1) e CROSS JOIN drift_resource r \
             ON r.provider = e.value ->> 'provider' AND r.type = e.value ->> 'kind' AND r.id = e.value ->> 'id'"
        }
    ];
    /// Gives numbers to those that have none, in order of their names.
    PLACE = "drift_record_place" => [
        postgres {
            "INSERT INTO drift_resource (writes, spec_version, recorded_us, applied_us, recorded, provider, type, id, labels, \
                 recorded_by, saga_id, last_write, spec) \
             SELECT 0, 0, 0, NULL, false, e.provider, e.type, e.id, '{}', '', '', '', '' \
             FROM unnest($1::text[], $2::text[], $3::text[]) AS e(provider, type, id) \
             ORDER BY e.provider COLLATE \"C\", e.type COLLATE \"C\", e.id COLLATE \"C\" ON CONFLICT (provider, type, id) DO NOTHING"
        }
        sqlite {
            "INSERT INTO drift_resource (writes, spec_version, recorded_us, applied_us, recorded, provider, type, id, labels, \
                 recorded_by, saga_id, last_write, spec) \
             SELECT 0, 0, 0, NULL, false, e.value ->> 'provider', e.value ->> 'kind', e.value ->> 'id', '{}', '', '', '', '' \
             FROM json_each($1) e WHERE true ON CONFLICT (provider, type, id) DO NOTHING"
        }
    ];
    /// Locks resources, in order of their numbers, and reads them.
    LOCK = "drift_record_lock" => [
        postgres {
            "SELECT r.key, r.writes, r.spec_version, r.recorded, r.applied_us IS NULL AS pending, r.labels, r.last_write, r.spec, \
                    coalesce((SELECT l.version FROM drift_live l WHERE l.key = r.key), 0) AS live_version \
             FROM drift_resource r WHERE r.key = ANY ($1::bigint[]) ORDER BY r.key FOR UPDATE"
        }
        sqlite {
            "SELECT r.key, r.writes, r.spec_version, r.recorded, r.applied_us IS NULL AS pending, r.labels, r.last_write, r.spec, \
                    coalesce((SELECT l.version FROM drift_live l WHERE l.key = r.key), 0) AS live_version \
             FROM json_each($1) e CROSS JOIN drift_resource r ON r.key = e.value ORDER BY r.key"
        }
    ];
    /// Writes what was decided.
    WRITE = "drift_record_write" => [
        postgres {
            "UPDATE drift_resource r SET writes = r.writes + 1, spec_version = e.version, \
                 recorded_us = CASE WHEN e.spec_changed THEN $10 ELSE r.recorded_us END, \
                 applied_us = CASE WHEN e.pending THEN NULL ELSE $10 END, recorded = true, labels = e.labels, \
                 recorded_by = e.recorded_by, saga_id = e.saga_id, last_write = e.write_id, spec = e.spec \
             FROM unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[]) AS e(key, version, spec_changed, pending, labels, recorded_by, saga_id, write_id, spec) \
             WHERE r.key = e.key AND r.key = ANY ($1::bigint[])"
        }
        sqlite {
            "UPDATE drift_resource SET writes = drift_resource.writes + 1, spec_version = e.value ->> 'version', \
                 recorded_us = CASE WHEN e.value ->> 'spec_changed' THEN $2 ELSE drift_resource.recorded_us END, \
                 applied_us = CASE WHEN e.value ->> 'pending' THEN NULL ELSE $2 END, recorded = true, \
                 labels = e.value ->> 'labels', recorded_by = e.value ->> 'recorded_by', saga_id = e.value ->> 'saga_id', \
                 last_write = e.value ->> 'write_id', spec = e.value ->> 'spec' \
             FROM json_each($1) e WHERE drift_resource.key = e.value ->> 'key'"
        }
    ];
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Of which resource.
    pub name: ResourceName,
    /// Canonical JSON: equal texts are equal specs.
    pub spec: String,
    /// Canonical JSON, text to text.
    pub labels: String,
    /// Who asks.
    pub recorded_by: String,
    /// The saga that does; empty for none.
    pub saga_id: String,
    /// It is not applied yet.
    pub pending: bool,
    /// Refuse if the version is another one; 0 if anybody recorded it.
    pub expected_version: Option<i64>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is so now.
    Done {
        /// The version of the spec.
        version: i64,
        /// The spec or the labels are new.
        changed: bool,
    },
    /// The version is another one.
    Changed {
        /// This one; 0 if nobody recorded it.
        version: i64,
    },
}

/// A record on its way through the pipeline.
pub(crate) struct PendingRecord {
    write_id: String,
    record: NewRecord,
}

/// Commits batches of records.
pub(crate) struct Records {
    pub(crate) db: Db,
}

/// A resource without a number, or to be given one.
#[derive(Serialize)]
pub(super) struct Wanted<'a> {
    pub(super) ord: i64,
    pub(super) provider: &'a str,
    pub(super) kind: &'a str,
    pub(super) id: &'a str,
}

#[derive(FromRow)]
struct OrdRow {
    ord: i64,
    key: i64,
}

#[derive(FromRow)]
struct HeldRow {
    key: i64,
    writes: i64,
    spec_version: i64,
    recorded: bool,
    pending: bool,
    labels: String,
    last_write: String,
    spec: String,
    live_version: i64,
}

#[derive(Serialize)]
struct Write<'a> {
    key: i64,
    version: i64,
    spec_changed: bool,
    pending: bool,
    labels: &'a str,
    recorded_by: &'a str,
    saga_id: &'a str,
    write_id: &'a str,
    spec: &'a str,
}

impl Store {
    /// Records what was asked for, together with whatever else is being recorded. The same again counts as applied again.
    ///
    /// # Errors
    /// [`Error::Overloaded`], or if the database does not answer.
    pub async fn record_resource(&self, record: NewRecord) -> Result<Recorded, Error> {
        let pending = PendingRecord {
            write_id: Uuid::now_v7().to_string(),
            record,
        };
        self.drift_records().submit(pending).await
    }
}

/// The numbers of resources, by the place of each in `wanted`.
pub(super) async fn keys_of(
    tx: &mut Tx,
    wanted: &[Wanted<'_>],
) -> Result<HashMap<i64, i64>, Error> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let found = match tx.engine() {
        Engine::Postgres => {
            let text = |of: fn(&Wanted<'_>) -> String| wanted.iter().map(of).collect();
            tx.statement(&KEYS)
                .bind_column::<i64>(wanted.iter().map(|wanted| wanted.ord).collect())
                .bind_column::<String>(text(|wanted| wanted.provider.to_owned()))
                .bind_column::<String>(text(|wanted| wanted.kind.to_owned()))
                .bind_column::<String>(text(|wanted| wanted.id.to_owned()))
        }
        Engine::Sqlite => tx.statement(&KEYS).bind(json(wanted)?),
    };
    let found: Vec<OrdRow> = found.all().await?;
    Ok(found.into_iter().map(|row| (row.ord, row.key)).collect())
}

/// Gives numbers to resources that have none.
pub(super) async fn place(tx: &mut Tx, wanted: &[Wanted<'_>]) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let placed = match tx.engine() {
        Engine::Postgres => {
            let text = |of: fn(&Wanted<'_>) -> String| wanted.iter().map(of).collect();
            tx.statement(&PLACE)
                .bind_column::<String>(text(|wanted| wanted.provider.to_owned()))
                .bind_column::<String>(text(|wanted| wanted.kind.to_owned()))
                .bind_column::<String>(text(|wanted| wanted.id.to_owned()))
        }
        Engine::Sqlite => tx.statement(&PLACE).bind(json(wanted)?),
    };
    placed.execute().await?;
    Ok(())
}

impl<'a> Wanted<'a> {
    pub(super) fn new(ord: usize, name: &'a ResourceName) -> Self {
        Self {
            ord: super::count(ord),
            provider: &name.provider,
            kind: &name.kind,
            id: &name.id,
        }
    }
}

// === impl Records ===

impl Kind for Records {
    type Input = PendingRecord;
    type Output = Recorded;

    const NAME: &'static str = "drift_record";

    fn conflict_key(input: &PendingRecord) -> Option<String> {
        Some(input.record.name.to_string())
    }

    fn size(input: &PendingRecord) -> usize {
        input.record.spec.len() + input.record.labels.len() + 256
    }

    async fn commit(
        &self,
        inputs: &[Arc<PendingRecord>],
    ) -> Result<Vec<Result<Recorded, Error>>, Error> {
        let mut tx = self.db.begin().await?;
        let providers = inputs
            .iter()
            .map(|input| input.record.name.provider.as_str());
        clock::apply(&mut tx, providers.collect()).await?;
        let held = hold(&mut tx, inputs).await?;
        let (mut writes, mut revisions, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let mut outcomes = Vec::with_capacity(inputs.len());
        for (input, held) in inputs.iter().zip(&held) {
            let decided = decide(input, held);
            if let Some(write) = &decided.write {
                let change =
                    resource::change(&input.record.name, held.writes + 1, held.live_version);
                revisions.push(vec![change]);
                let (kind, detail) = match (decided.changed, write.pending) {
                    (true, false) => ("recorded", format!("{{\"version\":{}}}", write.version)),
                    (true, true) => (
                        "recorded",
                        format!("{{\"version\":{},\"pending\":true}}", write.version),
                    ),
                    (false, false) => ("applied", String::new()),
                    (false, true) => ("applied", "{\"pending\":true}".to_owned()),
                };
                events.push(NewEvent {
                    key: held.key,
                    kind,
                    actor: &input.record.recorded_by,
                    detail,
                    ..NewEvent::default()
                });
            }
            writes.extend(decided.write);
            outcomes.push(Ok(decided.outcome));
        }
        if writes.is_empty() {
            tx.rollback().await?;
            return Ok(outcomes);
        }
        writes.sort_unstable_by_key(|write| write.key);
        let mut due: Vec<Due> = writes.iter().map(|write| Due::now(write.key)).collect();
        due.sort_unstable();
        let now_us = tick(&mut tx).await?;
        write(&mut tx, &writes, now_us).await?;
        due::mark(&mut tx, &due).await?;
        event::add(&mut tx, &events).await?;
        log::append_each(&mut tx, &revisions).await?;
        tx.commit().await?;
        Ok(outcomes)
    }
}

/// What was decided about one record.
struct Decided<'a> {
    outcome: Recorded,
    changed: bool,
    write: Option<Write<'a>>,
}

fn decide<'a>(input: &'a PendingRecord, held: &HeldRow) -> Decided<'a> {
    let record = &input.record;
    let version = if held.recorded { held.spec_version } else { 0 };
    let nothing = |outcome| Decided {
        outcome,
        changed: false,
        write: None,
    };
    if held.last_write == input.write_id {
        // It was committed, and its answer was lost; whether anything in it was new is no longer known.
        return nothing(Recorded::Done {
            version,
            changed: true,
        });
    }
    if record
        .expected_version
        .is_some_and(|expected| expected != version)
    {
        return nothing(Recorded::Changed { version });
    }
    let spec_changed = !held.recorded || held.spec != record.spec;
    let changed = spec_changed || held.labels != record.labels;
    let outcome = Recorded::Done {
        version: held.spec_version + i64::from(spec_changed),
        changed,
    };
    if !changed && record.pending && held.pending {
        return nothing(outcome);
    }
    Decided {
        outcome,
        changed,
        write: Some(Write {
            key: held.key,
            version: held.spec_version + i64::from(spec_changed),
            spec_changed,
            pending: record.pending,
            labels: &record.labels,
            recorded_by: &record.recorded_by,
            saga_id: &record.saga_id,
            write_id: &input.write_id,
            spec: &record.spec,
        }),
    }
}

/// Finds the resources, gives numbers to those that are new, and locks them all. In the order of the inputs.
async fn hold(tx: &mut Tx, inputs: &[Arc<PendingRecord>]) -> Result<Vec<HeldRow>, Error> {
    let wanted = |ord: usize| Wanted::new(ord, &inputs[ord].record.name);
    let all: Vec<Wanted<'_>> = (0..inputs.len()).map(wanted).collect();
    let mut keys = keys_of(tx, &all).await?;
    let without = |keys: &HashMap<i64, i64>, ord: &i64| !keys.contains_key(ord);
    let missing = all.iter().filter(|wanted| without(&keys, &wanted.ord));
    let missing: Vec<Wanted<'_>> = missing
        .filter_map(|missing| usize::try_from(missing.ord).ok())
        .map(wanted)
        .collect();
    place(tx, &missing).await?;
    keys.extend(keys_of(tx, &missing).await?);
    let numbers: Vec<i64> = keys.values().copied().collect();
    let held = match tx.engine() {
        Engine::Postgres => tx.statement(&LOCK).bind_column(numbers),
        Engine::Sqlite => tx.statement(&LOCK).bind(json(&numbers)?),
    };
    let held: Vec<HeldRow> = held.all().await?;
    let mut by_key: BTreeMap<i64, HeldRow> = held.into_iter().map(|row| (row.key, row)).collect();
    let mut ordered = Vec::with_capacity(inputs.len());
    for ord in 0..inputs.len() {
        let key = keys.get(&super::count(ord));
        let row = key.and_then(|key| by_key.remove(key));
        // It was forgotten between the two.
        ordered.push(row.ok_or_else(|| Error::overtaken(LOCK.name))?);
    }
    Ok(ordered)
}

async fn write(tx: &mut Tx, writes: &[Write<'_>], now_us: i64) -> Result<(), Error> {
    fn column<'a, T>(writes: &'a [Write<'_>], of: impl Fn(&'a Write<'_>) -> T) -> Vec<T> {
        writes.iter().map(of).collect()
    }
    let written = match tx.engine() {
        Engine::Postgres => tx
            .statement(&WRITE)
            .bind_column(column(writes, |write| write.key))
            .bind_column(column(writes, |write| write.version))
            .bind_column(column(writes, |write| write.spec_changed))
            .bind_column(column(writes, |write| write.pending))
            .bind_column(column(writes, |write| write.labels))
            .bind_column(column(writes, |write| write.recorded_by))
            .bind_column(column(writes, |write| write.saga_id))
            .bind_column(column(writes, |write| write.write_id))
            .bind_column(column(writes, |write| write.spec)),
        Engine::Sqlite => tx.statement(&WRITE).bind(json(writes)?),
    };
    let written = written.bind(now_us);
    written.execute().await?;
    Ok(())
}
